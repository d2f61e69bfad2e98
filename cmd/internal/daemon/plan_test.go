package daemon

import (
	"testing"

	"pierfs/cmd/internal/control"
)

// Nothing is tested in an environment that nobody has named.
// Holds row 40 of the requirements.
func TestTestNeedsAnEnvironment(t *testing.T) {
	s := newStage(t)
	s.write("pierfs.toml", "activeEnvironments = []\n")
	s.define("one")
	s.start()
	test := func(environment string) (err error) {
		for _, e := range control.Test.Call(t.Context(), s.client, control.TestRequest{Name: "one", Environment: environment}) {
			err = e
		}
		return err
	}
	wantCode(t, "no environment, and none is active", test(""), control.Usage)
	wantCode(t, "an environment that is not there", test("Moon"), control.UnknownEnvironment)
	if err := test("Test"); err != nil {
		t.Errorf("in environment Test: %v", err)
	}
}

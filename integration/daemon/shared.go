package daemon

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
)

// Shared are programs that the tests of a package have in common: built when the first of them asks, removed behind the last.
type Shared struct {
	flags    []string
	once     sync.Once
	programs Programs
	err      error
}

// Share returns programs to be built with these flags of go build. Main removes them.
func Share(flags ...string) *Shared { return &Shared{flags: flags} }

// Programs are those programs.
func (s *Shared) Programs() (Programs, error) {
	s.once.Do(func() { s.programs, s.err = Build(s.flags...) })
	return s.programs, s.err
}

// remove takes them away, if anybody has asked for them.
func (s *Shared) remove() error {
	s.once.Do(func() {})
	if s.programs.Dir == "" {
		return nil
	}
	return os.RemoveAll(s.programs.Dir)
}

// Main runs the tests of a package and removes what they shared. Tests that wait for servers and timeouts more than they work say how
// many of them run at a time; 0 leaves that to go test. The result is for os.Exit.
func Main(m *testing.M, parallel int, all ...*Shared) (code int) {
	flag.Parse()
	if parallel > 0 {
		if err := flag.Set("test.parallel", strconv.Itoa(parallel)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	code = m.Run()
	for _, s := range all {
		if err := s.remove(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	return code
}

package dial

import (
	"strings"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/conncfg"
)

// Holds row 81 of the requirements: a test tells the least, the middle and the longest round trip, proposes timeouts that go with them, and warns
// where those of the definition are less than ten of them.
func TestTimeoutsAreProposedByRoundTrips(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		what            string
		trips           backends.Trips
		slowest         time.Duration
		timeout         time.Duration
		connect, socket time.Duration
		warns           bool
	}{
		{"near", backends.Trips{ms, 2 * ms, 9 * ms}, 100 * ms, 30 * time.Second, 30 * time.Second, 30 * time.Second, false},
		{"a slow login", backends.Trips{ms, 2 * ms, 9 * ms}, 8 * time.Second, 30 * time.Second, 40 * time.Second, 30 * time.Second, false},
		{"far", backends.Trips{600 * ms, 800 * ms, 3200 * ms}, time.Second, 30 * time.Second, 35 * time.Second, 35 * time.Second, true},
		{"beyond all", backends.Trips{time.Minute}, time.Second, 30 * time.Second, 120 * time.Second, 120 * time.Second, true},
	} {
		p := patience{of: conncfg.Target{ConnectTimeout: c.timeout, SocketTimeout: c.timeout}, slowest: c.slowest}
		s := p.judge(Step{Name: "roundTrip", Trips: c.trips})
		if s.Proposed != (Timeouts{c.connect, c.socket}) {
			t.Errorf("%s: proposed %+v, want %v and %v", c.what, s.Proposed, c.connect, c.socket)
		}
		if (s.Warning != "") != c.warns || c.warns && (!strings.Contains(s.Warning, "connectTimeout is 30s and socketTimeout is 30s") || !strings.Contains(s.Warning, "ten")) {
			t.Errorf("%s: warning %q", c.what, s.Warning)
		}
		for _, want := range []string{milliseconds(c.trips[0]), milliseconds(c.trips[len(c.trips)/2]), milliseconds(c.trips[len(c.trips)-1]), `socketTimeout = "` + c.socket.String()} {
			if !strings.Contains(s.Detail, want) {
				t.Errorf("%s: %q lacks %q", c.what, s.Detail, want)
			}
		}
	}
}

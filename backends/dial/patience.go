package dial

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pierfs/conncfg"
)

const (
	// fewTrips is how many round trips a timeout should be worth at the least.
	fewTrips = 10
	// fewLogins is how often the slowest step of a login should fit into a timeout.
	fewLogins = 5
	// shortest is the least timeout that is proposed: packets that are lost cost seconds, whatever a round trip costs. longest is what a
	// definition takes without allowOddTimeout.
	shortest, longest = 30 * time.Second, 120 * time.Second
)

// Timeouts are those of a connection. The zero value proposes none.
type Timeouts struct{ Connect, Socket time.Duration }

// patience judges the timeouts of a connection by what its server needs.
type patience struct {
	of      conncfg.Target
	slowest time.Duration // of the steps of the login
}

// judge adds to a step "roundTrip" what was measured in words, the timeouts that go with it, and a warning where those of the definition
// are less than ten round trips.
func (p patience) judge(s Step) Step {
	worst := s.Trips.Max()
	s.Proposed = Timeouts{Connect: proposed(max(fewTrips*worst, fewLogins*p.slowest)), Socket: proposed(fewTrips * worst)}
	s.Detail = fmt.Sprintf("%s at the least, %s in the middle, %s at the most, of %d; connectTimeout = %q and socketTimeout = %q go with that",
		milliseconds(s.Trips.Min()), milliseconds(s.Trips.Median()), milliseconds(worst), len(s.Trips), s.Proposed.Connect, s.Proposed.Socket)
	var short []string
	for name, timeout := range map[string]time.Duration{"connectTimeout": p.of.ConnectTimeout, "socketTimeout": p.of.SocketTimeout} {
		if timeout < fewTrips*worst {
			short = append(short, fmt.Sprintf("%s is %s", name, timeout))
		}
	}
	if len(short) > 0 {
		slices.Sort(short)
		s.Warning = strings.Join(short, " and ") + ", and a round trip took up to " + milliseconds(worst) + ": less than ten of them"
	}
	return s
}

// proposed is a timeout of at least that long, in steps of five seconds.
func proposed(least time.Duration) time.Duration {
	const step = 5 * time.Second
	return min(max((least+step-1)/step*step, shortest), longest)
}

// milliseconds is a round trip for people.
func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

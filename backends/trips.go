package backends

import (
	"context"
	"slices"
	"time"
)

// Trips are how long the same small question took, as often as it was asked.
type Trips []time.Duration

const (
	tripsAsked  = 9
	tripsWithin = 3 * time.Second // a distant server is asked less often
)

// MeasureTrips asks a server the same small question several times, one after the other. An error ends it, and what was measured before is
// returned.
func MeasureTrips(ctx context.Context, ask func(context.Context) error) (all Trips) {
	for begun := time.Now(); len(all) < tripsAsked && time.Since(begun) < tripsWithin; {
		asked := time.Now()
		if err := ask(ctx); err != nil {
			break
		}
		all = append(all, time.Since(asked))
	}
	slices.Sort(all)
	return all
}

// Min, Median and Max are of at least one trip.
func (t Trips) Min() time.Duration    { return t[0] }
func (t Trips) Median() time.Duration { return t[len(t)/2] }
func (t Trips) Max() time.Duration    { return t[len(t)-1] }

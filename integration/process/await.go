package process

import "time"

// awaitSteps is how many steps of its limit Await counts.
const awaitSteps = 100

// Await waits for the first value of result, and reports whether it came within limit. Only time in which this machine lets the
// test run counts: one that stands still for seconds, as a virtual one may whose neighbours are busy, breaks no promise.
func Await[T any](result <-chan T, limit time.Duration) (value T, ok bool) {
	step := time.NewTicker(limit / awaitSteps) // what nobody takes in time it drops
	defer step.Stop()
	for range awaitSteps {
		select {
		case value = <-result:
			return value, true
		case <-step.C:
		}
	}
	select {
	case value = <-result:
		return value, true
	default:
		return value, false
	}
}

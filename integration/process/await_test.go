package process

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestAwaitCountsWhatItWaits: in a machine that stands still for nobody, the limit is the limit.
func TestAwaitCountsWhatItWaits(t *testing.T) {
	for after, want := range map[time.Duration]bool{0: true, time.Second: true, 2 * time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			result := make(chan int, 1)
			begun := time.Now()
			time.AfterFunc(after, func() { result <- 7 })
			got, ok := Await(result, 1500*time.Millisecond)
			if took := time.Since(begun); ok != want || ok != (got == 7) || took != min(after, 1500*time.Millisecond) {
				t.Errorf("a result after %v: got %d, %v after %v, want %v", after, got, ok, took, want)
			}
		})
	}
}

package cache

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestWindowBeginsWide: while channels are being opened little comes, and less must not be asked for because of that. Once much has
// come the window is what the way bears.
func TestWindowBeginsWide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w flow
		came, under := int64(0), w.begin(1<<20)
		for came < 4*firstWindow {
			if window := w.window(); came < 2*firstWindow && window < firstWindow {
				t.Fatalf("the window is %d when %d have come", window, came)
			}
			next := w.begin(1 << 20) // one is always under way
			time.Sleep(100 * time.Millisecond)
			under(true)
			came, under = came+1<<20, next
		}
		if window := w.window(); window >= firstWindow {
			t.Errorf("the window of 10 MiB/s is still %d when %d have come", window, came)
		}
	})
}

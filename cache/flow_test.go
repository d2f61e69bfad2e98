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
		for came := int64(0); came < 4*firstWindow; came += 1 << 20 {
			if window := w.window(); came < 2*firstWindow && window < firstWindow {
				t.Fatalf("the window is %d when %d have come", window, came)
			}
			end := w.begin(1 << 20)
			time.Sleep(100 * time.Millisecond)
			end(true)
		}
		if window, want := w.window(), int64(4.25*(1<<20)); window != want {
			t.Errorf("the window of 10 MiB/s at 100 ms is %d, want %d", window, want)
		}
	})
}

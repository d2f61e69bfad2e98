package netconn

import (
	"testing"
	"testing/synctest"
	"time"
)

func passed(d *Deadline) bool {
	select {
	case <-d.Passed():
		return true
	default:
		return false
	}
}

func TestDeadlineMovesUnderWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d Deadline
		begun := time.Now()
		if passed(&d) {
			t.Error("the zero value has passed")
		}
		d.Set(begun.Add(time.Second))
		waiting := d.Passed()
		d.Set(begun.Add(time.Minute))
		<-waiting
		if took := time.Since(begun); took != time.Minute {
			t.Errorf("who waited was woken after %v, want a minute", took)
		}
		if !passed(&d) {
			t.Error("the deadline has not passed")
		}
		d.Set(time.Time{})
		if passed(&d) {
			t.Error("a deadline that was taken away has passed")
		}
		waiting = d.Passed()
		d.Set(begun)
		<-waiting
		d.Set(begun) // again in the past
		if !passed(&d) {
			t.Error("a deadline in the past has not passed")
		}
		d.Set(time.Now().Add(time.Second))
		if passed(&d) {
			t.Error("a new deadline has passed at once")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !passed(&d) {
			t.Error("a new deadline does not pass")
		}
	})
}

// counted is a connection that knows better than its socket how much was delivered.
type counted struct {
	*Conn
	n int64
}

func (c counted) Delivered() int64 { return c.n }

func TestDeliveredIsAskedOfWhoKnows(t *testing.T) {
	below, _ := pair(t)
	c := New(counted{below, 42}, timeout)
	defer c.Close()
	if got := c.Delivered(); got != 42 {
		t.Errorf("Delivered = %d, want what the connection below says", got)
	}
}

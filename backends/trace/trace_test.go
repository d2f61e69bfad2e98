package trace

import (
	"fmt"
	"strings"
	"testing"
)

// A ring keeps the latest lines of the latest sessions, and no more, however much is said.
func TestRingIsBounded(t *testing.T) {
	var r Ring
	for session := range Sessions + 3 {
		s := r.Session("h:22")
		for line := range 3 * Lines {
			s.Add(Sent, fmt.Sprintf("%d %d %s", session, line, strings.Repeat("ä", 1000)))
		}
	}
	all := r.Lines()
	if len(all) != Sessions*Lines {
		t.Errorf("%d lines are kept, want %d", len(all), Sessions*Lines)
	}
	last := all[len(all)-1]
	if last.Session != Sessions+3 || !strings.HasPrefix(last.Text, fmt.Sprintf("%d %d ", Sessions+2, 3*Lines-1)) || len(last.Text) > maxText+3 || strings.ToValidUTF8(last.Text, "?") != last.Text {
		t.Errorf("the last line is %+v", last)
	}
	for n := 1; n < len(all); n++ {
		if all[n].Time.Before(all[n-1].Time) {
			t.Fatalf("line %d was said before the one above it", n)
		}
	}
	if got := r.Last(3); len(got) != 3 || got[2] != last {
		t.Errorf("the last three are %+v", got)
	}
}

// What a session was shown is in no line, whoever says it; without a ring nothing happens.
// Holds row 105 of the requirements.
func TestSecretsAreHidden(t *testing.T) {
	var r Ring
	s := r.Session("h:21")
	s.Hide("hunter22")
	s.Hide("no")
	s.Add(Got, "530 password hunter22 is wrong, no")
	if all := r.Lines(); len(all) != 2 || all[1].Text != "530 password **** is wrong, no" {
		t.Errorf("the lines are %+v", all)
	}
	var none *Ring
	none.Session("x").Add(Sent, "y")
	none.Session("x").Hide("secret")
	if none.Lines() != nil || len(none.Last(1)) != 0 {
		t.Error("no ring has lines")
	}
}

package cache

import (
	"regexp"
	"strings"
	"time"

	"pierfs/backends"
)

// What a machine that is no more, or has lost its state, has left of its uploads is found by its name in listings. It is removed when
// it is older than a day and was seen twice, some time apart: the times of a content are set right before it takes its name. What was
// moved aside for a content, of which the times are old anyway, must have been seen twice.

const (
	leftoverAge  = 24 * time.Hour
	leftoverSeen = 10 * time.Minute
	maxLeftovers = 1000
)

// leftover is what a listing has told of a name that looks like an upload's.
type leftover struct {
	info backends.Info
	seen time.Time
}

// leftovers tells leftovers by their names.
type leftovers struct {
	mark    string         // is in each of their names, and in few others; "" if the names of uploads cannot be told from others
	pattern *regexp.Regexp // that they all are of

	seen map[string]leftover // guarded by Tree.mu; at most maxLeftovers
}

// newLeftovers is for uploads that are named after pattern. It takes a random part, and more that is not the file's own name, to know
// such a name again.
func newLeftovers(pattern string) leftovers {
	var mark string
	for own := range strings.SplitSeq(strings.ReplaceAll(pattern, "XXXX", "NAME"), "NAME") {
		if len(own) > len(mark) {
			mark = own
		}
	}
	if !strings.Contains(pattern, "XXXX") || len(mark) < 4 {
		return leftovers{seen: map[string]leftover{}}
	}
	expression := regexp.QuoteMeta(pattern)
	expression = strings.NewReplacer("NAME", ".*", "XXXX", "[0-9a-f]{8}").Replace(expression)
	return leftovers{mark, regexp.MustCompile("(?s)^" + expression + "~?$"), map[string]leftover{}}
}

// isOld reports whether an entry of a listing that began at now is named as an upload is, and is older than one may be.
func (l *leftovers) isOld(info backends.Info, now time.Time) bool {
	return l.mark != "" && strings.Contains(info.Name, l.mark) && now.Sub(info.ModTime) >= leftoverAge && l.pattern.MatchString(info.Name)
}

// noteLeftover looks at an entry of a listing that began at now, and has it removed if it is what somebody's upload has left long ago, or
// what one has moved aside for a name that is borne.
func (t *Tree) noteLeftover(name string, info backends.Info, now time.Time) {
	l := &t.leftovers
	if !info.Mode.IsRegular() || !info.Known.Has(backends.HasType|backends.HasModTime) {
		return
	}
	from, aside := isLeftAside(info)
	if !aside && !l.isOld(info, now) || t.Caps().ReadOnly {
		return
	}
	t.mu.Lock()
	before, known := l.seen[name]
	due := known && now.Sub(before.seen) >= leftoverSeen
	if due || !known && len(l.seen) < maxLeftovers {
		l.seen[name] = leftover{info, now} // should the server refuse, it is not asked at each listing
	}
	t.mu.Unlock()
	switch due = due && before.info.SameVersion(info); {
	case due && aside:
		t.noteDisplaced(join(parent(name), from), "")
	case due && t.note(name): // the listing's end has it removed
		t.log.Info("a temporary file that an upload left more than a day ago is removed", "name", name, "changed", info.ModTime)
	}
}

package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"pierfs/backends"
)

// The list of temporary names in use also tells which names stand on the server as empty files, because a program has created
// them exclusively and not closed them yet. One that a killed daemon has left is removed by the next: if it still is the empty file of
// that time, and nothing was done with it here. After a restart of the machine the list may lack its end, and nothing is removed.

const (
	claimMark = "claim " // boot, Unix time, name
	freeMark  = "free "  // name
)

// sameMoment is how far the server's time of a claim may be from ours.
const sameMoment = 5 * time.Minute

// claimed notes that name is about to stand on the server as an empty file; the caller holds Tree.mu.
func (l *litter) claimed(temp, name string) error {
	l.holds[temp] = name
	return l.add(fmt.Sprintf("%s%s %d %s", claimMark, bootID(), time.Now().Unix(), strconv.QuoteToASCII(name)))
}

// unclaimed notes that the upload by way of temp, if it claimed a name, has dealt with that; the caller holds Tree.mu.
func (l *litter) unclaimed(temp string) error {
	name, ok := l.holds[temp]
	if !ok {
		return nil
	}
	delete(l.holds, temp)
	return l.add(freeMark + strconv.QuoteToASCII(name))
}

// namedBy returns the name that a line of mark tells; "" if nobody can read it.
func namedBy(mark string, line []byte) (name string, ok bool) {
	quoted, ok := bytes.CutPrefix(line, []byte(mark))
	if !ok {
		return "", false
	}
	name, err := strconv.Unquote(string(quoted))
	if err != nil {
		return "", true
	}
	return name, true
}

// readClaims takes over the claims that a former daemon has left in lines.
func (l *litter) readClaims(lines [][]byte) {
	for _, line := range lines {
		if name, ok := namedBy(freeMark, line); ok {
			delete(l.claims, name)
			continue
		}
		rest, ok := strings.CutPrefix(string(line), claimMark)
		if !ok {
			continue
		}
		boot, rest, _ := strings.Cut(rest, " ")
		at, quoted, _ := strings.Cut(rest, " ")
		when, bad := strconv.ParseInt(at, 10, 64)
		name, unquoted := strconv.Unquote(quoted)
		if bad == nil && unquoted == nil && boot == bootID() && name != "" && backends.CheckName("remove", name) == nil && len(l.claims) < maxLitter {
			l.claims[name] = time.Unix(when, 0)
		}
	}
}

// appendClaims adds the lines of claims that are left to text; the caller holds Tree.mu.
func (l *litter) appendClaims(text []byte) []byte {
	for name, at := range l.claims {
		text = fmt.Appendf(text, "%s%s %d %s\n", claimMark, bootID(), at.Unix(), strconv.QuoteToASCII(name))
	}
	return text
}

// removeClaims removes what is left of claims. The error is that of a server that cannot be asked now.
func (t *Tree) removeClaims(ctx context.Context) error {
	for name, at := range t.leftClaims() {
		if err := t.removeClaim(ctx, name, at); err != nil && (backends.ClassOf(err) != backends.Final || ctx.Err() != nil) {
			return err
		}
		t.mu.Lock()
		delete(t.litter.claims, name)
		t.warn("the list of temporary files on the server", t.litter.write())
		t.mu.Unlock()
	}
	return nil
}

func (t *Tree) leftClaims() map[string]time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.litter.claims)
}

// removeClaim removes name if it is the empty file that was made at the time at.
func (t *Tree) removeClaim(ctx context.Context, name string, at time.Time) error {
	release, err := t.alone(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	if _, still := t.leftClaims()[name]; !still || t.live(name) != nil {
		return nil
	}
	info, err := t.backend.Stat(ctx, name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || !info.Mode.IsRegular() || !info.Known.Has(backends.HasSize|backends.HasModTime) || info.Size != 0 || info.ModTime.Sub(at).Abs() > sameMoment {
		return err
	}
	err = t.backend.Remove(ctx, name)
	t.attrs.Forget(name)
	if err == nil {
		t.log.Info("an empty file was removed that a killed daemon had left, whose program had not closed it", "name", name)
	}
	return err
}

// bootID tells one run of the machine from another; "-" where nothing does.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "-"
	}
	return strings.TrimSpace(string(id))
}

package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"time"

	"pierfs/backends"
)

// maxFreed is how many temporary names that are no longer in use may be remembered before old ones are dropped, and
// freedFor how long each is remembered at least: no listing takes longer to be of use.
const (
	maxFreed = 1000
	freedFor = 10 * time.Minute
)

// tempName returns a new temporary name beside name and reserves it; "" if contents for it do not gather beside it. For an exclusive creation
// the second name by which it may be known (backends.ClaimName) is reserved as well, and shares the first one's fate.
func (t *Tree) tempName(name string, exclusive bool) string {
	if t.direct(name) {
		return ""
	}
	temp := t.tempWith(name, fmt.Sprintf("%08x", rand.Uint32()))
	t.mu.Lock()
	defer t.mu.Unlock()
	temps := []string{temp}
	if claim := backends.ClaimName(temp); exclusive && claim != "" {
		temps = append(temps, claim)
	}
	for _, temp := range temps {
		t.temps[temp], t.targets[temp] = time.Time{}, name
		t.warn("noting a temporary name", t.litter.take(temp))
	}
	if exclusive && t.Caps().Exclusive {
		t.warn("noting a claim", t.litter.claimed(temp, name))
	}
	return temp
}

// tempWith is the temporary name beside name with a random part of eight characters.
func (t *Tree) tempWith(name, random string) string {
	base := path.Base(name)
	with := func(base string) string {
		return strings.NewReplacer("NAME", base, "XXXX", random).Replace(t.options.TempName)
	}
	if over := len(with(base)) + len("~") - backends.MaxElement; over > 0 { // with room for backends.ClaimName
		base = base[:max(0, len(base)-over)]
	}
	return join(parent(name), with(base))
}

// mayBeTemp reports whether temp, a temporary name of a former daemon, may be one for name.
func (t *Tree) mayBeTemp(temp, name string) bool {
	if parent(temp) != parent(name) {
		return false
	}
	temp = strings.TrimSuffix(temp, "~") // of backends.ClaimName
	zeros, ones := t.tempWith(name, "00000000"), t.tempWith(name, "11111111")
	if len(temp) != len(zeros) {
		return false
	}
	for i := range len(temp) {
		if random := zeros[i] != ones[i]; temp[i] != zeros[i] && !random {
			return false
		}
	}
	return true
}

// reserved returns the names that are reserved together with temp.
func (t *Tree) reserved(temp string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	claim := backends.ClaimName(temp)
	if freed, ok := t.temps[claim]; ok && freed.IsZero() {
		return []string{temp, claim}
	}
	return []string{temp}
}

// freeTemp ends the reservation of a temporary name. Listings that began before it still hide the name.
func (t *Tree) freeTemp(temp string) {
	if temp == "" {
		return
	}
	names := t.reserved(temp)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.warn("forgetting a claim", t.litter.unclaimed(temp))
	for _, name := range names {
		if freed, ok := t.temps[name]; ok && freed.IsZero() {
			t.warn("forgetting a temporary name", t.litter.free())
		}
		t.temps[name] = time.Now()
		delete(t.targets, name)
	}
	if len(t.temps) <= maxFreed {
		return
	}
	for name, freed := range t.temps {
		if !freed.IsZero() && time.Since(freed) > freedFor {
			delete(t.temps, name)
		}
	}
}

// notCreated gives up a temporary name because Create failed with err. If the server's answer was lost, the name may be there.
func (t *Tree) notCreated(ctx context.Context, temp string, err error) {
	if temp != "" && (backends.ClassOf(err) != backends.Final || backends.CauseOf(err) == backends.CauseConnLost) {
		t.removeTemp(ctx, temp)
	}
	t.freeTemp(temp)
}

// hides reports whether a listing that began at began must not show name, for it is, or was meanwhile, a temporary name
// of an upload, or is left of one.
func (t *Tree) hides(name string, began time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, left := t.litter.names[name]; left {
		return true
	}
	if t.litter.waitsAside(name) {
		return true
	}
	freed, ok := t.temps[name]
	return ok && (freed.IsZero() || !freed.Before(began))
}

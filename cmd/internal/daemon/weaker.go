package daemon

import (
	"os"
	"slices"

	"pierfs/backends/dial"
)

// weaker returns, in words for a person, which of the usual promises do not hold on the mount's server: as far as that is known from its
// greeting, and as it has turned out since.
func (m *mount) weaker() []string {
	m.mu.Lock()
	tree, weighed := m.tree, m.weighed
	m.mu.Unlock()
	if tree == nil || !weighed {
		return nil
	}
	said := append(dial.Weaker(m.target, tree.Caps()), tree.Weaker()...)
	if m.target.WritePassthrough && os.Geteuid() != 0 {
		said = append(said, "writePassthrough has no effect: only a root daemon may let the kernel write by itself")
	}
	slices.Sort(said)
	return slices.Compact(said)
}

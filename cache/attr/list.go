package attr

import "pierfs/backends"

// List is entries of one directory in the order in which they came, packed like those that a Store knows: a million of
// them are 80 MB and their names. The zero value is empty. It does no locking.
type List struct {
	names   []string
	records []record
	ids     map[int]string // identities, of the entries that have one
}

// Add appends an entry.
func (l *List) Add(info backends.Info) { l.add(info.Name, pack(info), info.ID) }

func (l *List) add(name string, r record, id string) {
	if id != "" {
		if l.ids == nil {
			l.ids = map[int]string{}
		}
		l.ids[len(l.names)] = id
	}
	l.names = append(l.names, name)
	l.records = append(l.records, r)
}

// Len returns the number of entries.
func (l *List) Len() int { return len(l.names) }

// At returns entry i.
func (l *List) At(i int) backends.Info { return l.records[i].info(l.names[i], l.ids[i]) }

package cache

import "os"

// Local returns the file on this machine's disk that is all of the content, for the kernel to read past us; nil if there is
// none.
func (f *File) Local(mode OpenMode) (*os.File, error) { return nil, nil }

// Mapped reports whether a program still has what Local returned open or mapped.
func (f *File) Mapped() bool { return false }

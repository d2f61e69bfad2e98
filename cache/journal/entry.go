package journal

import (
	"fmt"
	"strconv"
	"time"
)

// Kind says what is owed.
type Kind string

// The kinds. Put is the only one with content.
const (
	Put     Kind = "put"     // Name shall have the content Staged
	Mkdir   Kind = "mkdir"   // Name shall be a directory
	Rmdir   Kind = "rmdir"   // the directory Name shall not be
	Remove  Kind = "remove"  // the file Name shall not be
	Rename  Kind = "rename"  // what is at Name shall be at To
	SetAttr Kind = "setattr" // Name shall have Attr
	Symlink Kind = "symlink" // Name shall be a link that leads to To
	Link    Kind = "link"    // To shall be a further name of the file Name
)

// Entry is one thing owed. What a kind has no use for is zero.
type Entry struct {
	Seq    uint64    `json:"seq"`    // given by Write; entries are owed in this order
	Target Name      `json:"target"` // whose it is, in the caller's words: it is owed there and nowhere else
	Kind   Kind      `json:"kind"`
	When   time.Time `json:"when,omitzero"` // since when it is owed
	Name   Name      `json:"name"`
	To     Name      `json:"to,omitempty"`

	// Staged is the file that holds the content, in the caller's directory for such files, and Size the length of the content;
	// what lies behind it in the file does not count. Missing are the parts that are to be as Base has them and are not in the
	// file, and from Tail on the content differs from Base.
	Staged  string  `json:"staged,omitempty"`
	Size    int64   `json:"size,omitempty"`
	Missing []Range `json:"missing,omitempty"`
	Tail    int64   `json:"tail,omitempty"`

	// Appended says that behind Base the content holds nothing but what programs have appended, wherever the end was; older records do
	// not say so.
	Appended bool `json:"appended,omitempty"`

	Base *Version `json:"base,omitempty"` // what Name was when this was written, and must still be; nil: nothing
	Over *Version `json:"over,omitempty"` // of a Rename: what To was, and is replaced
	Show Version  `json:"show,omitzero"`  // how programs see Name
	Attr Attr     `json:"attr,omitzero"`  // what a program set

	Sent []Content `json:"sent,omitempty"` // earlier contents of Name of which nobody knows whether it has them by now
	Went []Content `json:"went,omitempty"` // of a Rename: the same of To
	All  bool      `json:"all,omitempty"`  // of a Rename: nothing else of ours can be at Name than Base and Sent; older records do not say so

	// Begun says that the content may be on its way: nobody knows whether Name has it by now.
	Begun bool `json:"begun,omitempty"`

	Into bool `json:"into,omitempty"` // the content is written to Name itself, which may hold a part of it

	// Ridden says that programs could still write to Staged past the caller when this was written, and may outlive him.
	Ridden bool `json:"ridden,omitempty"`

	Held bool `json:"held,omitempty"` // by a person: it is not to be sent by itself
}

// Content is the first Size bytes of the file Staged, without what is Missing; up to Tail it is as Base.
type Content struct {
	Staged  string  `json:"staged"`
	Size    int64   `json:"size"`
	Tail    int64   `json:"tail"`
	Missing []Range `json:"missing,omitempty"`

	// Sum is the SHA-256 of the part Seen of it, where the content is not kept for as long as somebody must be able to tell it from
	// another's; nil in older records, which tell it by the size.
	Sum  []byte `json:"sum,omitempty"`
	Seen Range  `json:"seen,omitzero"`
}

// Range is [Off, End).
type Range struct {
	Off int64 `json:"off"`
	End int64 `json:"end"`
}

// Version describes a file in the caller's terms. This package compares nothing of it.
type Version struct {
	Mode    uint32        `json:"mode,omitempty"`
	Size    int64         `json:"size,omitempty"`
	ModTime time.Time     `json:"mtime,omitzero"`
	AccTime time.Time     `json:"atime,omitzero"`
	Unit    time.Duration `json:"unit,omitempty"`
	UID     uint32        `json:"uid,omitempty"`
	GID     uint32        `json:"gid,omitempty"`
	ID      Name          `json:"id,omitempty"`
	Known   uint16        `json:"known,omitempty"`
}

// Attr are attributes to be set; nil fields are not.
type Attr struct {
	Perm    *uint32    `json:"perm,omitempty"`
	UID     *uint32    `json:"uid,omitempty"`
	GID     *uint32    `json:"gid,omitempty"`
	ModTime *time.Time `json:"mtime,omitempty"`
	AccTime *time.Time `json:"atime,omitempty"`
}

// Change is what one Write makes of the list, in one step.
type Change struct {
	Add     []Entry  `json:"add,omitempty"`
	Done    []uint64 `json:"done,omitempty"` // entries that are owed no more: sent, or replaced by what is added
	Begin   []uint64 `json:"begin,omitempty"`
	Hold    []uint64 `json:"hold,omitempty"`
	Release []uint64 `json:"release,omitempty"`

	Next uint64 `json:"next,omitempty"` // no entry has this number or a higher one yet; for new files
}

// Name is a name, any bytes of it. In a record it is written as Go writes a string, so that no byte is lost to what JSON allows.
type Name string

// MarshalText escapes what is not printable ASCII.
func (n Name) MarshalText() ([]byte, error) {
	quoted := strconv.AppendQuoteToASCII(nil, string(n))
	return quoted[1 : len(quoted)-1], nil
}

// UnmarshalText undoes MarshalText.
func (n *Name) UnmarshalText(text []byte) error {
	s, err := strconv.Unquote(`"` + string(text) + `"`)
	if err != nil {
		return fmt.Errorf("name %q: %w", text, err)
	}
	*n = Name(s)
	return nil
}

package spool

import (
	"bytes"
	"reflect"
	"testing"
	"time"
)

var someNote = note{
	Name:    []byte("dir/\xff name\n"),
	Version: Version{Size: 100, ModTime: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Unit: time.Minute, ID: "i"},
	Ranges:  []Range{{0, 10}, {20, 100}},
	Stamp:   stamp{Inode: 1, Changed: 2, Size: 100},
}

func TestNoteIsReadAsItWasWritten(t *testing.T) {
	text, err := someNote.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, length, err := decodeNote(append(text, "content"...))
	if err != nil || length != len(text) || !reflect.DeepEqual(got, someNote) {
		t.Errorf("decodeNote = %+v, %d, %v; want %+v, %d", got, length, err, someNote, len(text))
	}
}

// TestDamagedNoteIsRefused: whatever single byte of a note is lost, added or changed, it is no note any more.
func TestDamagedNoteIsRefused(t *testing.T) {
	text, err := someNote.encode()
	if err != nil {
		t.Fatal(err)
	}
	for i := range text {
		changed := bytes.Clone(text)
		changed[i] ^= 1
		for what, damaged := range map[string][]byte{"changed": changed, "cut": text[:i], "lost": append(bytes.Clone(text[:i]), text[i+1:]...)} {
			if n, _, err := decodeNote(damaged); err == nil {
				t.Errorf("byte %d %s: still a note: %+v", i, what, n)
			}
		}
	}
}

func TestNoteThatCannotBeTrueIsRefused(t *testing.T) {
	for what, change := range map[string]func(*note){
		"no name":              func(n *note) { n.Name = nil },
		"NUL in the name":      func(n *note) { n.Name = []byte("a\x00") },
		"negative size":        func(n *note) { n.Version.Size, n.Ranges = -1, nil },
		"range behind the end": func(n *note) { n.Ranges = []Range{{0, 101}} },
		"negative range":       func(n *note) { n.Ranges = []Range{{-5, 10}} },
		"empty range":          func(n *note) { n.Ranges = []Range{{5, 5}} },
		"ranges out of order":  func(n *note) { n.Ranges = []Range{{20, 30}, {0, 10}} },
		"ranges that touch":    func(n *note) { n.Ranges = []Range{{0, 10}, {10, 20}} },
		"half a sum":           func(n *note) { n.Ranges, n.Sum = nil, []byte("x") },
	} {
		n := someNote
		change(&n)
		text, err := n.encode()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if _, _, err := decodeNote(text); err == nil {
			t.Errorf("a note with %s is believed", what)
		}
	}
}

// FuzzNote: no bytes break the parser, and what it takes can be true and is written as it was read.
func FuzzNote(f *testing.F) {
	for _, n := range []note{someNote, {Name: []byte("s"), Version: Version{Size: 3}, Sum: make([]byte, 32)}} {
		text, err := n.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("pierfs-content-1 00 5\n{}\n"))
	f.Fuzz(func(t *testing.T, p []byte) {
		n, length, err := decodeNote(p)
		if err != nil {
			return
		}
		if length > len(p) || n.check() != nil {
			t.Fatalf("%d of %d bytes taken for %+v", length, len(p), n)
		}
		text, err := n.encode()
		if err != nil {
			t.Fatal(err)
		}
		if again, _, err := decodeNote(text); err != nil || !reflect.DeepEqual(again, n) {
			t.Fatalf("%+v became %+v, %v", n, again, err)
		}
	})
}

package sftp

import (
	"testing"

	"pierfs/backends"
)

// FuzzReply takes any bytes for any answer: none may panic, and what comes of them may cross the seam.
func FuzzReply(f *testing.F) {
	f.Add(byte(typeStatus), statusReply(statusFailure)[1:])
	f.Add(byte(typeName), nameReply("a", "b")[1:])
	f.Add(byte(typeAttrs), attrsReply(aFile)[1:])
	f.Add(byte(typeHandle), []byte{0, 0, 0, 1, 'h'})
	f.Add(byte(typeExtReply), make([]byte, 88))
	f.Add(byte(typeName), []byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		r := reply{kind: kind, body: body}
		if r.refusal() == nil {
			t.Error("a refusal that is none")
		}
		r.status()
		r.path()
		r.wellFormed()
		r.userNames()
		if handle, err := r.handle(); err == nil && len(handle) > maxHandle {
			t.Errorf("a handle of %d bytes", len(handle))
		}
		if i, err := r.info("x"); err == nil && i.Size < 0 {
			t.Errorf("size %d", i.Size)
		}
		r.space()
		if l, err := r.limits(); err == nil {
			if n := payload(l.read); n < 1 || n > bestPayload {
				t.Errorf("payload %d", n)
			}
		}
		parseVersion(body)
		seen := 0
		parseNames(body, func(e entry) bool {
			if seen++; seen > len(body) {
				t.Fatal("more names than bytes")
			}
			if i := e.info(); i.Size < 0 || i.Known.Has(backends.HasType) && i.Name != e.name {
				t.Errorf("%+v", i)
			}
			return true
		})
	})
}

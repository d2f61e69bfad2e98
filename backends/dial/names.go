package dial

import (
	"fmt"
	"syscall"

	"pierfs/backends"
	"pierfs/backends/charset"
	"pierfs/conncfg"
)

// utf8 is the encoding in which names pass as they are, those that are no UTF-8 too.
const utf8 = "utf-8"

// names is how a server writes them. The zero value is UTF-8.
type names struct{ in *charset.Encoding }

func namesOf(t conncfg.Target) (names, error) {
	if isUTF8(t) {
		return names{}, nil
	}
	encoding, ok := charset.ByName(t.Encoding)
	if !ok {
		return names{}, &backends.Error{Op: "connect", Code: syscall.EINVAL, Err: fmt.Errorf("encoding %q is not known", t.Encoding),
			Hint: "docs/DEFINITIONS.md lists those that are"}
	}
	return names{encoding}, nil
}

func isUTF8(t conncfg.Target) bool { return t.Encoding == "" || t.Encoding == utf8 }

// translate returns b with names in UTF-8.
func (n names) translate(b backends.Backend) backends.Backend {
	if n.in == nil {
		return b
	}
	return charset.New(b, n.in)
}

// encode returns a path of a definition as the server writes it.
func (n names) encode(path string) (string, error) {
	if n.in == nil {
		return path, nil
	}
	wire, err := n.in.Encode(path)
	if err != nil {
		return "", &backends.Error{Op: "connect", Code: syscall.EILSEQ, Cause: backends.CauseWorkingDir, Err: fmt.Errorf("working directory %q: %w", path, err),
			Hint: "check workingDir, and encoding, which is " + n.in.String()}
	}
	return wire, nil
}

// decode returns a path of the server as programs see it.
func (n names) decode(wire string) string {
	if n.in == nil {
		return wire
	}
	return n.in.Decode(wire)
}

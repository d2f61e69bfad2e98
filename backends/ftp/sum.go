package ftp

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"syscall"

	"pierfs/backends"
	"pierfs/backends/ftp/wire"
)

// sum is what all that was sent adds up to, and how the server is asked for the same. A nil sum asks nothing.
type sum struct {
	hash.Hash
	command   string // "" where the content is read back
	algorithm string // as HASH names it
}

// algorithms are the checksums of servers, the ones that say most first: by command (XSHA256 and its like) and as HASH names them
// (draft-bryan-ftpext-hash).
var algorithms = []struct {
	command string
	name    string
	new     func() hash.Hash
}{
	{"XSHA512", "SHA-512", sha512.New},
	{"XSHA256", "SHA-256", sha256.New},
	{"XSHA1", "SHA-1", sha1.New},
	{"XSHA", "SHA-1", sha1.New},
	{"XMD5", "MD5", md5.New},
	{"XCRC", "CRC32", func() hash.Hash { return crc32.NewIEEE() }},
}

// newSum returns how an upload is verified beyond its size; nil if it is not. Where the server computes no sum it is read back.
func newSum(f wire.Features, verify string) *sum {
	if verify != "hash" && verify != "readback" {
		return nil
	}
	if verify == "readback" {
		return &sum{Hash: sha256.New()}
	}
	if s := serversSum(f); s != nil {
		return s
	}
	return &sum{Hash: sha256.New()}
}

// sums reports whether the server computes checksums that are known here.
func sums(f wire.Features) bool { return serversSum(f) != nil }

// serversSum is the best sum that the server computes; nil if it computes none.
func serversSum(f wire.Features) *sum {
	for _, a := range algorithms {
		if len(f.Hash) > 0 && f.Hash[0] == a.name {
			return &sum{a.new(), "HASH", a.name}
		}
	}
	for _, a := range algorithms {
		if slices.Contains(f.Sums, a.command) {
			return &sum{a.new(), a.command, a.name}
		}
	}
	return nil
}

func (s *sum) add(p []byte) {
	if s != nil {
		s.Write(p)
	}
}

// question is the command that asks for the sum of path; "" if there is none.
func (s *sum) question(path string) string {
	if s == nil || s.command == "" {
		return ""
	}
	return s.command + " " + path
}

// compare returns EIO if the server's sum is another. It stands somewhere among the words of the reply.
func (s *sum) compare(r wire.Reply) error {
	if !positive(r) {
		return &wire.Refusal{Command: s.command, Reply: r}
	}
	want := hex.EncodeToString(s.Sum(nil))
	for _, line := range r.Lines {
		for word := range strings.FieldsSeq(line) {
			if strings.EqualFold(word, want) || s.Size() == crc32.Size && strings.EqualFold(strings.TrimLeft(word, "0"), strings.TrimLeft(want, "0")) {
				return nil
			}
		}
	}
	return mismatch("the server has other bytes than were sent: it says %q, and the %s of what was sent is %s", said(r), s.command, want)
}

// Sum asks the server, where it computes a checksum that tells contents apart.
func (b *Backend) Sum(ctx context.Context, name string) (found backends.Sum, err error) {
	err = b.use(ctx, "sum", name, again, func(ctx context.Context, s *wire.Session) error {
		ask := serversSum(s.Features())
		if ask == nil || ask.Size() == crc32.Size {
			return refuse(syscall.EOPNOTSUPP, "the server computes no checksum that tells contents apart")
		}
		info, err := b.stat(ctx, s, name)
		switch {
		case err != nil:
			return err
		case info.IsDir():
			return refuse(syscall.EISDIR, "it is a directory")
		}
		command := ask.question(b.path(name))
		replies, err := s.Do(ctx, command)
		if err != nil {
			return err
		}
		if err := granted(command, replies[0]); err != nil {
			return err
		}
		found, err = ask.told(replies[0])
		return err
	})
	return found, err
}

// told is the sum that stands in the server's reply: its first word that can be one.
func (s *sum) told(r wire.Reply) (backends.Sum, error) {
	for _, line := range r.Lines {
		for word := range strings.FieldsSeq(line) {
			if value, err := hex.DecodeString(word); err == nil && len(value) == s.Size() {
				return backends.Sum{Algorithm: s.algorithm, Value: value}, nil
			}
		}
	}
	return backends.Sum{}, refuse(syscall.EIO, "the server says %q where a checksum was asked for", said(r))
}

// mismatch says that the server has another content than was sent.
func mismatch(format string, args ...any) error {
	return &coded{code: syscall.EIO, cause: backends.CauseMismatch, err: fmt.Errorf(format, args...)}
}

// readBack fetches what was written, in the session of the writer, and compares what came, of which it makes a sum, with sent.
func (w *writer) readBack(ctx context.Context, came, sent hash.Hash) error {
	s := w.held.Session()
	down, err := s.Retrieve(ctx, w.b.path(w.place()), 0)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, down.Cancel)
	defer stop()
	n, err := io.Copy(came, down)
	if err == nil {
		_, err = down.End(ctx)
	}
	switch {
	case ctx.Err() != nil:
		down.Cancel()
		return context.Cause(ctx)
	case err != nil:
		down.Cancel()
		return err
	case n != w.size || string(came.Sum(nil)) != string(sent.Sum(nil)):
		return mismatch("the server has other bytes than were sent")
	}
	return nil
}

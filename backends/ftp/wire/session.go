package wire

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"time"
)

var errTODO = errors.New("not built yet")

type Session struct{}

func Dial(ctx context.Context, o Options) (*Session, error) { return nil, errTODO }

// ScanCertificate returns the chain that the server shows, without believing it and without a login.
func ScanCertificate(ctx context.Context, o Options) ([]*x509.Certificate, error) {
	return nil, errTODO
}

func (s *Session) Features() Features  { return Features{} }
func (s *Session) Home() string        { return "/" }
func (s *Session) Healthy() bool       { return false }
func (s *Session) Idle() time.Duration { return 0 }
func (s *Session) Warm()               {}
func (s *Session) Cool()               {}
func (s *Session) Close() error        { return nil }

// Do: when it fails the replies that came before are returned too.
func (s *Session) Do(ctx context.Context, commands ...string) ([]Reply, error) { return nil, errTODO }

// Passive opens a data connection ahead (or takes the one there is) and tells how.
func (s *Session) Passive(ctx context.Context) (Channel, error) { return Channel{}, errTODO }

// Channel tells how data connections are made.
type Channel struct {
	Command string // EPSV, PASV, EPRT or PORT
	Told    string // host:port as the server told it; the host is empty where it tells none (EPSV)
	Used    string // host:port connected to, or listened at
	Took    time.Duration
}

func (s *Session) Retrieve(ctx context.Context, path string, off int64) (*Download, error) {
	return nil, errTODO
}
func (s *Session) List(ctx context.Context, command string) (*Download, error) { return nil, errTODO }
func (s *Session) Store(ctx context.Context, command string, behind ...string) (*Upload, error) {
	return nil, errTODO
}

type Download struct{}

func (d *Download) Read(p []byte) (int, error)             { return 0, errTODO }
func (d *Download) End(ctx context.Context) (Reply, error) { return Reply{}, errTODO }

// Cancel may come from another goroutine, and ends a Read that is under way.
func (d *Download) Cancel() {}

// Unsealed reports whether a TLS data connection ended without its close_notify: somebody between may have cut it.
func (d *Download) Unsealed() bool { return false }

type Upload struct{}

func (u *Upload) Write(p []byte) (int, error)                     { return 0, errTODO }
func (u *Upload) ReadFrom(r io.Reader) (int64, error)             { return 0, errTODO }
func (u *Upload) End(ctx context.Context) (Reply, []Reply, error) { return Reply{}, nil, errTODO }

// Cancel may come from another goroutine, and ends a Write that is under way.
func (u *Upload) Cancel() {}

// Refusal is a reply of the server that says no, as an error.
type Refusal struct {
	Command string // without any secret
	Reply   Reply
}

func (r *Refusal) Error() string { return r.Command }

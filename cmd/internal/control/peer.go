package control

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Peer is the process at the other end of the socket, as the kernel names it.
type Peer struct {
	UID, GID uint32
	PID      int32
}

type peerKey struct{}

// PeerOf returns the caller of the request that ctx belongs to; ok is false outside a request.
func PeerOf(ctx context.Context) (peer Peer, ok bool) {
	peer, ok = ctx.Value(peerKey{}).(Peer)
	return peer, ok
}

// WithPeer returns ctx as that of a request by peer.
func WithPeer(ctx context.Context, peer Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, peer)
}

// peerOfConn asks the kernel who connected (SO_PEERCRED, unix(7)).
func peerOfConn(c net.Conn) (Peer, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return Peer{}, fmt.Errorf("%T has no peer credentials", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return Peer{}, err
	}
	if credErr != nil {
		return Peer{}, credErr
	}
	return Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}, nil
}

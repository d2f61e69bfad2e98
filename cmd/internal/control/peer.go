package control

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Peer is the process at the other end of the socket, as the kernel names it.
type Peer struct {
	UID, GID uint32
	PID      int32
	Groups   []uint32 // further ones
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
	groups, err := groupsOf(raw)
	return Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid, Groups: groups}, err
}

// groupsOf asks the kernel for the further groups of who connected (SO_PEERGROUPS, since Linux 4.13). One that knows no answer has none.
func groupsOf(raw syscall.RawConn) (groups []uint32, err error) {
	const most = 1 << 16 // NGROUPS_MAX
	buffer := make([]uint32, 256)
	for {
		size := uint32(len(buffer) * 4)
		var errno syscall.Errno
		if err := raw.Control(func(fd uintptr) {
			_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS, uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&size)), 0)
		}); err != nil {
			return nil, err
		}
		switch {
		case errno == 0:
			return buffer[:size/4], nil
		case errno == unix.ERANGE && len(buffer) < most:
			buffer = make([]uint32, most)
		case errno == unix.ENOPROTOOPT:
			return nil, nil
		default:
			return nil, errno
		}
	}
}

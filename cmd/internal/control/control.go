// Package control is the wire between the operator's hand (pierfs) and the daemon (pierfsd): HTTP with JSON over one Unix
// socket.
//
// Each verb is one declared value that names its request and its answer; the hand calls it and the daemon serves it, so
// that the two cannot disagree. There are four shapes: a Verb asks and is answered, an Upload sends a stream after its
// request, a Download gets one after its answer, and a Feed gets many answers one by one. A stream that did not end in
// good order is an error at whoever reads it; half a file is never taken for a whole one.
//
// The socket has mode 0660 in a directory closed to others, and the kernel names the process at its other end: only root
// and the daemon's own user are served, and those who have the role that a verb needs (roles.go), for whom OpenTo opens the
// socket; handlers find the caller with PeerOf. Requests are bounded in bytes, and no
// connection may sit idle for ever. Failures travel as *Error: a stable code for scripts, a text and a way out for people.
//
// What may be secret in a request is Sealed, which no answer may contain; a test walks all answer types to hold that.
package control

import (
	"os"
	"path/filepath"
)

// SocketName is the control socket's name in the runtime directory.
const SocketName = "control.sock"

// SocketPath returns where the daemon of a runtime directory listens.
func SocketPath(runtimeDir string) string { return filepath.Join(runtimeDir, SocketName) }

// Protocol is the first element of every URL path; it changes when old hands and new daemons cannot understand each other.
const Protocol = "v1"

const (
	maxRequest = 1 << 20   // bytes of a JSON request
	maxHeader  = 256 << 10 // bytes of headers, which carry an Upload's request
	maxAnswer  = 64 << 20  // bytes of a Verb's answer; what may be longer is a Feed
)

// Headers of our own. A stream's request or answer travels in a header, its failure in a trailer.
const (
	headerRequest = "Pierfs-Request"
	headerAnswer  = "Pierfs-Answer"
	headerFailure = "Pierfs-Failure"
)

// ownerOnly is what the socket's directory may allow at most: its group may look, others may pass. It is made with ownerOpen.
const (
	ownerOnly os.FileMode = 0o751
	ownerOpen os.FileMode = 0o750
)

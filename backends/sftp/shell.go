package sftp

import (
	"bytes"
	"strings"

	"golang.org/x/crypto/ssh"
)

// maxSaid bounds what is kept of what a server's shell says.
const maxSaid = 512

// shellSays asks a server that has let us in, and started no SFTP, to run nothing at all, and returns what it then says on standard
// error, in one line: sshd(8) does not pass that on of a subsystem. It ends with the connection's deadline.
func shellSays(client *ssh.Client) string {
	session, err := client.NewSession()
	if err != nil {
		return ""
	}
	defer session.Close()
	var said capped
	session.Stderr = &said
	_ = session.Run("exit") // what comes of it does not matter
	return strings.Join(strings.Fields(said.String()), " ")
}

// capped keeps the beginning of what is written to it.
type capped struct{ bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	c.Buffer.Write(p[:min(len(p), maxSaid-c.Len())])
	return len(p), nil
}

// isExpired reports whether a server starts nothing because the password has to be changed first. SSH has a word for that only
// where the login itself asks for a new password (RFC 4252 section 8); OpenSSH lets the login pass and says this (session.c,
// do_pwchange), in these words since 2003.
func isExpired(said string) bool {
	return strings.Contains(said, "Your password has expired") || strings.Contains(said, "Password change required")
}

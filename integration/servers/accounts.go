package servers

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pierfs/integration/process"
)

// account of the made-up user. No machine has it by chance, and nothing of the machine belongs to it.
const account = 4742

// accounts writes into etc the files that say who may log in, beside those of the machine: user with password, by the PAM
// service. It returns the uid:gid of user. The password's hash is a cheap one: a server may have to check it often.
func accounts(t testing.TB, etc, service, user, password, home string) (owner string) {
	t.Helper()
	passwd, group := read(t, "/etc/passwd"), read(t, "/etc/group")
	if user == "root" {
		lines := strings.SplitAfter(passwd, "\n")
		lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasPrefix(line, "root:") })
		passwd = fmt.Sprintf("root:x:0:0:root:%s:/bin/sh\n", home) + strings.Join(lines, "")
		owner = "0:0"
	} else {
		passwd += fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", user, account, account, home)
		group += fmt.Sprintf("%s:x:%d:\n", user, account)
		owner = fmt.Sprintf("%d:%d", account, account)
	}
	write(t, filepath.Join(etc, "passwd"), 0o644, "%s", passwd)
	write(t, filepath.Join(etc, "group"), 0o644, "%s", group)
	setPassword(t, etc, user, password)
	write(t, filepath.Join(etc, "pam.d", service), 0o644,
		"auth required pam_unix.so nodelay\naccount required pam_unix.so\nsession required pam_permit.so\n")
	return owner
}

// usualAging is what shadow(5) says of an account's password: changed long ago, and good for ever.
const usualAging = "19000:0:99999:7:::"

// setPassword writes the password of user, also below a server that runs.
func setPassword(t testing.TB, etc, user, password string) {
	t.Helper()
	setShadow(t, etc, user, hash(t, password), usualAging)
}

func hash(t testing.TB, password string) string {
	t.Helper()
	return process.Output(t, strings.NewReader(password), "perl", "-e", `print crypt(<STDIN>, '$5$rounds=1000$pierfs$')`)
}

func setShadow(t testing.TB, etc, user, hash, aging string) {
	t.Helper()
	write(t, filepath.Join(etc, "shadow"), 0o600, "%s:%s:%s\n", user, hash, aging)
}

// Account is what a server's machine thinks of its user.
type Account int

const (
	Good            Account = iota
	Locked                  // as usermod --lock does it
	Expired                 // the account as such
	PasswordExpired         // it must be changed at the next login
)

func (a Account) set(t testing.TB, etc, user, password string) {
	t.Helper()
	hash, aging := hash(t, password), usualAging
	switch a {
	case Locked:
		hash = "!" + hash
	case Expired:
		aging = "19000:0:99999:7::19001:"
	case PasswordExpired:
		aging = "0:0:99999:7:::"
	}
	setShadow(t, etc, user, hash, aging)
}

// SetAccount changes what the server's machine thinks of the user, from the next login on.
func (s *SSHD) SetAccount(t testing.TB, a Account) { t.Helper(); a.set(t, s.etc, s.User, s.Password) }

// SetAccount changes what the server's machine thinks of the user, from the next login on.
func (s *FTP) SetAccount(t testing.TB, a Account) { t.Helper(); a.set(t, s.etc, s.User, s.Password) }

// Reconfigure gives the server other options than it was made with, and restarts it. Ports, keys, accounts and files stay.
func (s *SSHD) Reconfigure(t testing.TB, change func(*SSHOptions)) {
	t.Helper()
	change(&s.o)
	s.Kill(t)
	s.Restart(t)
}

// Reconfigure gives the server other options than it was made with, and restarts it. Ports, certificate, accounts and files stay.
func (s *FTP) Reconfigure(t testing.TB, change func(*FTPOptions)) {
	t.Helper()
	change(&s.o)
	s.Kill(t)
	s.Restart(t)
}

// ChangePassword gives the user another password. Sessions that stand go on.
func (s *SSHD) ChangePassword(t testing.TB, password string) {
	t.Helper()
	setPassword(t, s.etc, s.User, password)
	s.Password = password
}

// ChangePassword gives the user another password. Sessions that stand go on.
func (s *FTP) ChangePassword(t testing.TB, password string) {
	t.Helper()
	setPassword(t, s.etc, s.User, password)
	s.Password = password
}

// SetReadOnly makes the file system of a server with a Size read-only, or ends that.
func (s *SSHD) SetReadOnly(t testing.TB, on bool) { t.Helper(); s.space.setReadOnly(t, on) }

// SetReadOnly makes the file system of a server with a Size read-only, or ends that.
func (s *FTP) SetReadOnly(t testing.TB, on bool) { t.Helper(); s.space.setReadOnly(t, on) }

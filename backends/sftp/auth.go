package sftp

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"pierfs/backends/netconn"
)

// credentials is what we can show a server.
type credentials struct {
	o       *Options
	signers []ssh.Signer
	agent   net.Conn // kept open while the agent may have to sign; nil without one

	conn    *netconn.Conn // that the login runs over
	allowed []string      // methods that the server last offered
	tried   []string      // and those it has refused
	prompts error         // why its questions could not be answered

	told     bool // the password has been given out
	answered bool // a question, with the password
}

// errKey is a local key, certificate or agent that cannot be used, and the way out.
type errKey struct {
	err  error
	hint string
}

func (e *errKey) Error() string { return e.err.Error() }
func (e *errKey) Unwrap() error { return e.err }

// newCredentials reads keys and asks the agent. The caller closes it after the login.
func newCredentials(o *Options, conn *netconn.Conn) (*credentials, error) {
	c := &credentials{o: o, conn: conn}
	key, err := o.signer()
	if err != nil {
		return nil, err
	}
	if key != nil {
		c.signers = append(c.signers, key)
	}
	if o.Agent {
		held, err := c.askAgent()
		if err != nil {
			return nil, &errKey{err, "check agentSocket, and that the agent runs and has the key: ssh-add -l"}
		}
		c.signers = append(c.signers, held...)
	}
	if o.CertificateFile != "" {
		if err := c.certify(o.CertificateFile); err != nil {
			c.close()
			return nil, &errKey{err, "check certificateFile, and that it was made for this key: ssh-keygen -L -f FILE"}
		}
	}
	return c, nil
}

func (c *credentials) close() {
	if c.agent != nil {
		c.agent.Close()
	}
}

// signer returns the private key; nil if none is wanted.
func (o *Options) signer() (ssh.Signer, error) {
	text, err := o.keyText()
	if err != nil || len(text) == 0 {
		return nil, err
	}
	const check = "check privateKeyFile or privateKey: it must be a whole private key, as ssh-keygen writes it"
	key, err := ssh.ParsePrivateKey(text)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		if o.Passphrase == nil {
			return nil, &errKey{errors.New("private key: it is encrypted and no passphrase is given"), "give its passphrase as privateKeyPassphrase"}
		}
		word, failure := o.Passphrase()
		if failure != nil {
			return nil, &errKey{fmt.Errorf("passphrase: %w", failure), "check where privateKeyPassphrase comes from"}
		}
		key, err = ssh.ParsePrivateKeyWithPassphrase(text, []byte(word))
		if errors.Is(err, x509.IncorrectPasswordError) {
			return nil, &errKey{errors.New("private key: the passphrase is wrong"), "correct privateKeyPassphrase"}
		}
	}
	if err != nil {
		return nil, &errKey{fmt.Errorf("private key: %w", err), check}
	}
	return key, nil
}

// keyText returns the private key as it is written; nothing if none is wanted.
func (o *Options) keyText() ([]byte, error) {
	switch {
	case o.PrivateKey != nil:
		pem, err := o.PrivateKey()
		if err != nil {
			return nil, &errKey{fmt.Errorf("private key: %w", err), "check where privateKey comes from"}
		}
		return []byte(pem), nil
	case o.PrivateKeyFile == "":
		return nil, nil
	}
	const check = "check privateKeyFile, and that the user that the daemon runs as may read it"
	file, err := os.Open(o.PrivateKeyFile)
	if err != nil {
		return nil, &errKey{fmt.Errorf("private key: %w", err), check}
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, &errKey{fmt.Errorf("private key: %w", err), check}
	}
	// As ssh(1) has it: what belongs to somebody else he answers for.
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) == os.Geteuid() && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
		return nil, &errKey{fmt.Errorf("private key: others may read %s (mode %04o), so that it proves nothing", o.PrivateKeyFile, info.Mode().Perm()), "chmod 600 " + o.PrivateKeyFile}
	}
	text, err := io.ReadAll(io.LimitReader(file, maxKey))
	if err != nil {
		return nil, &errKey{fmt.Errorf("private key: %w", err), check}
	}
	return text, nil
}

// maxKey bounds what is read as a private key.
const maxKey = 1 << 20

// askAgent returns the keys of the agent. It must answer, and later sign, within the connect timeout.
func (c *credentials) askAgent() ([]ssh.Signer, error) {
	socket := c.o.AgentSocket
	if socket == "" {
		socket = os.Getenv("SSH_AUTH_SOCK")
	}
	if socket == "" {
		return nil, errors.New("agent: no socket is named, and SSH_AUTH_SOCK is not set")
	}
	conn, err := net.DialTimeout("unix", socket, c.o.ConnectTimeout)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	conn.SetDeadline(time.Now().Add(3 * c.o.ConnectTimeout)) // a socket pair has deadlines
	keys, err := agent.NewClient(conn).Signers()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("agent: %w", err)
	}
	c.agent = conn
	return keys, nil
}

// certify puts the certificate before the plain key that it belongs to.
func (c *credentials) certify(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", file, err)
	}
	cert, ok := public.(*ssh.Certificate)
	if !ok {
		return fmt.Errorf("certificate %s: it is a plain public key", file)
	}
	for _, key := range c.signers {
		if signer, err := ssh.NewCertSigner(cert, key); err == nil {
			c.signers = slices.Insert(c.signers, 0, signer)
			return nil
		}
	}
	return fmt.Errorf("certificate %s: neither the private key nor the agent has the key it was made for", file)
}

// choose picks the next method. Keys come first. The password is told once: a server that has refused it as "password"
// is not shown it again as "keyboard-interactive", which would count twice towards locking the account.
func (c *credentials) choose(ctx *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
	c.allowed, c.tried = ctx.AllowedMethods, ctx.TriedMethods
	if broken := c.conn.Broken(); broken != nil && c.prompts == nil {
		return nil, broken // the last method was not refused: no answer to it has come
	}
	if len(c.allowed) == 0 {
		return nil, errNoMethods
	}
	may := func(method string) bool {
		return slices.Contains(ctx.AllowedMethods, method) && !slices.Contains(ctx.TriedMethods, method)
	}
	switch {
	case may("publickey") && len(c.signers) > 0:
		return ssh.PublicKeys(c.signers...), nil
	case c.o.Password == nil:
	case may("password"):
		return ssh.PasswordCallback(c.password), nil
	case may("keyboard-interactive") && !slices.Contains(ctx.TriedMethods, "password"):
		return ssh.KeyboardInteractive(c.answer), nil
	}
	return nil, c.refused()
}

// errNoMethods is a server that has not said how one may log in.
var errNoMethods = errors.New("the server offers no method of logging in")

// refusedLogin is a server that accepts nothing of what we have.
type refusedLogin struct {
	offered bool // it would have accepted the kind of proof that we have, but not this one
	text    string
	hint    string
}

func (e *refusedLogin) Error() string { return e.text }

func (c *credentials) refused() error {
	shown := slices.DeleteFunc(slices.Clone(c.tried), func(method string) bool { return method == "none" })
	allowed := strings.Join(c.allowed, ", ")
	switch {
	case c.prompts != nil:
		return &refusedLogin{text: c.prompts.Error(), hint: "ask the server's operator for a login that a program can use: a password alone, or a key"}
	case len(shown) > 0:
		return &refusedLogin{true, fmt.Sprintf("the server refused user %q by %s; it allows %s",
			c.o.Username, strings.Join(shown, " and "), allowed), hintRefused(shown)}
	}
	return &refusedLogin{text: fmt.Sprintf("the server allows %s for user %q, and the definition has nothing of that",
		allowed, c.o.Username), hint: "give the connection what the server asks for: " + hintMissing(c.allowed)}
}

// hintRefused is the way out of a refusal of what was shown. SSH has no word for why (RFC 4252 section 5.1).
func hintRefused(shown []string) string {
	var checks []string
	if slices.Contains(shown, "publickey") {
		checks = append(checks, "check username, and that the public key stands in the account's authorized_keys on the server")
	}
	if !slices.Equal(shown, []string{"publickey"}) {
		checks = append(checks, "check username and password")
	}
	return strings.Join(checks, "; ") + untold
}

// untold is what a refused login leaves open.
const untold = "; the server does not tell whether the account is unknown, locked or expired. Nothing is tried again by itself, so that no account is locked"

// hintMissing names the fields for the methods that a server allows.
func hintMissing(allowed []string) string {
	var fields []string
	if slices.Contains(allowed, "publickey") {
		fields = append(fields, "a private key (privateKeyFile, or agent = true)")
	}
	if slices.Contains(allowed, "password") || slices.Contains(allowed, "keyboard-interactive") {
		fields = append(fields, "a password")
	}
	if len(fields) == 0 {
		return "none of its methods is known here, so ask its operator for a password or a key"
	}
	return strings.Join(fields, ", or ")
}

// answer answers a server's questions, if there is one and it asks for the password.
func (c *credentials) answer(name, instruction string, questions []string, echos []bool) ([]string, error) {
	switch {
	case len(questions) == 0:
		return nil, nil // an announcement
	case len(questions) > 1:
		c.prompts = fmt.Errorf("the server asks %d questions at login (%q); only a single one for the password can be answered",
			len(questions), questions)
		return nil, c.prompts
	case c.answered: // the answer was wrong, or a second factor is wanted
		c.prompts = errors.New("the server was not content with the password and asked a further question")
		return nil, c.prompts
	}
	c.answered = true
	word, err := c.password()
	if err != nil {
		return nil, err
	}
	return []string{word}, nil
}

// password gives the password out.
func (c *credentials) password() (string, error) {
	c.told = true
	return c.o.Password()
}

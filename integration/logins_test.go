package integration

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pierfs/conncfg/trust"
	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// TestLogins mounts with every way to prove who we are that OpenSSH knows.
// Holds rows 33, 35, 38 and 131 of the requirements.
func TestLogins(t *testing.T) {
	t.Parallel()
	all := servers.NewSSHD(t, servers.SSHOptions{})
	passwordOnly := servers.NewSSHD(t, servers.SSHOptions{Auth: []string{"password"}})
	promptOnly := servers.NewSSHD(t, servers.SSHOptions{Auth: []string{"keyboard-interactive"}})
	keyOnly := servers.NewSSHD(t, servers.SSHOptions{Auth: []string{"publickey"}, SFTP: servers.External})
	chroot := servers.NewSSHD(t, servers.SSHOptions{Chroot: true, ForceCommand: true, Sessions: 1})
	legacy := servers.NewSSHD(t, servers.SSHOptions{Legacy: true})
	twoKeys := servers.NewSSHD(t, servers.SSHOptions{HostKeys: []string{"rsa", "ecdsa", "ed25519"}})

	plain := keyOnly.NewKey(t, servers.KeyOptions{})
	rsa := keyOnly.NewKey(t, servers.KeyOptions{Type: "rsa", PEM: true})
	ecdsa := keyOnly.NewKey(t, servers.KeyOptions{Type: "ecdsa", Passphrase: "open sesame"})
	certified := keyOnly.NewKey(t, servers.KeyOptions{Certificate: true})
	legacyKey := legacy.NewKey(t, servers.KeyOptions{Type: "rsa", PEM: true})
	agent := servers.NewAgent(t, plain)
	known := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, []byte(twoKeys.KnownHosts(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	keyText, err := os.ReadFile(rsa.File)
	if err != nil {
		t.Fatal(err)
	}

	type fields = daemon.Fields
	logins := map[string]struct {
		server *servers.SSHD
		fields fields
	}{
		"password":    {passwordOnly, nil},
		"prompt":      {promptOnly, nil},
		"any":         {all, nil},
		"byName":      {all, fields{"host": "localhost"}},
		"key":         {keyOnly, fields{"password": nil, "privateKeyFile": plain.File}},
		"oldFormat":   {keyOnly, fields{"password": nil, "privateKeyFile": rsa.File}},
		"keyText":     {keyOnly, fields{"password": nil, "privateKey": string(keyText)}},
		"passphrase":  {keyOnly, fields{"password": nil, "privateKeyFile": ecdsa.File, "privateKeyPassphrase": ecdsa.Passphrase}},
		"certificate": {keyOnly, fields{"password": nil, "privateKeyFile": certified.File, "certificateFile": certified.Certificate}},
		"agent":       {keyOnly, fields{"password": nil, "agent": true, "agentSocket": agent}},
		"chroot":      {chroot, nil},
		"legacy":      {legacy, fields{"legacyAlgorithms": true}},
		"legacyKey":   {legacy, fields{"legacyAlgorithms": true, "password": nil, "privateKeyFile": legacyKey.File}},
		"knownHosts":  {twoKeys, fields{"hostKey": nil, "knownHostsFile": known}},
	}
	d := newDaemon(t)
	for name, login := range logins {
		d.Define(t, name, daemon.To(t, login.server, login.fields))
	}
	d.Start(t)
	for name, login := range logins {
		t.Run(name, func(t *testing.T) {
			d.AwaitState(t, name, "ready", process.Patience)
			content := []byte("written by " + name)
			if err := put(filepath.Join(d.Mount(name), name), content); err != nil {
				t.Errorf("write: %v", err)
			}
			has(t, filepath.Join(login.server.Dir, name), content)
			var steps []string
			for _, step := range testSteps(t, d, name) {
				steps = append(steps, step.Step)
				if !step.OK || step.MS == nil || *step.MS < 0 {
					t.Errorf("pierfs test: %+v, want it well", step)
				}
			}
			want := []string{"resolve", "tcp", "ssh", "auth", "workingDir", "list", "roundTrip"}
			if login.fields["host"] != nil { // a name, and not an address
				want = slices.Insert(want, 1, "dns")
			}
			if !slices.Equal(steps, want) {
				t.Errorf("pierfs test: steps %q, want %q", steps, want)
			}
		})
	}
	if !strings.Contains(d.Log(), "legacy") {
		t.Error("nothing in the log warns about legacyAlgorithms")
	}
}

// step is one step of `pierfs test --json`.
type step struct {
	Step               string
	OK                 bool
	MS                 *float64
	Detail, Cause, Fix string
}

func testSteps(t *testing.T, d *daemon.Daemon, name string) []step {
	t.Helper()
	r := d.Pierfs(t, "test", name, "--json")
	var answer struct{ Steps []step }
	if err := json.Unmarshal([]byte(r.Stdout), &answer); err != nil || len(answer.Steps) == 0 {
		t.Fatalf("pierfs test --json: exit %d, %v\n%s%s", r.Status, err, r.Stdout, r.Stderr)
	}
	if last := answer.Steps[len(answer.Steps)-1]; last.OK != (r.Status == 0) {
		t.Errorf("pierfs test: exit %d after %+v", r.Status, last)
	}
	return answer.Steps
}

// TestWhatIsWrongIsSaid: each way to fail ends `pierfs test` at its step with a word for scripts and a way out for people.
// Holds row 25 of the requirements.
func TestWhatIsWrongIsSaid(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	gone := servers.NewSSHD(t, servers.SSHOptions{})
	gone.Kill(t)
	stopped := servers.NewSSHD(t, servers.SSHOptions{})
	stopped.Stop(t)
	keyOnly := servers.NewSSHD(t, servers.SSHOptions{Auth: []string{"publickey"}})
	noSFTP := servers.NewSSHD(t, servers.SSHOptions{SFTP: "/bin/false"})
	if err := os.WriteFile(filepath.Join(server.Dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(server.Dir, "closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	type fields = daemon.Fields
	d := newDaemon(t)
	tests := map[string]struct {
		server *servers.SSHD
		fields fields
		step   string
		cause  string
	}{
		"unresolvable":  {server, fields{"host": "no-such-host.invalid"}, "dns", "dns_failed"},
		"refused":       {gone, nil, "tcp", "connection_refused"},
		"silent":        {stopped, nil, "ssh", "server_silent"},
		"unknownKey":    {server, fields{"hostKey": nil}, "ssh", "host_key_unknown"},
		"otherKey":      {server, fields{"hostKey": gone.Fingerprint(t)}, "ssh", "host_key_changed"},
		"wrongPassword": {server, fields{"password": "wrong"}, "auth", "auth_failed"},
		"noPassword":    {keyOnly, nil, "auth", "auth_method_not_offered"},
		"noKeyFile":     {keyOnly, fields{"password": nil, "privateKeyFile": "/nonexistent/key"}, "auth", "key_unusable"},
		"noSFTP":        {noSFTP, nil, "workingDir", "no_sftp_subsystem"},
		"noDirectory":   {server, fields{"workingDir": server.Root + "/missing"}, "workingDir", "workdir_missing"},
		"aFile":         {server, fields{"workingDir": server.Root + "/file"}, "workingDir", "workdir_not_a_directory"},
		"closed":        {server, fields{"workingDir": server.Root + "/closed"}, "list", "no_list_permission"},
		"behindClosed":  {server, fields{"workingDir": server.Root + "/closed/dir"}, "workingDir", "workdir_no_permission"},
	}
	for name, test := range tests {
		more := fields{"timeout": 2, "retryCount": 0}
		for key, value := range test.fields {
			more[key] = value
		}
		d.Define(t, name, daemon.To(t, test.server, more))
	}
	d.Start(t)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			steps := testSteps(t, d, name)
			last := steps[len(steps)-1]
			if last.OK || last.Step != test.step || last.Cause != test.cause || last.Fix == "" || last.MS == nil {
				t.Errorf("ended with %+v, want step %s, cause %s and a fix", last, test.step, test.cause)
			}
		})
	}
}

// TestHostKeys: an unknown key is refused with the fingerprint and the command that trusts it, a changed one loudly, and in
// neither case does the server see a password.
// Holds rows 38, 70 and 131 of the requirements.
func TestHostKeys(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{})
	d := newDaemon(t)
	d.Define(t, connection, daemon.To(t, server, daemon.Fields{"hostKey": nil, "timeout": 2, "retryCount": 0}))
	d.Start(t)
	first := server.Fingerprint(t)
	refused := func(cause, fingerprint string) {
		t.Helper()
		steps := testSteps(t, d, connection)
		last := steps[len(steps)-1]
		if last.OK || last.Cause != cause || !strings.Contains(last.Detail+last.Fix, fingerprint) {
			t.Errorf("pierfs test ended with %+v, want %s and %s", last, cause, fingerprint)
		}
		if strings.Contains(server.Log(), "Accepted") || strings.Contains(server.Log(), "Failed password") {
			t.Errorf("a login was tried at a server that nobody vouched for:\n%s", server.Log())
		}
		if _, err := os.ReadDir(d.Mount(connection)); err == nil {
			t.Error("the directory can be listed")
		}
	}
	refused("host_key_unknown", first)
	if !strings.Contains(d.Log(), first) {
		t.Errorf("the log does not tell the fingerprint %s:\n%s", first, d.Log())
	}
	r := d.Pierfs(t, "trust", connection, first)
	if r.Status != 0 {
		t.Fatalf("pierfs trust: exit %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	d.AwaitState(t, connection, "ready", healing)
	if err := put(filepath.Join(d.Mount(connection), "f"), []byte("x")); err != nil {
		t.Errorf("write to the trusted server: %v", err)
	}
	server.ChangeHostKeys(t)
	second := server.Fingerprint(t)
	refused("host_key_changed", second)
	refused("host_key_changed", first)
	if r := d.Pierfs(t, "trust", connection, first); r.Status != 77 {
		t.Errorf("pierfs trust of a key that the server shows no more: exit %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	refused("host_key_changed", first)
	if r := d.Pierfs(t, "trust", connection, second); r.Status != 0 || !strings.Contains(r.Stdout, first) {
		t.Errorf("pierfs trust of the new key: exit %d, want 0 and the key that is forgotten\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	d.AwaitState(t, connection, "ready", healing)
	has(t, filepath.Join(server.Dir, "f"), []byte("x"))
	if !strings.Contains(d.Log(), "host key trusted") || !strings.Contains(d.Log(), "forgotten=["+first) {
		t.Errorf("the log does not tell which key took the place of which:\n%s", d.Log())
	}
}

// TestTrustOfAnyHostKey: operators tell the fingerprint of the key that they have at hand, which need not be the one that the
// server shows first.
func TestTrustOfAnyHostKey(t *testing.T) {
	t.Parallel()
	server := servers.NewSSHD(t, servers.SSHOptions{HostKeys: []string{"ed25519", "rsa"}})
	d := newDaemon(t)
	d.Define(t, connection, daemon.To(t, server, daemon.Fields{"hostKey": nil, "timeout": 2, "retryCount": 0}))
	d.Start(t)
	_, line, ok := strings.Cut(server.KnownHosts(t), " ssh-rsa ")
	blob, err := base64.StdEncoding.DecodeString(strings.Fields(line)[0])
	if !ok || err != nil {
		t.Fatalf("no RSA key in %q: %v", server.KnownHosts(t), err)
	}
	fingerprint := trust.HostKey{Type: "ssh-rsa", Blob: blob}.Fingerprint()
	if r := d.Pierfs(t, "trust", connection, "SHA256:"+strings.Repeat("A", 43)); r.Status != 77 || !strings.Contains(r.Stderr, "nothing was trusted") {
		t.Errorf("pierfs trust of a key that the server has not got: exit %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	if r := d.Pierfs(t, "trust", connection, fingerprint); r.Status != 0 || !strings.Contains(r.Stdout, "ssh-rsa key "+fingerprint) {
		t.Fatalf("pierfs trust of the RSA key: exit %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	d.AwaitState(t, connection, "ready", healing)
}

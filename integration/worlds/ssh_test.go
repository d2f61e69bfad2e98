package worlds

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/servers"
)

// toSSH returns a definition that works.
func toSSH(t *testing.T, s *servers.SSHD) fields {
	t.Helper()
	return daemon.To(t, s, fields{"timeout": 5, "retryCount": 0})
}

// must fails the test for what the test itself could not do.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sshdWorlds are wrong definitions for a server that is well, and directories that are not.
func sshdWorlds(t *testing.T) []world {
	server := servers.NewSSHD(t, servers.SSHOptions{})
	other := servers.NewSSHD(t, servers.SSHOptions{})
	plain := toSSH(t, server)
	below := func(name string) fields { return with(plain, fields{"workingDir": server.Root + "/" + name}) }
	dir := func(name string, mode os.FileMode) string {
		path := filepath.Join(server.Dir, name)
		must(t, os.MkdirAll(path, 0o755))
		must(t, os.Chown(path, 4742, 4742))
		must(t, os.Chmod(path, mode))
		return path
	}
	must(t, os.WriteFile(filepath.Join(server.Dir, "file"), nil, 0o644))
	blind, closed, fixed := dir("blind", 0o311), dir("closed", 0), dir("fixed", 0o555)
	dir("file.d", 0o755)
	open := func(path string) func(t *testing.T) {
		return func(t *testing.T) { must(t, os.Chmod(path, 0o755)) }
	}
	return []world{
		{name: "wrong password", definition: with(plain, fields{"password": "wrong"}), cause: "auth_failed",
			fix: []string{"password", "does not tell whether"}, mended: fields{"password": server.Password}},
		{name: "unknown user", definition: with(plain, fields{"username": "nobody-here"}), cause: "auth_failed",
			fix: []string{"username"}, mended: fields{"username": server.User}},
		{name: "host key unknown", definition: with(plain, fields{"hostKey": nil}), cause: "host_key_unknown",
			fix: []string{server.Fingerprint(t)}, mended: fields{"hostKey": server.Fingerprint(t)}},
		{name: "host key changed", definition: with(plain, fields{"hostKey": other.Fingerprint(t)}), cause: "host_key_changed",
			says: []string{server.Fingerprint(t)}, mended: fields{"hostKey": server.Fingerprint(t)}},
		{name: "workingDir missing", definition: below("orders/in"), cause: "workdir_missing", fix: []string{"workingDir", `"` + server.Root + `"`},
			mend: func(t *testing.T) { dir("orders", 0o755); dir("orders/in", 0o755) }},
		{name: "workingDir misspelt", definition: below("flie.d"), cause: "workdir_missing", fix: []string{"correct workingDir"}, mended: fields{"workingDir": server.Root + "/file.d"}},
		{name: "workingDir a file", definition: below("file"), cause: "workdir_not_a_directory", fix: []string{"directory"}, mended: fields{"workingDir": server.Root}},
		{name: "workingDir behind a closed directory", definition: below("closed/in"), cause: "workdir_no_permission", fix: []string{"allowed to enter"},
			mend: func(t *testing.T) { open(closed)(t); dir("closed/in", 0o755) }},
		{name: "no list permission", definition: below("blind"), cause: "no_list_permission", fix: []string{"read the working directory"}, mend: open(blind)},
		{name: "no write permission", definition: below("fixed"), flags: []string{"--write-probe"}, cause: "no_write_permission", fix: []string{"allowed to write"}, mend: open(fixed)},
		{name: "FTP on an SSH port", definition: with(plain, fields{"protocol": "FTP", "hostKey": nil}), cause: "wrong_protocol", fix: []string{`protocol = "SFTP"`},
			mended: fields{"protocol": "SFTP", "hostKey": server.Fingerprint(t)}},
	}
}

// keyWorlds are keys that are not accepted, or cannot be used.
func keyWorlds(t *testing.T) []world {
	server := servers.NewSSHD(t, servers.SSHOptions{Auth: []string{"publickey"}})
	other := servers.NewSSHD(t, servers.SSHOptions{})
	key, locked, foreign := server.NewKey(t, servers.KeyOptions{}), server.NewKey(t, servers.KeyOptions{Passphrase: "open sesame"}), other.NewKey(t, servers.KeyOptions{})
	password := toSSH(t, server)
	plain := with(password, fields{"password": nil, "privateKeyFile": key.File})
	open := filepath.Join(t.TempDir(), "open_key")
	text, err := os.ReadFile(key.File)
	must(t, err)
	must(t, os.WriteFile(open, text, 0o644))
	must(t, os.Chmod(open, 0o644))
	broken := filepath.Join(t.TempDir(), "broken_key")
	must(t, os.WriteFile(broken, text[:len(text)/2], 0o600))
	return []world{
		{name: "method not offered", definition: password, cause: "auth_method_not_offered", says: []string{"publickey"}, fix: []string{"private key"},
			mended: fields{"password": nil, "privateKeyFile": key.File}},
		{name: "key refused", definition: with(plain, fields{"privateKeyFile": foreign.File}), cause: "auth_failed", says: []string{"publickey"}, fix: []string{"authorized_keys"},
			mend: func(t *testing.T) { server.Authorize(t, foreign) }},
		{name: "key encrypted, and no passphrase", definition: with(plain, fields{"privateKeyFile": locked.File}), cause: "key_unusable", fix: []string{"privateKeyPassphrase"},
			mended: fields{"privateKeyPassphrase": "open sesame"}},
		{name: "passphrase wrong", definition: with(plain, fields{"privateKeyFile": locked.File, "privateKeyPassphrase": "close sesame"}), cause: "key_unusable",
			says: []string{"passphrase"}, fix: []string{"privateKeyPassphrase"}, mended: fields{"privateKeyPassphrase": "open sesame"}},
		{name: "key file missing", definition: with(plain, fields{"privateKeyFile": key.File + "2"}), cause: "key_unusable", fix: []string{"privateKeyFile"}, mended: fields{"privateKeyFile": key.File}},
		{name: "key file damaged", definition: with(plain, fields{"privateKeyFile": broken}), cause: "key_unusable", fix: []string{"privateKeyFile"}, mended: fields{"privateKeyFile": key.File}},
		{name: "key file open to all", definition: with(plain, fields{"privateKeyFile": open}), cause: "key_unusable", fix: []string{"chmod 600 " + open},
			mend: func(t *testing.T) { must(t, os.Chmod(open, 0o600)) }},
	}
}

// oddSSHWorlds are servers that log in and serve no SFTP, or speak what nobody speaks any more.
func oddSSHWorlds(t *testing.T) []world {
	script := filepath.Join(t.TempDir(), "sftp")
	for dir := filepath.Dir(script); dir != filepath.Dir(os.TempDir()); dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755)) // the server's user comes to it
	}
	say := func(text string) func(t *testing.T) {
		return func(t *testing.T) {
			must(t, os.WriteFile(script, []byte("#!/bin/sh\n"+text+"\n"), 0o755))
			must(t, os.Chmod(script, 0o755))
		}
	}
	good := say("exec " + servers.External)
	say("exit 127")(t)
	scripted := servers.NewSSHD(t, servers.SSHOptions{SFTP: script})
	noisy := say("echo 'Welcome to our machine!'; exec " + servers.External)
	legacy := servers.NewSSHD(t, servers.SSHOptions{Legacy: true})
	none := servers.NewSSHD(t, servers.SSHOptions{Config: []string{"MaxSessions 0"}})
	plain := toSSH(t, scripted)
	return []world{
		{name: "sftp subsystem missing", definition: plain, cause: "no_sftp_subsystem", fix: []string{"Subsystem sftp"}, mend: good},
		{name: "a start-up file prints before SFTP", definition: with(plain, nil), cause: "no_sftp_subsystem", fix: []string{"start-up files"}, mend: good, before: noisy},
		{name: "only old algorithms", definition: toSSH(t, legacy), cause: "no_common_algorithm", fix: []string{"legacyAlgorithms = true"}, mended: fields{"legacyAlgorithms": true}},
		{name: "no session for the login", definition: toSSH(t, none), cause: "too_many_sessions", fix: []string{"session"},
			mend: func(t *testing.T) { none.Reconfigure(t, func(o *servers.SSHOptions) { o.Config = nil }) }},
	}
}

// fullSSHWorlds are a disk that is full, and one that is read-only.
func fullSSHWorlds(t *testing.T) []world {
	server := servers.NewSSHD(t, servers.SSHOptions{Size: 1 << 20})
	filler := filepath.Join(server.Dir, "filler")
	fill := func(t *testing.T) { fillDisk(t, filler) }
	return []world{
		{name: "disk full over SFTP", definition: toSSH(t, server), flags: []string{"--write-probe"}, cause: "server_full", fix: []string{"room"}, before: fill,
			mend: func(t *testing.T) { must(t, os.Remove(filler)) }},
		{name: "disk read-only", definition: toSSH(t, server), flags: []string{"--write-probe"}, cause: "server_read_only", fix: []string{"read-only"},
			before: func(t *testing.T) { server.SetReadOnly(t, true) }, mend: func(t *testing.T) { server.SetReadOnly(t, false) }},
	}
}

// fillDisk writes to name until there is no room.
func fillDisk(t *testing.T, name string) {
	t.Helper()
	file, err := os.Create(name)
	must(t, err)
	defer file.Close()
	for size := 64 << 10; size > 0; {
		if _, err := file.Write([]byte(strings.Repeat("x", size))); err != nil {
			size /= 2
		}
	}
}

// accountWorlds are accounts that are there and may not log in.
func accountWorlds(t *testing.T) []world {
	server := servers.NewSSHD(t, servers.SSHOptions{})
	plain := toSSH(t, server)
	is := func(a servers.Account) func(t *testing.T) { return func(t *testing.T) { server.SetAccount(t, a) } }
	return []world{
		{name: "account locked", definition: plain, before: is(servers.Locked), cause: "auth_failed", fix: []string{"locked"}, mend: is(servers.Good)},
		{name: "account expired", definition: plain, before: is(servers.Expired), cause: "auth_failed", fix: []string{"expired"}, mend: is(servers.Good)},
		{name: "password expired", definition: plain, before: is(servers.PasswordExpired), cause: "password_expired", fix: []string{"changed"}, mend: is(servers.Good)},
	}
}

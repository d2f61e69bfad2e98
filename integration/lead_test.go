package integration

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// Rows 18, 47: `pierfs env use` leads a mount from one real server to another, and an edit of its host back, while a program stands in it
// and has files open: the program's working directory and the number of the root stay, what it has open is finished on the server where
// it was opened, and what is opened afterwards is the other one's.
func TestMountFollowsWithoutBeingTakenAway(t *testing.T) {
	t.Parallel()
	test, production := servers.NewSSHD(t, servers.SSHOptions{}), servers.NewSSHD(t, servers.SSHOptions{})
	for server, text := range map[*servers.SSHD]string{test: "test", production: "prod"} {
		sh(t, server.Dir, `mkdir d && echo "$1" >d/f && echo "$1" >d/log && touch -d @1700000000 d/f d/log && chown -R `+"4742:4742"+` .`, text)
	}
	d := newDaemon(t)
	where := filepath.Join(d.Dir, "stable")
	fields := daemon.To(t, test, daemon.Fields{"mountPoint": where, "metadataTTL": "1m"})
	over := daemon.Fields{}
	for field, value := range daemon.To(t, production, nil) {
		if fields[field] != value {
			over[field] = value
		}
	}
	for field, value := range over {
		fields["environments.Production."+field] = value
	}
	d.Define(t, connection, fields)
	d.Start(t)
	d.AwaitState(t, connection, "ready", process.Patience)

	number := func() uint64 {
		var st syscall.Stat_t
		if err := syscall.Stat(where, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino<<8 ^ st.Dev
	}
	root := number()
	p := startShell(t)
	p.do(`cd "` + where + `/d" && exec 3<f 4>>log`)
	if r := d.Pierfs(t, "env", "use", "Production"); r.Status != 0 {
		t.Fatalf("env use ends with %d:\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	for _, step := range []struct{ do, want string }{
		{`pwd -P`, where + "/d"}, {`cat f`, "prod"}, {`cat <&3`, "test"}, {`echo more >&4 && exec 4>&-; echo $?`, "0"}, {`cat log`, "prod"},
	} {
		if got := p.do(step.do); got != step.want {
			t.Errorf("%s: %q, want %q", step.do, got, step.want)
		}
	}
	if now := number(); now != root {
		t.Error("the root is another one")
	}
	await(t, "what was open to be finished where it was opened", func() bool {
		text, err := os.ReadFile(filepath.Join(test.Dir, "d/log"))
		return err == nil && string(text) == "test\nmore\n"
	})
	host, port := split(t, test.Address())
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte(test.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := d.Pierfs(t, "edit", connection, "--env", "Production", "--set", "host="+host, "--set", fmt.Sprint("port=", port), "--set", "hostKey="+test.Fingerprint(t), "--password-file", secret)
	if r.Status != 0 {
		t.Fatalf("edit ends with %d:\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
	if got := p.do(`cat log`); got != "test more" {
		t.Errorf("after the edit the program reads %q in its directory", got)
	}
	if now := number(); now != root {
		t.Error("the root is another one")
	}
}

// program is a shell that is told line by line what to do.
type program struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Reader
}

func startShell(t *testing.T) *program {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // it ends with its input
	})
	return &program{t, in, bufio.NewReader(out)}
}

// do runs a line in the shell itself and returns what it prints, the lines joined by spaces.
func (p *program) do(line string) string {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.in, "%s 2>&1; echo :done\n", line); err != nil {
		p.t.Fatal(err)
	}
	var lines []string
	for {
		text, err := p.out.ReadString('\n')
		if err != nil {
			p.t.Fatalf("%s: the shell ended: %v", line, err)
		}
		if text = strings.TrimSuffix(text, "\n"); text == ":done" {
			return strings.Join(lines, " ")
		}
		lines = append(lines, text)
	}
}

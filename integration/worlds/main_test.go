package worlds

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pierfs/integration/daemon"
)

// The programs under test.
var (
	underTest = daemon.Share()
	built     = underTest.Programs
)

func TestMain(m *testing.M) { os.Exit(daemon.Main(m, 24, underTest)) }

// machine is one on which no daemon runs, with directories of its own.
type machine struct {
	dir        string
	credential *syscall.Credential // of who works there; nil is root
}

func newMachine(t testing.TB) machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "pierfs-world-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil { // other users come to it too
		t.Fatal(err)
	}
	m := machine{dir: dir}
	if err := os.MkdirAll(filepath.Join(m.dir, "etc", "connections"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.write(t, "etc/pierfs.toml", "activeEnvironments = [\"Test\"]\n")
	return m
}

func (m machine) write(t testing.TB, name, text string) string {
	t.Helper()
	name = filepath.Join(m.dir, name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// command returns the hand with args, on m.
func (m machine) command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	programs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(programs.Dir, "pierfs"), args...)
	cmd.Env = append(os.Environ(), "HOME="+m.dir, "TMPDIR="+m.dir, "SSH_AUTH_SOCK=")
	for variable, dir := range map[string]string{"CONFIGURATION_DIRECTORY": "etc", "STATE_DIRECTORY": "state", "CACHE_DIRECTORY": "cache", "PIERFS_RUNTIME_DIR": "run"} {
		cmd.Env = append(cmd.Env, variable+"="+filepath.Join(m.dir, dir))
	}
	if m.credential != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: m.credential}
	}
	return cmd
}

// fields are the keys of a definition; a nil value leaves one out.
type fields = daemon.Fields

// with returns f changed and completed by more.
func with(f, more fields) fields {
	all := maps.Clone(f)
	maps.Copy(all, more)
	return all
}

// define returns a definition as a file has it.
func define(f fields) string {
	var text strings.Builder
	for _, key := range slices.Sorted(maps.Keys(f)) {
		switch value := f[key].(type) {
		case nil:
		case string:
			fmt.Fprintf(&text, "%s = %s\n", key, strconv.Quote(value))
		default:
			fmt.Fprintf(&text, "%s = %v\n", key, value)
		}
	}
	return text.String()
}

// tested is what `pierfs test --json` prints.
type tested struct {
	OK    bool
	Steps []struct {
		Step, Detail, Cause, Fix, Privilege, May, Warning string
		OK                                                bool
		MS                                                *float64
		Left                                              []string
	}
	Proven, NotProven []string
	Error             struct{ Code, Text, Hint, Cause string }

	status int
	raw    string
}

// test runs `pierfs test` on a definition that nobody has saved.
func (m machine) test(t testing.TB, f fields, flags ...string) tested {
	t.Helper()
	cmd := m.command(t, append([]string{"test", "-", "--json"}, flags...)...)
	cmd.Stdin = strings.NewReader("name = \"world\"\n" + define(f))
	r := daemon.Run(t, cmd, time.Minute)
	answer := tested{status: r.Status, raw: r.Stdout + r.Stderr}
	if err := json.Unmarshal([]byte(r.Stdout), &answer); err != nil {
		t.Fatalf("pierfs test: exit %d, %v\n%s", r.Status, err, answer.raw)
	}
	return answer
}

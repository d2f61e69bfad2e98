package integration

import (
	iofs "io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"pierfs/integration/daemon"
	"pierfs/integration/servers"
)

// TestNoCommandTellsASecret: row 105. Every command that the program has, whichever come to be, is run on connections whose passwords are
// canaries: one literal, one a sealed variable, one that the server refuses. None of them is in what a command prints, in the daemon's log
// at its most talkative, in its process, in an export, or in any file that it keeps; and no core file could hold one.
func TestNoCommandTellsASecret(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	canary := s.server.Password
	wrong := "Canary-wrong-" + canary
	s.daemon.Define(t, "refused", daemon.To(t, s.server, daemon.Fields{"password": wrong, "retryCount": 0}))
	s.daemon.Reload(t)
	if err := os.WriteFile(filepath.Join(s.behind, "f"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	literal := "protocol = \"SFTP\"\nhost = \"127.0.0.1\"\nport = " + strconv.Itoa(s.server.Port) + "\nusername = \"u\"\nworkingDir = \"/\"\npassword = \"" + canary + "\"\nnonsense = \"" + canary + "x\"\n"
	told := func(what, text string) {
		t.Helper()
		if strings.Contains(text, canary) {
			t.Errorf("%s tells a password:\n%s", what, text)
		}
	}
	run := func(in daemon.Call, args ...string) {
		t.Helper()
		in.Env = append(in.Env, "EDITOR=cat", "VISUAL=")
		in.Dir = s.daemon.Dir
		r := s.daemon.PierfsWith(t, in, args...)
		told("pierfs "+strings.Join(args, " "), r.Stdout+r.Stderr)
	}
	run(daemon.Call{Stdin: canary + "\n"}, "vars", "set", "sealed.password", "--secret", "--value-file", "-")
	run(daemon.Call{Stdin: canary + "\n"}, "create", "bysecret", "--password-file", "-", "-s", "protocol=SFTP", "-s", "host=127.0.0.1", "-s", "username=u", "-s", "workingDir=/", "--disabled")
	run(daemon.Call{}, "log", connection, "debug") // the most talkative

	commands := regexp.MustCompile(`(?m)^\.SS "pierfs (.*)"$`).FindAllStringSubmatch(s.daemon.Pierfs(t, "manual").Stdout, -1)
	if len(commands) < 40 {
		t.Fatalf("the manual tells of %d commands", len(commands))
	}
	for _, of := range []string{connection, "refused"} {
		for _, c := range commands {
			args := argumentsOf(strings.ReplaceAll(c[1], `\-`, "-"), of, t.TempDir())
			if args[0] == "umount" || args[0] == "disable" {
				continue // what comes behind has something to speak of
			}
			run(daemon.Call{Stdin: literal}, args...)
			run(daemon.Call{Stdin: literal}, append(args, "--json")...)
		}
	}
	for _, args := range [][]string{{"umount", connection}, {"mount", connection}, {"disable", "refused"}, {"delete", connection, "--yes=" + connection}} {
		run(daemon.Call{}, args...)
	}

	pid := strconv.Itoa(s.daemon.Pid())
	for _, file := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(filepath.Join("/proc", pid, file))
		if err != nil {
			t.Fatal(err)
		}
		told("/proc/PID/"+file, string(text))
	}
	limits, err := os.ReadFile(filepath.Join("/proc", pid, "limits"))
	if err != nil || !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
		t.Errorf("a core file could be written: %v\n%s", err, limits)
	}
	told("the daemon's log", s.daemon.Log())
	byHand := map[string]bool{connection + ".toml": true, "refused.toml": true, "other.toml": true} // and the copy of one
	err = filepath.WalkDir(s.daemon.Dir, func(file string, e iofs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil // gone meanwhile
		case byHand[e.Name()]:
			return nil
		case file == s.daemon.MountRoot:
			return iofs.SkipDir
		case !e.Type().IsRegular():
			return nil
		}
		text, err := os.ReadFile(file)
		told(file, string(text))
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// argumentsOf makes a command line of how a command is written: what it must have is the connection, a file of it, or standard input.
func argumentsOf(use, connection, dir string) []string {
	var args []string
	for _, word := range strings.Fields(strings.ReplaceAll(use, " | ", "|")) {
		switch {
		case strings.HasPrefix(word, "[") || strings.HasPrefix(word, "--"):
		case strings.ToLower(word) == word:
			args = append(args, word)
		case strings.Contains(word, ":/"):
			args = append(args, connection+":/f")
		case strings.HasPrefix(word, "NAME"), strings.HasPrefix(word, "CONNECTION"), strings.HasPrefix(word, "OLD"):
			args = append(args, connection)
		case strings.HasPrefix(word, "PROJECT"):
			args = append(args, "p/"+connection)
		case strings.HasPrefix(word, "FILE"), strings.HasPrefix(word, "LOCAL"):
			args = append(args, "-")
		case strings.HasPrefix(word, "ENV"):
			args = append(args, daemon.Environment)
		case strings.HasPrefix(word, "DIR"):
			args = append(args, dir)
		case strings.HasPrefix(word, "REVISION"), strings.HasPrefix(word, "ID"):
			args = append(args, "1")
		default:
			args = append(args, "other")
		}
	}
	return args
}

package integration

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pierfs/integration/daemon"
	"pierfs/integration/process"
)

// shells have what they need to load their script and to press Tab behind $line; each prints one offer a line.
var shells = map[string]string{
	"bash": `source /usr/share/bash-completion/bash_completion
		source <(pierfs completion bash)
		COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMP_KEY=9
		read -ra COMP_WORDS <<<"$line"; [[ $line != *' ' ]] || COMP_WORDS+=('')
		COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
		compopt() { :; } # speaks to readline, and nobody types here
		__start_pierfs pierfs
		printf '%s\n' "${COMPREPLY[@]%% *}"`,
	// What belongs to the line editor is replaced by what prints.
	"zsh": `compdef() { :; }
		source <(pierfs completion zsh)
		_describe() { print -l -- ${${(P)2}%%:*} }
		words=(${(z)line}); [[ $line != *' ' ]] || words+=('')
		CURRENT=$#words
		_pierfs`,
	"fish": `pierfs completion fish | source
		complete -C "$line" | string split -f1 \t`,
}

// TestShellsCompleteLiveNames: in each shell, with the script that the package installs, Tab offers what the daemon knows, and
// nothing at all where none runs.
func TestShellsCompleteLiveNames(t *testing.T) {
	t.Parallel()
	programs, err := built()
	if err != nil {
		t.Fatal(err)
	}
	d := daemon.New(t, programs)
	for _, name := range []string{"bank", "bakery", "shop"} {
		d.Define(t, name, daemon.Fields{"protocol": "SFTP", "host": "127.0.0.1", "port": 1, "username": "u", "workingDir": "/", "enabled": false})
	}
	d.Start(t)
	press := func(shell, line, runtime string) []string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), shell, map[string][]string{
			"bash": {"--norc", "-c"}, "zsh": {"-f", "-c"}, "fish": {"--no-config", "-c"},
		}[shell]...)
		cmd.Args = append(cmd.Args, shells[shell])
		cmd.Env = []string{"PATH=" + programs.Dir + ":/usr/bin:/bin", "HOME=" + d.Dir, "PIERFS_RUNTIME_DIR=" + runtime, "line=" + line, "LANG=C.UTF-8"}
		r := daemon.Run(t, cmd, time.Minute)
		if r.Stderr != "" {
			t.Errorf("%s, pierfs %s<Tab>: %s", shell, line, r.Stderr)
		}
		offers := strings.Fields(r.Stdout)
		slices.Sort(offers)
		return offers
	}
	for shell := range shells {
		process.Need(t, shell)
		for line, want := range map[string][]string{
			"pierfs show ba":     {"bakery", "bank"},
			"pierfs env use Pro": {"Production"},
			"pierfs show bank ":  nil,
		} {
			if got := press(shell, line, d.RuntimeDir); !slices.Equal(got, want) {
				t.Errorf("%s, %s<Tab> offers %q, want %q", shell, line, got, want)
			}
		}
		if got := press(shell, "pierfs show ba", filepath.Join(d.Dir, "nobody")); len(got) > 0 {
			t.Errorf("%s without a daemon offers %q", shell, got)
		}
	}
}

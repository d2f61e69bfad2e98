package conncfg

import (
	"context"
	"crypto/tls"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func resolve(t *testing.T, files map[string]string, name, env string) (Target, []Finding) {
	t.Helper()
	c, _ := Load(tree(t, files))
	return c.Resolve(t.Context(), name, env)
}

// Holds row 17 of the requirements.
func TestResolveFillsDefaults(t *testing.T) {
	got, findings := resolve(t, base(), "ok", "Development")
	want := Target{
		Name: "ok", Environment: "Development", Protocol: SFTP, Host: "files.example.com", Port: 22, Username: "batch",
		Password: NewSecret("hunter2"), WorkingDir: "/in", ConnectTimeout: 30 * time.Second, SocketTimeout: 30 * time.Second,
		RetryCount: 3, Encoding: "utf-8", Owner: OwnerMap, Commit: CommitClose, Conflict: ConflictKeepBoth, Verify: VerifySize, Update: UpdateReplace, DrainTimeout: time.Minute, IdleTimeout: 10 * time.Minute, MetadataTTL: 2 * time.Second, NegativeTTL: time.Second,
	}
	if !reflect.DeepEqual(got, want) || len(findings) > 0 {
		t.Errorf("got %+v\nwant %+v\nfindings%s", got, want, printed(findings))
	}
}

// Holds rows 122, 124 and 125 of the requirements.
func TestResolveHandsEveryFieldOver(t *testing.T) {
	definition := `protocol = "ftps"
host = "[2001:DB8::1]"
port = "${p}"
username = "u-${p}"
password = "a$b${p}$"
workingDir = "/x//y/"
timeout = "40s"
connectTimeout = 5
retryCount = 4
retryAuth = true
useImplicit = true
sslProtocol = "tlsv1.3"
caFile = "/ca"
trustCert = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU="
clientCertFile = "/c"
clientKeyFile = "/k"
encoding = "CP-1252"
readOnly = true
mountPoint = "/srv/x/"
uid = 0
gid = 7
fileMode = "640"
dirMode = "0750"
owner = "fixed"
commit = "background"
conflict = "fail"
doneFile = "NAME.done"
drainTimeout = "5m"
idleTimeout = "2m"
stagingLimit = "20GiB"
writePassthrough = true
tempName = ".NAME.part"
metadataTTL = 0
negativeTTL = "1m"
maxEntries = 20_000
maxSessions = 2
account = { env = "CONNCFG_ACCOUNT" }
passive = true
passivePorts = "50000 - 50100"
fallbackHosts = "b.example.com , [2001:db8::5]:2121, 2001:db8::6"
verify = "hash"
via = "ssh://jump@192.0.2.9"
viaPassword = { env = "CONNCFG_ACCOUNT" }
viaKeyFile = "/j"
viaHostKey = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"
sourceAddress = "::ffff:192.0.2.1"
rateLimit = "2MiB"
`
	t.Setenv("CONNCFG_ACCOUNT", "x7")
	got, findings := resolve(t, with(map[string]string{"connections/p/f.toml": definition, "environments/Test.toml": "[variables]\np = 991\n[policy]\nrequireAuthority = false\n"}), "p/f", "Test")
	want := Target{
		Name: "p/f", Environment: "Test", Protocol: FTPS, Host: "2001:DB8::1", Port: 991,
		Fallbacks: []Place{{"b.example.com", 0}, {"2001:db8::5", 2121}, {"2001:db8::6", 0}}, Username: "u-991", Password: NewSecret("a$b991$"),
		WorkingDir: "/x/y", ConnectTimeout: 5 * time.Second, SocketTimeout: 40 * time.Second, RetryCount: 4, RetryAuth: true,
		TLS: TLS{Implicit: true, MinVersion: tls.VersionTLS13, CAFile: "/ca", TrustCert: "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU",
			CertFile: "/c", KeyFile: "/k", ServerName: "2001:DB8::1"},
		FTP: FTPOptions{Account: NewSecret("x7"), PassivePorts: Ports{50000, 50100}},
		Via: Via{Kind: ViaSSH, Host: "192.0.2.9", Port: 22, Username: "jump", Password: NewSecret("x7"), KeyFile: "/j",
			HostKey: "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"},
		SourceAddress: "192.0.2.1", RateLimit: 2 << 20,
		Encoding: "windows-1252", ReadOnly: true, MountPoint: "/srv/x", UID: new(uint32(0)), GID: new(uint32(7)), FileMode: 0o640, DirMode: 0o750,
		Owner: OwnerFixed, Commit: CommitBackground, Conflict: ConflictFail, DoneFile: "NAME.done", Verify: VerifyHash, DrainTimeout: 5 * time.Minute, IdleTimeout: 2 * time.Minute, StagingLimit: 20 << 30, WritePassthrough: true, TempName: ".NAME.part", NegativeTTL: time.Minute, MaxEntries: 20_000, MaxSessions: 2,
	}
	if !reflect.DeepEqual(got, want) || HasErrors(findings) {
		t.Errorf("got %+v\nwant %+v\nfindings%s", got, want, printed(findings))
	}
	definition = good + `privateKeyFile = "/k"
privateKeyPassphrase = { env = "CONNCFG_PASSPHRASE" }
certificateFile = "/c"
agent = true
agentSocket = "/a"
hostKey = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"
knownHostsFile = "/h"
legacyAlgorithms = true
`
	t.Setenv("CONNCFG_PASSPHRASE", "open ${sesame}")
	got, findings = resolve(t, with(map[string]string{"connections/ok.toml": definition}), "ok", "Development")
	ssh := SSH{PrivateKeyFile: "/k", Passphrase: NewSecret("open ${sesame}"), CertificateFile: "/c", Agent: true, AgentSocket: "/a",
		HostKey: "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU", KnownHostsFile: "/h", LegacyAlgorithms: true}
	if !reflect.DeepEqual(got.SSH, ssh) {
		t.Errorf("got %+v\nwant %+v\nfindings%s", got.SSH, ssh, printed(findings))
	}
}

// Each environment may differ in everything but what makes the connection itself, the protocol included.
func TestEnvironmentOverrides(t *testing.T) {
	definition := good + `useExplicit = true
sslProtocol = "TLS1.3"
[environments.Test]
protocol = "FTPS"
host = "test.example.com"
workingDir = "/test"
password = "other"
[environments.Production]
port = 2222
readOnly = true
`
	c, _ := Load(tree(t, with(map[string]string{"connections/ok.toml": definition, "pierfs.toml": `activeEnvironments = ["Test", "Production"]`})))
	if got := errorsOf(c.Check()); len(got) > 0 {
		t.Fatalf("found%s", printed(got))
	}
	test, _ := c.Resolve(t.Context(), "ok", "Test")
	if test.Protocol != FTPS || test.Address() != "test.example.com:21" || test.WorkingDir != "/test" || test.Password.Reveal() != "other" || test.TLS.MinVersion != tls.VersionTLS13 {
		t.Errorf("Test: %+v", test)
	}
	prod, _ := c.Resolve(t.Context(), "ok", "Production")
	if prod.Protocol != SFTP || prod.Address() != "files.example.com:2222" || !prod.ReadOnly || prod.Password.Reveal() != "hunter2" || prod.TLS != (TLS{}) {
		t.Errorf("Production: %+v", prod)
	}
}

// Holds rows 33 and 35 of the requirements.
func TestPrecedenceOfVariables(t *testing.T) {
	levels := []struct{ file, table, value string }{
		{"environments/Test.toml", "secrets", "environment secret"},
		{"environments/Test.toml", "variables", "environment plain"},
		{"variables.toml", "secrets", "global secret"},
		{"variables.toml", "variables", "global plain"},
	}
	for i := range levels {
		files := with(map[string]string{"variables.toml": "", "connections/ok.toml": strings.Replace(good, "${pw}", "${p}", 1)})
		for _, l := range levels[i:] {
			files[l.file] += "[" + l.table + "]\np = \"" + l.value + "\"\n"
		}
		got, findings := resolve(t, files, "ok", "Test")
		if got.Password.Reveal() != levels[i].value {
			t.Errorf("level %d: got %q, want %q; findings%s", i, got.Password.Reveal(), levels[i].value, printed(findings))
		}
		if other, _ := resolve(t, files, "ok", "Development"); i < 2 && other.Password.Reveal() != "global secret" {
			t.Errorf("level %d: Development has %q of Test's", i, other.Password.Reveal())
		}
	}
}

// Holds row 42 of the requirements.
func TestVariablesReferToVariables(t *testing.T) {
	vars := "[variables]\ndomain = \"example.com\"\nh = \"${site.name}.${domain}\"\nsite.name = \"eu\"\n\"site.port\" = 2200\n"
	definition := strings.NewReplacer("files.example.com", "ftp-${h}", `username`, "port = \"${site.port}\"\nusername").Replace(good)
	got, findings := resolve(t, with(map[string]string{"environments/Test.toml": vars, "connections/ok.toml": definition}), "ok", "Test")
	if got.Address() != "ftp-eu.example.com:2200" {
		t.Errorf("address %q; findings%s", got.Address(), printed(findings))
	}
}

func TestGlobalVariablesNeedNoHeader(t *testing.T) {
	files := with(map[string]string{"variables.toml": "h = \"a\"\nsite.h = \"b\"\n[pw]\nvalue = \"x\"\nsecret = true\n[secrets]\nh = \"c\"\n",
		"connections/ok.toml": strings.NewReplacer("files.example.com", "${site.h}", `"batch"`, `"${pww}"`).Replace(good) + "[environments.Test]\nusername = \"u\"\n"})
	if got, findings := resolve(t, files, "ok", "Test"); got.Host != "b" || got.Password.Reveal() != "x" || HasErrors(findings) {
		t.Errorf("%s, %q; findings%s", got.Host, got.Password.Reveal(), printed(findings))
	}
	_, findings := resolve(t, files, "ok", "Development")
	if errs := errorsOf(findings); len(errs) != 1 || !strings.Contains(errs[0].Hint, "did you mean pw?") {
		t.Errorf("findings%s", printed(findings))
	}
}

// Holds row 42 of the requirements.
func TestUndefinedAndCyclicVariablesNameEverything(t *testing.T) {
	for name, c := range map[string]struct {
		vars, code string
		names      []string
	}{
		"undefined":                {"", "VARIABLE_UNDEFINED", []string{`"h"`, `"Development"`}},
		"undefined behind another": {"[variables]\nh = \"${i}\"\n", "VARIABLE_UNDEFINED", []string{`"i"`, "needed by h", `"Development"`}},
		"cycle":                    {"[variables]\nh = \"${i}\"\ni = \"a${j}\"\nj = \"${i}\"\n", "VARIABLE_CYCLE", []string{"i -> j -> i"}},
		"refers to itself":         {"[variables]\nh = \"${h}\"\n", "VARIABLE_CYCLE", []string{"h -> h"}},
	} {
		t.Run(name, func(t *testing.T) {
			definition := strings.NewReplacer("files.example.com", "${h}", `password = "${pw}"`, "agent = true").Replace(good)
			cfg, _ := Load(tree(t, with(map[string]string{"variables.toml": c.vars, "connections/p/x.toml": definition, "connections/ok.toml": ""})))
			target, resolved := cfg.Resolve(t.Context(), "p/x", "Development")
			if !reflect.DeepEqual(target, Target{}) {
				t.Errorf("a target in spite of it: %+v", target)
			}
			for _, got := range [][]Finding{errorsOf(cfg.Check()), errorsOf(resolved)} {
				if len(got) != 1 || string(got[0].Code) != c.code || got[0].Field != "host" || got[0].Connection != "p/x" || got[0].Environment != "Development" || got[0].Line != 2 {
					t.Fatalf("want one %s of host in p/x in Development, line 2, got%s", c.code, printed(got))
				}
				for _, n := range c.names {
					if !strings.Contains(got[0].Message, n) {
						t.Errorf("%s is not named: %s", n, got[0].Message)
					}
				}
			}
		})
	}
}

func TestUnusedVariablesAreJudgedToo(t *testing.T) {
	got := errorsOf(check(t, with(map[string]string{"environments/Test.toml": "[variables]\na = \"${b}\"\nb = \"${a}\"\nc = \"${nothing}\"\n"})))
	for _, want := range []Finding{{Code: CodeVariableCycle, Line: 2}, {Code: CodeVariableUndefined, Line: 4}} {
		if !slices.ContainsFunc(got, func(f Finding) bool {
			return f.Code == want.Code && f.Line == want.Line && strings.HasSuffix(f.File, "Test.toml")
		}) {
			t.Errorf("no %s in line %d:%s", want.Code, want.Line, printed(got))
		}
	}
}

// sourced is a configuration whose password comes from one source.
func sourced(source string) map[string]string {
	return with(map[string]string{"variables.toml": "[variables]\npw = " + source + "\n"})
}

// Holds rows 33 and 35 of the requirements.
func TestSources(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "pw", "from file\n")
	put(t, dir, "windows", "from file\r\n")
	put(t, dir, "bare", "from file")
	put(t, dir, "two", "from file\n\n")
	put(t, dir, "dollar", "${not} #{replaced}\n")
	put(t, dir, "big", strings.Repeat("x", 64<<10+1))
	put(t, dir, "full", strings.Repeat("x", 64<<10))
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CONNCFG_TEST", "from env\n")
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	t.Setenv("CONNCFG_EMPTY", "")
	for i, c := range []struct{ source, want, fails string }{
		{`"literal"`, "literal", ""},
		{`{ value = "literal", secret = true }`, "literal", ""},
		{`{ env = "CONNCFG_EMPTY" }`, "", ""},
		{`{ env = "CONNCFG_MISSING" }`, "", "not set"},
		{`{ env = "CONNCFG_TEST" }`, "", "line break"},
		{`{ file = "DIR/pw" }`, "from file", ""},
		{`{ file = "DIR/windows", secret = true }`, "from file", ""},
		{`{ file = "DIR/bare" }`, "from file", ""},
		{`{ file = "DIR/dollar" }`, "${not} #{replaced}", ""},
		{`{ file = "DIR/full" }`, strings.Repeat("x", 64<<10), ""},
		{`{ file = "DIR/two" }`, "", "line break"},
		{`{ file = "DIR/big" }`, "", "64 KiB"},
		{`{ file = "DIR/none" }`, "", "no such file"},
		{`{ file = "DIR/fifo" }`, "", "no regular file"},
		{`{ file = "DIR" }`, "", "no regular file"},
		{`{ credential = "pw" }`, "from file", ""},
		{`{ credential = "none" }`, "", "no such file"},
		{`{ command = ["printf", "%s\n", "$HOME ; | x"] }`, "$HOME ; | x", ""},
		{`{ command = ["sh", "-c", "echo x; echo canary >&2; exit 3"] }`, "", "exit status 3"},
		{`{ command = ["CONNCFG-no-such-program"] }`, "", "not found"},
		{`{ command = ["yes"] }`, "", "64 KiB"},
		{`{ command = ["cat"] }`, "", ""},
	} {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			got, findings := resolve(t, sourced(strings.ReplaceAll(c.source, "DIR", dir)), "ok", "Development")
			if c.fails != "" {
				if errs := errorsOf(findings); len(errs) != 1 || errs[0].Field != "password" || !strings.Contains(errs[0].Message, c.fails) {
					t.Errorf("%s: want one error of password with %q, got%s", c.source, c.fails, printed(findings))
				}
				if strings.Contains(printed(findings), "canary") {
					t.Errorf("what a secret's command says is shown:%s", printed(findings))
				}
				return
			}
			if got.Password.Reveal() != c.want || HasErrors(findings) {
				t.Errorf("%s: got %d bytes %.40q, want %.40q; findings%s", c.source, len(got.Password.Reveal()), got.Password.Reveal(), c.want, printed(findings))
			}
		})
	}
}

func TestOpenCommandMayTellWhatItSays(t *testing.T) {
	_, findings := resolve(t, sourced(`{ command = ["sh", "-c", "echo no vault here >&2; exit 1"], secret = false }`), "ok", "Development")
	if !strings.Contains(printed(findings), "no vault here") {
		t.Errorf("findings%s", printed(findings))
	}
}

// A hung program ends with the caller's patience, and so do the programs that it has started.
func TestHungCommandEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "alive")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	c, _ := Load(tree(t, sourced(`{ command = ["sh", "-c", "exec 3>`+fifo+`; sleep 60 & echo started >&3; wait"] }`)))
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan []Finding, 1)
	go func() {
		_, findings := c.Resolve(ctx, "ok", "Development")
		done <- findings
	}()
	f, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	cancel(context.DeadlineExceeded)
	if findings := <-done; !HasErrors(findings) || !strings.Contains(printed(findings), "deadline exceeded") {
		t.Errorf("findings%s", printed(findings))
	}
	if n, err := f.Read(make([]byte, 1)); n != 0 {
		t.Errorf("somebody still writes: %d, %v", n, err) // EOF comes once every holder of the pipe is gone
	}
}

func TestCheckRunsAndOpensNothing(t *testing.T) {
	dir := t.TempDir()
	ran := filepath.Join(dir, "ran")
	put(t, dir, "pw", "canary")
	vars := `[variables]
pw = { command = ["touch", "` + ran + `"] }
unused = { command = ["touch", "` + ran + `"] }
f = { file = "` + dir + `/pw" }
`
	definition := good + "privateKeyPassphrase = { command = [\"touch\", \"" + ran + "\"] }\nprivateKeyFile = \"" + dir + "/pw\"\n[environments.Test]\npassword = \"${f}\"\n"
	c, _ := Load(tree(t, with(map[string]string{"variables.toml": vars, "connections/ok.toml": definition})))
	before := accessed(t, filepath.Join(dir, "pw"))
	if got := errorsOf(c.Check()); len(got) > 0 {
		t.Errorf("found%s", printed(got))
	}
	c.Revision("ok", "Development")
	if _, err := os.Stat(ran); err == nil {
		t.Error("a command has run")
	}
	if now := accessed(t, filepath.Join(dir, "pw")); now != before {
		t.Errorf("the secret's file was read at %v", now)
	}
	if _, findings := c.Resolve(t.Context(), "ok", "Development"); HasErrors(findings) {
		t.Errorf("resolve:%s", printed(findings))
	}
	if _, err := os.Stat(ran); err != nil {
		t.Errorf("resolve did not run the command: %v", err)
	}
}

func accessed(t *testing.T, name string) syscall.Timespec {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Atim
}

// A mistake in an environment's file may have hidden the variable that was meant there.
func TestBrokenEnvironmentDoesNotFallBackToGlobalVariables(t *testing.T) {
	files := with(map[string]string{
		"variables.toml":         "[variables]\nhost = \"prod.example.com\"\npw = { env = \"HOME\" }\n",
		"environments/Test.toml": "[variables]\nhost = test.example.com\n",
		"connections/ok.toml":    strings.Replace(good, "files.example.com", "${host}", 1),
		"connections/plain.toml": strings.Replace(good, "password = \"${pw}\"\n", "agent = true\n", 1),
	})
	if target, findings := resolve(t, files, "ok", "Test"); !reflect.DeepEqual(target, Target{}) || !HasErrors(findings) {
		t.Errorf("ok in Test is %s; findings%s", target.Display(), printed(findings))
	}
	for name, env := range map[string]string{"ok": "Development", "plain": "Test"} {
		if target, findings := resolve(t, files, name, env); target.Name != name {
			t.Errorf("%s in %s cannot be used:%s", name, env, printed(findings))
		}
	}
}

func TestResolveRefusesWhatIsNotThere(t *testing.T) {
	if _, f := resolve(t, base(), "okk", "Test"); len(f) != 1 || f[0].Code != CodeUnknownConnection || !strings.Contains(f[0].Hint, "ok") {
		t.Errorf("unknown connection:%s", printed(f))
	}
	if _, f := resolve(t, base(), "ok", "test"); len(f) != 1 || f[0].Code != CodeUnknownEnvironment || !strings.Contains(f[0].Hint, "Test") {
		t.Errorf("unknown environment:%s", printed(f))
	}
	target, f := resolve(t, with(map[string]string{"connections/ok.toml": "port = 0\n" + good}), "ok", "Test")
	if !reflect.DeepEqual(target, Target{}) || !HasErrors(f) {
		t.Errorf("a definition with errors is %+v", target)
	}
}

func TestShowTellsWhereValuesComeFrom(t *testing.T) {
	c, _ := Load(tree(t, with(map[string]string{"connections/ok.toml": good + "privateKeyPassphrase = \"geheim\"\nprivateKeyFile = \"/k\"\n[environments.Test]\nhost = \"t\"\n"})))
	got := map[string]Shown{}
	for _, s := range c.Connection("ok").Show("Test") {
		got[s.Field] = s
	}
	for field, want := range map[string][2]string{
		"name": {"ok", "definition"}, "host": {"t", "environment Test"}, "port": {"22", "default"}, "retryCount": {"3", "default"}, "timeout": {"30s", "default"},
		"password": {"${pw}", "definition"}, "privateKeyPassphrase": {"********", "definition"}, "connectTimeout": {"30s", "default"}, "useExplicit": {"", ""},
	} {
		if s := got[field]; s.Value != want[0] || s.From != want[1] {
			t.Errorf("%s is %q from %q, want %q from %q", field, s.Value, s.From, want[0], want[1])
		}
	}
}

func TestRevisionChangesWithMeaningOnly(t *testing.T) {
	files := with(map[string]string{
		"environments/Test.toml": "[variables]\nh = \"a\"\nunused = \"x\"\n",
		"connections/ok.toml":    strings.Replace(good, "files.example.com", "${h}.example.com", 1) + "[environments.Production]\nhost = \"p\"\n",
	})
	revision := func(name, env string, changed map[string]string) string {
		all := with(files)
		for k, v := range changed {
			all[k] = v
		}
		c, _ := Load(tree(t, all))
		return c.Revision(name, env)
	}
	first := revision("ok", "Test", nil)
	if first == "" || revision("none", "Test", nil) != "" {
		t.Fatalf("revision %q", first)
	}
	text := files["connections/ok.toml"]
	for name, changed := range map[string]map[string]string{
		"comments and order":  {"connections/ok.toml": "# new\n\nworkingDir = '/in' # dir\n" + strings.Replace(text, "workingDir = \"/in\"\n", "", 1)},
		"another environment": {"connections/ok.toml": text + "port = 77\n"},
		"unused variable":     {"environments/Test.toml": "[variables]\nh = \"a\"\nunused = \"y\"\n"},
		"another connection":  {"connections/other.toml": good},
		"disabled":            {"connections/ok.toml": "enabled = false\n" + text},
		"a description":       {"connections/ok.toml": "description = \"new\"\n" + text},
		"active environments": {"pierfs.toml": `activeEnvironments = ["Production"]`},
	} {
		if got := revision("ok", "Test", changed); got != first {
			t.Errorf("%s changes the revision", name)
		}
	}
	for name, changed := range map[string]map[string]string{
		"a field":           {"connections/ok.toml": "readOnly = true\n" + text},
		"a literal secret":  {"connections/ok.toml": strings.Replace(text, "${pw}", "x", 1)},
		"a variable":        {"environments/Test.toml": "[variables]\nh = \"b\"\n"},
		"a variable's name": {"environments/Test.toml": "[variables]\ni = \"a\"\n"},
		"a global variable": {"variables.toml": "[variables]\npw = { env = \"X\" }\n"},
	} {
		if got := revision("ok", "Test", changed); got == first {
			t.Errorf("%s does not change the revision", name)
		}
	}
}

func TestHostsToFallBackOn(t *testing.T) {
	hosts := Target{Protocol: FTPS, Host: "a", Port: 21, Fallbacks: []Place{{"b", 0}, {"::1", 2121}}, TLS: TLS{ServerName: "a"}}.Hosts()
	var got []string
	for _, h := range hosts {
		got = append(got, h.Address()+" "+h.TLS.ServerName)
		if h.Fallbacks != nil {
			t.Errorf("%s has hosts to fall back on itself", h.Address())
		}
	}
	if want := []string{"a:21 a", "b:21 b", "[::1]:2121 ::1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	named := Target{Host: "a", Port: 21, Fallbacks: []Place{{"b", 0}}, TLS: TLS{ServerName: "name"}}.Hosts()
	if named[1].TLS.ServerName != "name" {
		t.Errorf("the second is asked for the certificate of %s, and the definition says name", named[1].TLS.ServerName)
	}
}

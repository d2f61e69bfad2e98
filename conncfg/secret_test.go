package conncfg

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
)

const canary = "c4nary-Pa55"

// A secret is not printed by any verb, handler or encoder, however deep it lies.
func TestNothingPrintsASecret(t *testing.T) {
	type inner struct {
		S Secret
		P *Secret
	}
	type outer struct {
		Target
		inner
		L []Secret
		M map[string]Secret
		A any
	}
	s := NewSecret(canary)
	deep := outer{Target: Target{Name: "t", Password: s, SSH: SSH{PrivateKey: s, Passphrase: s}}, inner: inner{s, &s}, L: []Secret{s}, M: map[string]Secret{"k": s}, A: s}
	values := map[string]any{"secret": s, "pointer": &s, "target": deep.Target, "deep": deep, "pointer to deep": &deep, "list": []any{s, deep}}

	seen := func(how, what, out string, err error) {
		t.Helper()
		// %x and %q print other characters than those of the canary; its hexadecimal form is looked for as well.
		for _, leak := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprint([]byte(canary)), canary[1:]} {
			if strings.Contains(out, leak) {
				t.Errorf("%s of %s: %s", how, what, out)
			}
		}
		if err != nil {
			t.Errorf("%s of %s: %v", how, what, err)
		}
	}
	for what, v := range values {
		for _, verb := range "vTtbcdoOqxXUeEfFgGspw" {
			for _, flags := range []string{"", "+", "#", "-20", " ", "020", ".3", "+#"} {
				if format := "%" + flags + string(verb); verb != 'w' && verb != 'p' && verb != 'T' {
					seen(format, what, fmt.Sprintf(format, v), nil)
				}
			}
		}
		seen("Sprint", what, fmt.Sprint(v), nil)
		seen("Errorf", what, fmt.Errorf("%v: %w", v, errors.New("x")).Error(), nil)

		var log bytes.Buffer
		for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(h).Info("x", "v", v, slog.Group("g", "v", v))
		}
		seen("slog", what, log.String(), nil)

		out, err := json.Marshal(v)
		seen("JSON", what, string(out), err)
		if what != "list" && what != "secret" && what != "pointer" { // TOML has no such documents
			out, err = toml.Marshal(v)
			seen("TOML", what, string(out), err)
		}
	}
	type named struct{ S Secret }
	out, err := xml.Marshal(named{s})
	seen("XML", "struct", string(out), err)
	if s.String() != "********" || (Secret{}).String() != "" || s.Reveal() != canary {
		t.Errorf("String is %q and %q", s.String(), Secret{}.String())
	}
}

func TestSecretComesInAndNotOut(t *testing.T) {
	var v struct{ S, N Secret }
	if err := json.Unmarshal([]byte(`{"S":"`+canary+`"}`), &v); err != nil || v.S.Reveal() != canary || !v.N.Empty() {
		t.Fatalf("read %q, %v", v.S.Reveal(), err)
	}
	if out, err := json.Marshal(v); err != nil || string(out) != `{"S":null,"N":null}` {
		t.Errorf("JSON is %s, %v; want null for any secret, empty or not", out, err)
	}
}

// Nothing that a configuration with secrets in every place says may hold one.
func TestConfigurationNeverShowsASecret(t *testing.T) {
	t.Setenv("CONNCFG_CANARY", canary+"\n\n") // refused for its line breaks, which invites an error to quote it
	files := map[string]string{
		"variables.toml":                "[variables]\npw = { value = \"" + canary + "\", secret = true }\n[secrets]\nx = \"" + canary + "\"\n",
		"environments/Development.toml": "[variables]\npw = { value = \"" + canary + "\", secret = true }\nenv = { env = \"CONNCFG_CANARY\", secret = true }\nbad = { value = \"" + canary + "${\", secret = true }\nout = { command = [\"sh\", \"-c\", \"echo " + canary[:3] + "''" + canary[3:] + " >&2; exit 1\"] }\n[secrets]\ny = 1.5\n",
	}
	for i, password := range []string{`"` + canary + `"`, `"` + canary + `${pw}"`, `"` + canary + `${nope}"`, `"${env}"`, `"${bad}"`, `"${out}"`, `"` + canary + `\n"`, `"` + canary + `#{a}"`,
		`"` + canary, `["` + canary + `"]`, canary, `{ value = "` + canary + `\n" }`, `{ value = "` + canary + `", vault = "x" }`, `"""` + canary, `"${pw}"`, `"${x}` + canary + `"`} {
		files[fmt.Sprintf("connections/c%d.toml", i)] = "protocol = \"SFTP\"\nhost = \"${pw}\"\nusername = \"${pw}u\"\nworkingDir = \"/\"\nprivateKey = \"" + canary + "\"\nprivateKeyPassphrase = \"" + canary + "\"\npassword = " + password + "\n"
		files[fmt.Sprintf("connections/d%d.toml", i)] = "protocol = \"SFTP\"\nhost = \"h\"\nusername = \"u\"\nworkingDir = \"/\"\npassword = " + password + "\n"
	}
	c, findings := Load(tree(t, files))
	var all strings.Builder
	fmt.Fprintf(&all, "%+v %s", findings, printed(c.Check()))
	usable := 0
	for _, conn := range c.Connections() {
		_, refused := c.Resolve(t.Context(), conn.Name, "Development")
		all.WriteString(printed(refused))
		target, findings := c.Resolve(t.Context(), conn.Name, "Test")
		if !target.Password.Empty() {
			usable++
		}
		out, err := json.Marshal(map[string]any{"f": findings, "t": target, "s": conn.Show("Test")})
		fmt.Fprintf(&all, "%s %v %+v %s\n%s\n%s %s", out, err, target, target.Display(), conn.TOML(), printed(c.Restrict(conn, "/srv")), c.Revision(conn.Name, "Test"))
	}
	for _, v := range c.Variables("Test") {
		fmt.Fprintln(&all, v.Name, v.Source())
	}
	for line := range strings.Lines(all.String()) {
		if i := strings.Index(line, canary); i >= 0 {
			t.Errorf("...%s", line[max(0, i-200):min(len(line), i+40)])
		}
	}
	if usable < 4 {
		t.Errorf("only %d connections resolved; the test proves little:%s", usable, printed(c.Check()))
	}
}

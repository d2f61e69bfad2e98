package conncfg

import (
	"strings"
	"testing"
)

func TestURLs(t *testing.T) {
	c, _ := Load(tree(t, base()))
	for raw, want := range map[string]string{
		"sftp://bob@h/dir":                       "SFTP bob h:22 /dir h",
		"SFTP://bob@H.example.com:2222/a/b/":     "SFTP bob H.example.com:2222 /a/b H.example.com",
		"sftp://bob@h":                           "SFTP bob h:22 . h",
		"sftp://bob@h/":                          "SFTP bob h:22 / h",
		"sftp://bob@h/~":                         "SFTP bob h:22 . h",
		"sftp://bob@h/~/":                        "SFTP bob h:22 . h",
		"sftp://bob@h/~/x/y":                     "SFTP bob h:22 x/y h",
		"sftp://bob@h/~x":                        "SFTP bob h:22 /~x h",
		"sftp://bob@h//x":                        "SFTP bob h:22 /x h",
		"sftp://bob@[2001:db8::1]:22/x":          "SFTP bob [2001:db8::1]:22 /x 2001-db8--1",
		"sftp://bob@[fe80::1%25eth0]/x":          "SFTP bob [fe80::1%eth0]:22 /x fe80--1-eth0",
		"sftp://b%40b%3Ax@h/a%20b%3F%23%25":      "SFTP b@b:x h:22 /a b?#% h",
		"sftp://bob@h/a+b":                       "SFTP bob h:22 /a+b h",
		"sftp://DOM%5Cbob@h/x":                   `SFTP DOM\bob h:22 /x h`,
		"ftp://bob@h/x":                          "FTP bob h:21 /x h",
		"ftps://bob@h/x":                         "FTPS bob h:990 /x h implicit",
		"ftps://bob@h:21/x":                      "FTPS bob h:21 /x h implicit",
		"ftps://bob@h/x -o useExplicit":          "FTPS bob h:21 /x h",
		"ftpes://bob@h/x -o useImplicit":         "FTPS bob h:990 /x h implicit",
		"ftp://h -o username=":                   "FTP anonymous h:21 . h",
		"ftps://bob@h:990/x":                     "FTPS bob h:990 /x h implicit",
		"ftpes://bob@h/x":                        "FTPS bob h:21 /x h",
		"ftpes://bob@h:990/x":                    "FTPS bob h:990 /x h",
		"sftp://h/x -o username=bob":             "SFTP bob h:22 /x h",
		"sftp://al@h/x -o username=bob port=7":   "SFTP bob h:7 /x h",
		"sftp://bob@h/x -o ro,tempName=a=NAME":   "SFTP bob h:22 /x h ro",
		"sftp://bob@h/x -o readOnly=TRUE":        "SFTP bob h:22 /x h ro",
		"sftp://bob@h/x -o owner=raw,timeout=40": "SFTP bob h:22 /x h",
	} {
		rest, options := raw, []string(nil)
		if before, after, ok := strings.Cut(raw, " -o "); ok {
			rest, options = before, strings.FieldsFunc(after, func(r rune) bool { return r == ' ' || r == ',' })
		}
		conn, findings := ParseURL(rest, options...)
		findings = append(findings, conn.SetSecret("password", NewSecret("${x"))...)
		target, resolved := c.ResolveUnsaved(t.Context(), conn, "Test")
		if HasErrors(append(findings, resolved...)) {
			t.Errorf("%s: findings%s", raw, printed(append(findings, resolved...)))
			continue
		}
		got := string(target.Protocol) + " " + target.Username + " " + target.Address() + " " + target.WorkingDir + " " + conn.Name
		if target.TLS.Implicit {
			got += " implicit"
		}
		if target.ReadOnly {
			got += " ro"
		}
		if got != want {
			t.Errorf("%s\ngot  %s\nwant %s", raw, got, want)
		}
		if target.Password.Reveal() != "${x" {
			t.Errorf("%s: the password handed over became %q", raw, target.Password.Reveal())
		}
		if len(CheckName(conn.Name)) > 0 {
			t.Errorf("%s: %q is no name", raw, conn.Name)
		}
	}
}

func TestURLsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		raw, option string
		code        Code
		field, hint string
	}{
		{"bob@h:/dir", "", CodeInvalid, "", "sftp://user@host:port/dir"},
		{"", "", CodeInvalid, "", "sftp://"},
		{"http://h/x", "", CodeInvalid, "protocol", "sftp://"},
		{"sftp://bob:" + canary + "@h/x", "", CodePasswordPublic, "password", "--password-file"},
		{"sftp://bob:@h/x", "", CodePasswordPublic, "password", "PIERFS_PASSWORD"},
		{"sftp://bob:" + canary + "%zz@h/x", "", CodeInvalid, "", "%25"},
		{"sftp://bob@h/x?" + canary, "", CodeInvalid, "", "%3F"},
		{"sftp://bob@h/x#y", "", CodeInvalid, "", "%23"},
		{"sftp://bob@h:port/x", "", CodeInvalid, "", "brackets"},
		{"sftp://bob@::1/x", "", CodeInvalid, "", "brackets"},
		{"sftp://bob@h:70000/x", "", CodeRange, "port", "65535"},
		{"sftp://bob@:22/x", "", CodeHostInvalid, "host", "name or address"},
		{"sftp://bob@h/a/../b", "", CodeInvalid, "workingDir", "meant"},
		{"sftp://bob@h/%0a", "", CodeInvalid, "workingDir", "check"},
		{"sftp://b%0d%0aDELE@h/x", "", CodeInvalid, "username", "line break"},
		{"sftp://bob@h/x", "password=" + canary, CodePasswordPublic, "password", "--password-file"},
		{"sftp://bob@h/x", "privateKeyPassphrase=" + canary, CodePasswordPublic, "privateKeyPassphrase", ""},
		{"sftp://bob@h/x", "passwrd=" + canary, CodeUnknownKey, "passwrd", ""},
		{"sftp://bob@h/x", "readonly", CodeUnknownKey, "readonly", "did you mean readOnly?"},
		{"sftp://bob@h/x", "readOnly=perhaps", CodeWrongType, "readOnly", "readOnly=true"},
		{"sftp://bob@h/x", "retryCount=many", CodeWrongType, "retryCount", ""},
		{"sftp://bob@h/x", "retryCount=-1", CodeRange, "retryCount", "0 to 100"},
		{"sftp://bob@h/x", "owner", CodeInvalid, "owner", `"map"`},
		{"sftp://bob@h/x", "tempName=x", CodeInvalid, "tempName", "XXXX"},
		{"sftp://bob@h/x", "enabled=false", CodeWrongPlace, "enabled", "leave it out"},
		{"sftp://bob@h/x", "encoding=${e}", CodeVariableMisplaced, "encoding", ""},
	} {
		var options []string
		if c.option != "" {
			options = append(options, c.option)
		}
		_, findings := ParseURL(c.raw, options...)
		if len(findings) != 1 || findings[0].Code != c.code || findings[0].Field != c.field || findings[0].Severity != Error || !strings.Contains(findings[0].Hint, c.hint) {
			t.Errorf("%q %q: want one %s of %q with hint %q, got%s", c.raw, c.option, c.code, c.field, c.hint, printed(findings))
		}
		if strings.Contains(printed(findings), canary) {
			t.Errorf("%q: the password is shown:%s", c.raw, printed(findings))
		}
	}
}

func TestURLWithoutUserIsToldWhenResolved(t *testing.T) {
	c, _ := Load(tree(t, base()))
	conn, findings := ParseURL("sftp://h/x")
	_, resolved := c.ResolveUnsaved(t.Context(), conn, "Test")
	if errs := errorsOf(resolved); len(findings) > 0 || len(errs) != 1 || errs[0].Code != CodeMissing || errs[0].Field != "username" {
		t.Errorf("parse%s\nresolve%s", printed(findings), printed(resolved))
	}
}

// What a connection writes about itself is read as the same connection.
func TestTOMLSurvivesTheWayThereAndBack(t *testing.T) {
	text := good + "port = \"${p}\"\ndescription = \"a \\\"b\\\"\\n\\u0001 ü\"\nprivateKeyPassphrase = { command = [\"a b\", \"\\\"c\"] }\nprivateKeyFile = \"/k\"\nuid = 3\nfileMode = \"0640\"\ntimeout = 45\nagent = true\n[environments.Test]\nport = 22\n[environments.\"A.b\"]\nhost = \"x\"\n"
	first, findings := Parse([]byte(text), "a", "x")
	if len(findings) > 0 {
		t.Fatal(printed(findings))
	}
	again, findings := Parse(first.TOML(), "a", "x")
	if len(findings) > 0 {
		t.Fatalf("findings%s\nin\n%s", printed(findings), first.TOML())
	}
	if string(again.TOML()) != string(first.TOML()) {
		t.Errorf("became\n%s\nwas\n%s", again.TOML(), first.TOML())
	}
	if got := again.Show("Test"); len(got) == 0 || len(got) != len(first.Show("Test")) || again.Description() != first.Description() {
		t.Errorf("shows %v\nwas %v", got, first.Show("Test"))
	}
	literal, _ := Parse([]byte(strings.Replace(text, "${pw}", canary, 1)), "a", "x")
	if strings.Contains(string(literal.TOML()), canary) || strings.Contains(string(literal.TOML()), "password") {
		t.Errorf("a literal secret is written:\n%s", literal.TOML())
	}
}

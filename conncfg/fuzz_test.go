package conncfg

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	for _, r := range rules {
		f.Add([]byte(define(r.write)))
	}
	f.Add([]byte("[environments.Test]\nhost=\"\"\"\na\"\"\"\n[[a]]\n[b.c]\nd.e = {f = [1, {g = 1979-05-27}]}\n\"\" = 1"))
	empty, _ := Load("/nonexistent")
	f.Fuzz(func(t *testing.T, data []byte) {
		c, findings := Parse(data, "fuzz", "x")
		lines := strings.Count(string(data), "\n") + 1
		for _, finding := range findings {
			if finding.Line < 0 || finding.Line > lines || finding.Message == "" || finding.Code == "" || finding.Severity != Error {
				t.Errorf("%d lines: %+v", lines, finding)
			}
			if s := finding.String(); strings.ContainsAny(s, "\n\r\x00") || !utf8.ValidString(s) {
				t.Errorf("more than a line: %q", s)
			}
		}
		offline := c.evaluate("Test", empty.expander("Test")) // and never Resolve: it would run what the fuzzer writes
		for _, finding := range offline.findings {
			if s := finding.String(); strings.ContainsAny(s, "\n\r\x00") || !utf8.ValidString(s) {
				t.Errorf("more than a line: %q", s)
			}
		}
		empty.Restrict(c, "/srv")
		c.ignored()
		c.Show("Test")
		if HasErrors(findings) {
			return
		}
		written := c.TOML()
		again, findings := Parse(written, "fuzz", "x")
		if HasErrors(findings) || string(again.TOML()) != string(written) {
			t.Errorf("%q\nwas written as %q\nand read as %q:%s", data, written, again.TOML(), printed(findings))
		}
		if enabled, err := WithEnabled(data, false); err == nil {
			changed, findings := Parse(enabled, "fuzz", "x")
			if changed.Enabled() || HasErrors(findings) {
				t.Errorf("%q\nwith enabled = false is %q:%s", data, enabled, printed(findings))
			}
		}
	})
}

func FuzzExpand(f *testing.F) {
	f.Add("${a}.example.com", "x${b}", "y")
	f.Add("$${a}}${b}", "${b}", "${a}")
	f.Add("#{a}${", "${ }", "${a")
	f.Fuzz(func(t *testing.T, text, a, b string) {
		c, _ := Load("/nonexistent")
		for name, value := range map[string]string{"a": a, "b": b} {
			c.global.plain[name] = &Variable{Name: name, source: source{kind: fromValue, text: value}}
		}
		got := c.expander("Test").expand(text)
		if got.problem != nil {
			if got.text != "" || got.problem.message == "" || got.problem.hint == "" {
				t.Errorf("%+v", got)
			}
			return
		}
		if len(got.text) > maxSource || got.unknown || got.secret {
			t.Errorf("%q became %+v", text, got)
		}
		if !strings.Contains(text, "${") && got.text != text {
			t.Errorf("%q has no reference and became %q", text, got.text)
		}
		// What is left of the text outside of references is in the result, in its order.
		pieces, _ := split(text)
		rest := got.text
		for _, p := range pieces {
			if p.name {
				continue
			}
			_, after, found := strings.Cut(rest, p.text)
			if !found {
				t.Fatalf("%q became %q and lost %q", text, got.text, p.text)
			}
			rest = after
		}
	})
}

func FuzzParseURL(f *testing.F) {
	f.Add("sftp://bob@h:22/dir", "readOnly")
	f.Add("ftps://b%40b@[::1%25eth0]:990/~/x%20y", "timeout=30")
	f.Add("sftp://bob:secret@h", "password=x")
	f.Add("", "\x00")
	f.Fuzz(func(t *testing.T, raw, option string) {
		c, findings := ParseURL(raw, option)
		for _, finding := range findings {
			if s := finding.String(); strings.ContainsAny(s, "\n\r\x00") || finding.Message == "" {
				t.Errorf("%q", s)
			}
		}
		if HasErrors(findings) {
			return
		}
		if f := CheckName(c.Name); len(f) > 0 {
			t.Errorf("%q: %s", raw, f[0])
		}
		again, findings := Parse(c.TOML(), "fuzz", c.Name)
		if HasErrors(findings) || fmt.Sprint(again.Show("Test")) != fmt.Sprint(c.Show("Test")) {
			t.Errorf("%q %q: is %v\nand read again %v%s", raw, option, c.Show("Test"), again.Show("Test"), printed(findings))
		}
	})
}

package conncfg

import (
	"strings"
	"testing"
	"time"
)

// Holds row 53 of the requirements: a variable carries when its secret was changed and when it must be, each connection that logs in with it
// is told of it from 14 days before, and a mistake in either is an error at its place.
func TestSecretsThatMustBeChanged(t *testing.T) {
	now := time.Now().UTC()
	ago := func(days int) string { return now.Add(-time.Duration(days) * day).Format(time.DateOnly) }
	config, _ := Load(tree(t, map[string]string{
		"pierfs.toml": `activeEnvironments = ["Test"]`,
		"environments/Test.toml": "[variables]\nold = { env = \"HOME\", secret = true, rotatedAt = \"" + ago(100) + "\", rotateAfter = \"90d\" }\n" +
			"soon = { env = \"HOME\", secret = true, rotatedAt = \"" + ago(80) + "\", rotateAfter = \"90d\" }\n" +
			"young = { env = \"HOME\", secret = true, rotatedAt = \"" + now.Format(time.RFC3339) + "\", rotateAfter = \"90d\" }\n" +
			"through = \"${old}\"\nfree = { env = \"HOME\", secret = true, rotatedAt = \"2001-01-01\" }\n",
		"connections/old.toml":   strings.Replace(good, `password = "${pw}"`, "password = \"${through}\"", 1),
		"connections/soon.toml":  strings.Replace(good, `password = "${pw}"`, "password = \"${soon}\"", 1),
		"connections/young.toml": strings.Replace(good, `password = "${pw}"`, "password = \"${young}\"", 1),
		"connections/free.toml":  strings.Replace(good, `password = "${pw}"`, "password = \"${free}\"", 1),
		"connections/own.toml":   strings.Replace(good, `password = "${pw}"`, "password = { env = \"HOME\", rotatedAt = \"2001-01-01\", rotateAfter = \"1d\" }", 1),
	}))
	for name, want := range map[string]string{"old": "should have been changed by", "soon": "must be changed by", "young": "", "own": "the secret was changed last on 2001-01-01 and should"} {
		all := config.Ageings(name, "Test")
		if len(all) != 1 {
			t.Errorf("%s: %+v, want one secret that must be changed", name, all)
			continue
		}
		f, told := all[0].Finding(now)
		if told != (want != "") || !strings.Contains(f.Message, want) || told && (f.Code != CodeSecretAge || f.Severity != Warning || f.Hint == "") {
			t.Errorf("%s: %v %+v, want %q", name, told, f, want)
		}
	}
	if all := config.Ageings("free", "Test"); len(all) > 0 {
		t.Errorf("a secret without a bound: %+v", all)
	}
	var told []string
	for _, f := range config.Check() {
		if f.Code == CodeSecretAge {
			told = append(told, f.Connection+f.Field)
		}
	}
	if got := strings.Join(told, " "); got != "ownpassword variables.old variables.soon" {
		t.Errorf("check tells of %q", got)
	}
	for text, want := range map[string]string{
		`rotateAfter = "90d"`: "without rotatedAt", `rotatedAt = "yesterday"`: "is no date", `rotatedAt = 2026`: "takes a text",
		`rotatedAt = "2026-01-01", rotateAfter = "3 months"`: "number of days", `rotatedAt = "2026-01-01", rotateAfter = "0d"`: "number of days",
	} {
		got := errorsOf(check(t, map[string]string{"environments/Test.toml": "[variables]\nx = { env = \"HOME\", " + text + " }\n"}))
		if len(got) != 1 || !strings.Contains(got[0].Message, want) || got[0].Line != 2 {
			t.Errorf("%s: %s, want one error that says %q", text, printed(got), want)
		}
	}
}

// A date that is written otherwise changes no mount, and stands in the log of changes; it travels with an export.
func TestRotationIsNoMeaning(t *testing.T) {
	with := func(date string) *Config {
		c, _ := Load(tree(t, map[string]string{"connections/a.toml": strings.Replace(good, `"${pw}"`, `{ credential = "a", rotatedAt = "`+date+`", rotateAfter = "30d" }`, 1)}))
		return c
	}
	before, after := with("2026-01-01"), with("2026-02-01")
	if before.Revision("a", "Test") != after.Revision("a", "Test") {
		t.Error("another date makes another revision: mounts would follow it")
	}
	if all := Differences(before, after); len(all) != 1 || all[0].Field != "password" {
		t.Errorf("%+v, want one difference for the log", all)
	}
	text, err := after.Connection("a").Portable()
	if err != nil {
		t.Fatal(err)
	}
	back, err := FromJSON(text)
	if err != nil || len(back) != 1 || !strings.Contains(string(back[0].TOML), `rotatedAt = "2026-02-01T00:00:00Z", rotateAfter = "30d"`) {
		t.Errorf("%v: exported and read again:\n%s\n%s", err, text, back[0].TOML)
	}
}

package foreign

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pierfs/conncfg"
)

// Each file of testdata is read as its neighbour with the ending .want says: definitions, secrets (here alone), what is to be given again,
// and notes.
func TestForeignFiles(t *testing.T) {
	for _, format := range Formats() {
		file := filepath.Join("testdata", format)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all, notes, err := Read(format, text, "me")
		if err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		got := printed(all, notes)
		want, err := os.ReadFile(file + ".want")
		if err != nil || got != string(want) {
			t.Errorf("%s is read as\n%s\nwant\n%s%v", format, got, want, err)
		}
		for _, c := range all {
			if _, findings := conncfg.Parse(c.TOML, c.Name, c.Name); conncfg.HasErrors(findings) {
				t.Errorf("%s: %s is no definition: %v\n%s", format, c.Name, findings, c.TOML)
			}
		}
	}
}

func printed(all []Connection, notes []string) string {
	var b strings.Builder
	for _, c := range all {
		fmt.Fprintf(&b, "== %s\n%s", c.Name, c.TOML)
		for _, field := range conncfg.FieldNames() {
			if s, ok := c.Secrets[field]; ok {
				fmt.Fprintf(&b, "%s is %q\n", field, s.Reveal())
			}
		}
		for _, blank := range c.Blanks {
			fmt.Fprintf(&b, "again: %s: %s\n", blank.Field, blank.Why)
		}
		for _, note := range c.Notes {
			fmt.Fprintf(&b, "note: %s\n", note)
		}
	}
	for _, note := range notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	return b.String()
}

// What rclone obscures is revealed as rclone's own tests have it.
func TestReveal(t *testing.T) {
	for obscured, want := range map[string]string{"YWFhYWFhYWFhYWFhYWFhYXMaGgIlEQ": "potato", "YmJiYmJiYmJiYmJiYmJiYp3gcEWbAw": "potato", "YWFhYWFhYWFhYWFhYWFhYQ": ""} {
		if got, err := reveal(obscured); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", obscured, got, err, want)
		}
	}
	for _, none := range []string{"", "x", "plain password", "YWFh"} {
		if got, err := reveal(none); err == nil {
			t.Errorf("%q is revealed as %q", none, got)
		}
	}
}

// What is none of it is refused with a reason.
func TestForeignRefusals(t *testing.T) {
	for _, c := range []struct{ format, text, want string }{
		{"rclone", "# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\nabc", "rclone config show"},
		{"rclone", "[drive]\ntype = drive\n", `its type is "drive"`},
		{"rclone", "[x]\ntype = sftp\n", "names no host"},
		{"ssh-config", "Host *\n User u\n", "no connection"},
		{"filezilla", "<a/>", "no sitemanager.xml"},
		{"filezilla", "{}", "no XML"},
		{"fstab", "/dev/sda1 / ext4 defaults 0 1\n", "no connection"},
		{"netrc", "", "no format"},
		{"fstab", strings.Repeat("x", MaxSize+1), "are the most"},
	} {
		if _, _, err := Read(c.format, []byte(c.text), "me"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %.40q: %v, want %q", c.format, c.text, err, c.want)
		}
	}
}

// Whatever a file holds, what comes of it is definitions with names of their own, and no secret stands in them or in a note.
func FuzzForeign(f *testing.F) {
	for i, format := range Formats() {
		text, err := os.ReadFile(filepath.Join("testdata", format))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, text)
	}
	f.Fuzz(func(t *testing.T, i int, text []byte) {
		format := Formats()[uint(i)%uint(len(Formats()))]
		all, _, err := Read(format, text, "me")
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, c := range all {
			if len(conncfg.CheckFullName(c.Name)) > 0 || seen[strings.ToLower(c.Name)] {
				t.Errorf("%q is no name, or there twice", c.Name)
			}
			seen[strings.ToLower(c.Name)] = true
			if strings.Contains(string(c.TOML), "\npassword = ") {
				t.Errorf("a password stands in the definition:\n%s", c.TOML)
			}
			if _, findings := conncfg.Parse(c.TOML, c.Name, c.Name); len(findings) > 0 && findings[0].Code == conncfg.CodeSyntax {
				t.Errorf("it is no TOML: %v\n%s", findings, c.TOML)
			}
		}
	})
}

package manual

import (
	"strings"
	"testing"
)

// What the documentation is written in comes out as what it means, and no text becomes a request.
func TestMarkdown(t *testing.T) {
	page := string(Page{Name: "x", Section: 5, Short: "Test of it", Version: "1"}.Text(
		"# Title\n\n.hidden \\n and 'quotes'\nsecond `code` **strong** *soft* [link](a.md#b)\n\n* one\n  more\n* two\n\n## Part\n\n" +
			"| Field | Type | Meaning |\n|---|---|---|\n| `a` | text | `x\\|y` |\n\n```toml\n.k = \"v\\n\"\n```\n"))
	for _, want := range []string{
		"x \\- test of it\n.SH \"DESCRIPTION\"\n\\&.hidden \\en and \\(aqquotes\\(aq second \\fBcode\\fR \\fBstrong\\fR \\fIsoft\\fR link\n",
		".IP \\(bu 3\none more\n.IP \\(bu 3\ntwo\n.SH \"PART\"\n", ".TP\n\\fBa\\fR\nType: text. \\fBx|y\\fR\n", ".nf\n\\&.k = \"v\\en\"\n.fi\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if strings.Contains(page, "Title") {
		t.Error("the title is there twice")
	}
}

package terminal

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"unicode"
)

// evil holds an escape sequence, DEL, C1 controls, marks of direction, a tag character above U+FFFF, and a break.
const evil = "a\x1b[2J\x7f\u0080\u009b31m\u202e\u200b\U000e0041\r\nö€𝄞 z"

func TestNothingHiddenReachesATerminal(t *testing.T) {
	encoded, err := json.Marshal(map[string]string{evil: evil})
	if err != nil {
		t.Fatal(err)
	}
	plain := JSON(encoded)
	for what, text := range map[string]string{"quoted": Quote(evil), "JSON": string(plain), "quoted bytes": Quote("\x9b31m\xff")} {
		if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
			t.Errorf("%s: %q has something hidden", what, text)
		}
		if !strings.HasPrefix(what, "quoted b") && !strings.Contains(text, "ö€𝄞 z") {
			t.Errorf("%s: %q has lost what can be seen", what, text)
		}
	}
	back := map[string]string{}
	if err := json.Unmarshal(plain, &back); err != nil || back[evil] != evil {
		t.Errorf("read back: %q, %v", back, err)
	}
	if same := "plain ö"; Quote(same) != same || string(JSON([]byte(same+"\n"))) != same+"\n" {
		t.Error("plain text is changed")
	}
}

func TestLogsAreJSONWithoutControls(t *testing.T) {
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(JSONWriter(&out), nil)).Info("server", "says", evil)
	var record struct{ Says string }
	if err := json.Unmarshal(out.Bytes(), &record); err != nil || record.Says != evil {
		t.Errorf("read back: %q, %v", record.Says, err)
	}
	if line := strings.TrimSuffix(out.String(), "\n"); strings.ContainsFunc(line, hidden) {
		t.Errorf("the log has %q", line)
	}
}

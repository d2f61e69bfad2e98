package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"pierfs/cmd/internal/control"
)

// page reads docs/CLI.md.
func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/CLI.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every JSON example of the page has exactly the fields that the command prints.
func TestPageShowsTheShapes(t *testing.T) {
	shapes := map[string]reflect.Type{
		"error": reflect.TypeFor[struct {
			Error *control.Error `json:"error"`
		}](),
		"check": reflect.TypeFor[checked](), "apply": reflect.TypeFor[control.ApplyAnswer](), "list": reflect.TypeFor[control.ListAnswer](),
		"status": reflect.TypeFor[control.StatusAnswer](), "show": reflect.TypeFor[control.ShowAnswer](), "test": reflect.TypeFor[tested](),
		"trust": reflect.TypeFor[control.TrustAnswer](), "mount": reflect.TypeFor[control.MountAnswer](),
		"ls": reflect.TypeFor[listed](), "moved": reflect.TypeFor[moved](),
		"doctor":  reflect.TypeFor[examined](),
		"metrics": reflect.TypeFor[control.MetricsAnswer](), "queue": reflect.TypeFor[queued](), "queue_check": reflect.TypeFor[queueChecked](), "queue_change": reflect.TypeFor[control.QueueChanged](), "queue_export": reflect.TypeFor[exported](),
		"event": reflect.TypeFor[control.Event](), "trace": reflect.TypeFor[control.TraceLine](), "log": reflect.TypeFor[control.LogAnswer](), "deployment": reflect.TypeFor[control.Deployment](),
		"cache_status": reflect.TypeFor[control.CacheAnswer](), "cache_drop": reflect.TypeFor[control.Dropped](), "cache_warm": reflect.TypeFor[control.Warming](),
		"change": reflect.TypeFor[control.ChangeAnswer](), "pending": reflect.TypeFor[control.PendingAnswer](), "name_check": reflect.TypeFor[checkedName](), "vars": reflect.TypeFor[control.VarsAnswer](),
		"vars_explain": reflect.TypeFor[explained](), "env_list": reflect.TypeFor[struct {
			Environments []control.Environment `json:"environments"`
		}](), "history": reflect.TypeFor[control.HistoryAnswer](), "audit_verify": reflect.TypeFor[control.VerifyAnswer](),
		"export": reflect.TypeFor[packed](), "import": reflect.TypeFor[control.ImportAnswer](),
		"stat": reflect.TypeFor[control.File](), "get": reflect.TypeFor[transferred](), "rm": reflect.TypeFor[removed](), "mv": reflect.TypeFor[control.Done](), "dry_run": reflect.TypeFor[planned](),
	}
	examples := regexp.MustCompile("(?s)```json (\\w+)\n(.*?)```").FindAllStringSubmatch(page(t), -1)
	seen := map[string]bool{}
	for _, e := range examples {
		name, text := e[1], e[2]
		typ, ok := shapes[name]
		if !ok {
			t.Errorf("nobody knows the shape of example %q", name)
			continue
		}
		seen[name] = true
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(reflect.New(typ).Interface()); err != nil {
			t.Errorf("example %s: %v", name, err)
		}
		var raw any
		if err := json.Unmarshal([]byte(text), &raw); err != nil {
			t.Errorf("example %s: %v", name, err)
		}
		wantFields(t, name, raw, typ)
	}
	for name := range shapes {
		if !seen[name] {
			t.Errorf("the page has no example of %s", name)
		}
	}
}

// wantFields wants every field that is always printed to be in the example.
func wantFields(t *testing.T, where string, raw any, typ reflect.Type) {
	t.Helper()
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch object := raw.(type) {
	case []any:
		for _, v := range object {
			wantFields(t, where, v, typ.Elem())
		}
	case map[string]any:
		if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[time.Time]() {
			return
		}
		for _, f := range reflect.VisibleFields(typ) {
			tag := f.Tag.Get("json")
			name, options, _ := strings.Cut(tag, ",")
			if tag == "" || f.Anonymous {
				continue
			}
			value, ok := object[name]
			switch {
			case ok:
				wantFields(t, where+"."+name, value, f.Type)
			case !strings.Contains(options, "omit"):
				t.Errorf("example %s lacks %q", where, name)
			}
		}
	}
}

// Every code stands in the page beside the status that it ends with, and every command is told of.
func TestPageTellsStatusesAndCommands(t *testing.T) {
	text := page(t)
	for _, code := range control.Codes() {
		row := regexp.MustCompile(fmt.Sprintf(`(?m)^\| %d \|.*$`, code.Exit())).FindString(text)
		if !strings.Contains(row, "`"+string(code)+"`") {
			t.Errorf("the page does not list %s under %d", code, code.Exit())
		}
	}
	for _, c := range commandsBelow((&hand{}).command()) {
		if c.Runnable() && c.Name() != "help" && !strings.Contains(text, "`"+c.CommandPath()) {
			t.Errorf("the page does not tell of %s", c.CommandPath())
		}
	}
}

// Every kind of event is explained.
func TestPageTellsEvents(t *testing.T) {
	text := page(t)
	for _, kind := range control.EventKinds() {
		if !strings.Contains(text, "\n| `"+string(kind)+"` |") {
			t.Errorf("the page does not explain the event %s", kind)
		}
	}
}

// Every command says what it does, how it is used, and where its exit statuses are told. The examples are command lines that
// it takes.
func TestHelp(t *testing.T) {
	for _, c := range commandsBelow((&hand{}).command()) {
		if !c.Runnable() || c.Name() == "help" {
			continue
		}
		var out bytes.Buffer
		if status := run(t.Context(), append(strings.Fields(c.CommandPath())[1:], "--help"), nil, &out, &out); status != 0 {
			t.Errorf("%s --help ends with %d", c.CommandPath(), status)
		}
		for _, want := range []string{c.Short + ".", "\nExamples:\n", "pierfs help statuses"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s --help lacks %q:\n%s", c.Name(), want, out.String())
			}
		}
		for line := range strings.Lines(c.Example) {
			_, line, _ = strings.Cut(strings.TrimSpace(line), "pierfs ") // what goes before is piped into it
			line, _, _ = strings.Cut(line, " | ")
			line, _, _ = strings.Cut(line, " < ")
			tried, rest, err := (&hand{}).command().Find(strings.Fields(line))
			if err == nil {
				err = tried.ParseFlags(rest)
			}
			if err == nil {
				err = tried.ValidateArgs(tried.Flags().Args())
			}
			if err != nil || !strings.HasPrefix(tried.CommandPath()+" ", c.CommandPath()+" ") {
				t.Errorf("example %q of %s: %v", line, c.Name(), err)
			}
		}
	}
	var out bytes.Buffer
	if status := run(t.Context(), []string{"help", "statuses"}, nil, &out, &out); status != 0 {
		t.Errorf("help statuses ends with %d", status)
	}
	for _, code := range control.Codes() {
		if !strings.Contains(out.String(), string(code)) {
			t.Errorf("help statuses lacks %s:\n%s", code, out.String())
		}
	}
}

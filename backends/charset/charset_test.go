package charset_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"pierfs/backends"
	"pierfs/backends/backendtest"
	"pierfs/backends/charset"
	"pierfs/backends/mem"
)

// all are the encodings that a definition may name, but for utf-8.
var all = []string{
	"iso-8859-1", "iso-8859-2", "iso-8859-3", "iso-8859-4", "iso-8859-5", "iso-8859-6", "iso-8859-7", "iso-8859-8", "iso-8859-9", "iso-8859-10",
	"iso-8859-13", "iso-8859-14", "iso-8859-15", "iso-8859-16", "windows-1250", "windows-1251", "windows-1252", "windows-1253", "windows-1254",
	"windows-1255", "windows-1256", "windows-1257", "windows-1258", "windows-874", "cp437", "cp850", "cp852", "cp855", "cp858", "cp860", "cp862",
	"cp863", "cp865", "cp866", "koi8-r", "koi8-u", "macintosh", "shift_jis", "euc-jp", "euc-kr", "gbk", "gb18030", "big5",
}

func byName(t testing.TB, name string) *charset.Encoding {
	t.Helper()
	e, ok := charset.ByName(name)
	if !ok {
		t.Fatalf("nobody knows %s", name)
	}
	return e
}

func TestContract(t *testing.T) {
	for _, name := range []string{"iso-8859-1", "windows-1252", "windows-1254", "cp437", "shift_jis", "gb18030"} {
		e := byName(t, name)
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, func(t *testing.T) backends.Backend {
				return charset.New(mem.New(mem.Options{}), e)
			}, backendtest.Options{Beside: true, Refused: refused(e)})
		})
	}
}

// refused are the names and links of the suite that e cannot write.
func refused(e *charset.Encoding) []string {
	return slices.DeleteFunc(append(backendtest.Names(), "latin1-\xe4", "utf8-ä"), func(name string) bool {
		wire, err := e.Encode(name)
		return err == nil && len(wire) <= backends.MaxElement
	})
}

// Holds row 126 of the requirements.
func TestNamesAsTheyAreWritten(t *testing.T) {
	for _, test := range []struct{ encoding, wire, name string }{
		{"iso-8859-1", "M\xfcller & S\xf6hne", "Müller & Söhne"},
		{"iso-8859-1", "\x80", "\u0080"},
		{"windows-1252", "\x80uro \x96 gro\xdf", "€uro – groß"},
		{"windows-1252", "bad\x81byte", "bad\uf781byte"},
		{"windows-1252", "\xc3\x81", "Ã\uf781"}, // as a client of UTF-8 has written Á
		{"windows-1254", "\xddstanbul \xfe\xf0\xfd", "İstanbul şğı"},
		{"cp437", "na\x8bve \xe1", "naïve ß"},
		{"shift_jis", "\x95\x5c\x8e\xa6", "表示"}, // the second byte of the first is a backslash
		{"shift_jis", "back\\slash", "back\\slash"},
		{"shift_jis", "\xb1\xb2", "ｱｲ"},
		{"shift_jis", "cut\x95", "cut\uf795"},
		{"shift_jis", "\x95\x20x", "\uf795 x"},
		{"shift_jis", "a/\x95\x5c/b", "a/表/b"},
		{"gb18030", "\xd6\xd0\x81\x30\x81\x30", "中\u0080"},
		{"koi8-r", "\xf0\xd2\xc9", "При"},
	} {
		e := byName(t, test.encoding)
		if got := e.Decode(test.wire); got != test.name {
			t.Errorf("%s: %q is shown as %q, want %q", test.encoding, test.wire, got, test.name)
		}
		if got, err := e.Encode(test.name); err != nil || got != test.wire {
			t.Errorf("%s: %q is written %q, %v, want %q", test.encoding, test.name, got, err, test.wire)
		}
	}
}

func TestWhatTheEncodingCannotWriteIsRefusedBeforeAnythingIsSent(t *testing.T) {
	e := byName(t, "windows-1252")
	server := mem.New(mem.Options{})
	b := charset.New(server, e)
	defer b.Close()
	for _, name := range []string{"日本", "a\u0308", "\xff", "ok/日", "\uf741", "\uf72f", "\uf700", "\ufffd"} {
		ctx := t.Context()
		_, stat := b.Stat(ctx, name)
		_, open := b.Open(ctx, name)
		_, create := b.Create(ctx, name, backends.WriteMode{TempName: "temp"})
		_, temp := b.Create(ctx, "ok", backends.WriteMode{TempName: name})
		_, update := b.Update(ctx, name)
		_, attr := b.SetAttr(ctx, name, backends.Attr{})
		_, readlink := b.Readlink(ctx, name)
		var list error
		for _, list = range b.List(ctx, name) {
		}
		for i, err := range []error{
			stat, open, create, temp, update, attr, readlink, list, b.Mkdir(ctx, name, 0o755), b.Remove(ctx, name), b.Rmdir(ctx, name),
			b.Rename(ctx, name, "x", backends.Replace), b.Rename(ctx, "x", name, backends.Replace), b.Symlink(ctx, "x", name), b.Symlink(ctx, name, "x"),
			b.Link(ctx, name, "x"), b.Link(ctx, "x", name),
		} {
			if !errors.Is(err, syscall.EILSEQ) || backends.ClassOf(err) != backends.Final {
				t.Errorf("%q, call %d: got %v, want EILSEQ", name, i, err)
			}
		}
	}
	if calls := server.Calls(); len(calls) != 0 {
		t.Errorf("the server was asked: %v", calls)
	}
}

// TestServerKeepsItsBytes: what programs make is on the server in its own encoding, links' targets too.
func TestServerKeepsItsBytes(t *testing.T) {
	server := mem.New(mem.Options{})
	b := charset.New(server, byName(t, "iso-8859-1"))
	defer b.Close()
	ctx := t.Context()
	if err := b.Mkdir(ctx, "Müller", 0o755); err != nil {
		t.Fatal(err)
	}
	w, err := b.Create(ctx, "Müller/größe", backends.WriteMode{TempName: "Müller/.tämp"})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := w.Commit(ctx, backends.Commit{}); err != nil || info.Name != "größe" {
		t.Fatalf("commit: %+v, %v", info, err)
	}
	if err := b.Symlink(ctx, "../Müller/größe", "Müller/weiß"); err != nil {
		t.Fatal(err)
	}
	if target, err := server.Readlink(ctx, "M\xfcller/wei\xdf"); err != nil || target != "../M\xfcller/gr\xf6\xdfe" {
		t.Errorf("the server's link leads to %q, %v", target, err)
	}
	if target, err := b.Readlink(ctx, "Müller/weiß"); err != nil || target != "../Müller/größe" {
		t.Errorf("the link leads to %q, %v", target, err)
	}
	if got := list(t, server, "M\xfcller"); !slices.Equal(got, []string{"gr\xf6\xdfe", "wei\xdf"}) {
		t.Errorf("the server has %q", got)
	}
	r, err := b.Open(ctx, "Müller/größe")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := r.Stat(ctx); err != nil || info.Name != "größe" {
		t.Errorf("the open file is %+v, %v", info, err)
	}
	server.Break()
	_, err = r.Stat(ctx)
	for what, err := range map[string]error{"an open file": err, "an absent one": b.Remove(ctx, "Müller/fehlt")} {
		if e, ok := errors.AsType[*backends.Error](err); !ok || !utf8.ValidString(e.Name) || !strings.HasPrefix(e.Name, "Müller/") {
			t.Errorf("%s: the error %v does not name it as it is known here", what, err)
		}
	}
}

func list(t *testing.T, b backends.Backend, dir string) []string {
	t.Helper()
	var names []string
	for info, err := range b.List(t.Context(), dir) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	slices.Sort(names)
	return names
}

func TestNamesTooLongForEitherSide(t *testing.T) {
	server := mem.New(mem.Options{})
	b := charset.New(server, byName(t, "iso-8859-1"))
	defer b.Close()
	for _, wire := range []string{strings.Repeat("\xe4", 127), strings.Repeat("\xe4", 128)} {
		if err := server.Mkdir(t.Context(), wire, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got := list(t, b, ""); !slices.Equal(got, []string{strings.Repeat("ä", 127)}) || b.Caps().Hidden != 1 {
		t.Errorf("got %q, %d hidden", got, b.Caps().Hidden)
	}
	if _, err := b.Stat(t.Context(), strings.Repeat("ä", 128)); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("too long here: %v", err)
	}
	chinese := charset.New(server, byName(t, "gb18030"))
	long := strings.Repeat("ă", 100) // two bytes here, four there
	if _, err := chinese.Stat(t.Context(), long); !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("too long there: %v", err)
	} else if e, _ := errors.AsType[*backends.Error](err); e.Name != long {
		t.Errorf("the error is about %q", e.Name)
	}
}

// TestNoSlashIsHidden: in no encoding does a name without a slash become one with it, or the other way round, or "..".
func TestNoSlashIsHidden(t *testing.T) {
	for _, name := range all {
		e := byName(t, name)
		for r := rune(0); r <= 0xffff; r++ {
			wire, err := e.Encode(string(r))
			if err != nil || r == '/' || r == '.' || r == 0 {
				continue
			}
			if strings.ContainsAny(wire, "/\x00") || wire == "." {
				t.Fatalf("%s: %U is written %q", name, r, wire)
			}
		}
		for first := range 0x100 {
			for second := range 0x80 {
				wire := string([]byte{byte(first), byte(second)})
				if shown := e.Decode(wire); strings.Count(shown, "/") != strings.Count(wire, "/") || shown == ".." && wire != ".." {
					t.Fatalf("%s: %q is shown as %q", name, wire, shown)
				}
			}
		}
	}
}

func TestUnknownEncodings(t *testing.T) {
	for _, name := range []string{"", "utf-8", "iso-2022-jp", "ISO-8859-1", "utf-16"} {
		if _, ok := charset.ByName(name); ok {
			t.Errorf("%q is known", name)
		}
	}
}

func TestListingLeftEarlyAndBroken(t *testing.T) {
	server := mem.New(mem.Options{})
	b := charset.New(server, byName(t, "cp437"))
	defer b.Close()
	for _, dir := range []string{"a", "b", "c"} {
		if err := b.Mkdir(t.Context(), dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for range b.List(t.Context(), "") {
		break
	}
	server.SetFault(func(_ context.Context, op, name string) error {
		if op == "entry" && name != "a" {
			return syscall.EIO
		}
		return nil
	})
	seen := map[string]bool{}
	var failed error
	for info, err := range b.List(t.Context(), "") {
		failed = err
		seen[info.Name] = true
	}
	if !errors.Is(failed, syscall.EIO) {
		t.Errorf("after %v: got %v", slices.Collect(maps.Keys(seen)), failed)
	}
}

// FuzzEveryWireNameIsReachable: whatever bytes a server lists, they are shown as a name that leads back to exactly them, so that no two of
// them are shown alike.
func FuzzEveryWireNameIsReachable(f *testing.F) {
	for _, seed := range []string{"plain", "M\xfcller", "\x81\x8d\x90", "\x95\x5c", "\x95", "\xc3\xa4", "\x81\x30\x81\x30", "\x84\x31\xa4\x37", "\xef\x9e\x81", "\xff/\xfe/..", "\x88\x62\xa1\xa1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, wire string) {
		for _, name := range all {
			e := byName(t, name)
			shown := e.Decode(wire)
			if !utf8.ValidString(shown) {
				t.Fatalf("%s: %q is shown as %q, which is no UTF-8", name, wire, shown)
			}
			if again, err := e.Encode(shown); err != nil || again != wire {
				t.Fatalf("%s: %q is shown as %q, which is written %q, %v", name, wire, shown, again, err)
			}
			if strings.Count(shown, "/") != strings.Count(wire, "/") {
				t.Fatalf("%s: %q is shown as %q", name, wire, shown)
			}
		}
	})
}

// FuzzEveryNameComesBack: what a program calls a file is refused, or is what the file is listed as.
func FuzzEveryNameComesBack(f *testing.F) {
	for _, seed := range []string{"plain", "Müller", "表示", "\uf781", "\uf72f\uf700", "a\u0308", "\ufffd", "¥‾", "\uf8ff", "\ue000", "~\\"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, shown string) {
		for _, name := range all {
			e := byName(t, name)
			wire, err := e.Encode(shown)
			if err == nil && e.Decode(wire) != shown {
				t.Fatalf("%s: %q is written %q, which is shown as %q", name, shown, wire, e.Decode(wire))
			}
		}
	})
}

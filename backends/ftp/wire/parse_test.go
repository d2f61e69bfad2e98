package wire

import (
	"bufio"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestReadReply(t *testing.T) {
	for text, want := range map[string]Reply{
		"200 ok\r\n": {Code: 200, Lines: []string{"ok"}},
		"200\r\n":    {Code: 200, Lines: []string{""}},
		"200 ok\n":   {Code: 200, Lines: []string{"ok"}},
		"211-a\r\n b\r\n211-c\r\n212 d\r\n211 e\r\n": {Code: 211, Lines: []string{"a", " b", "c", "212 d", "e"}},
		"150-a\r\n150\r\n":                           {Code: 150, Lines: []string{"a", ""}},
		"\xff\xfc\r550 no\r\n":                       {Code: 550, Lines: []string{"no"}},
	} {
		got, err := readReply(bufio.NewReader(strings.NewReader(text)), false)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "2", "200", "200 ok", "20 ok\r\n", "700 ok\r\n", "000 ok\r\n", "2x0 ok\r\n", "200x\r\n", "\r\n", "200-a\r\n200-b\r\n", "200-a\r\n"} {
		if got, err := readReply(bufio.NewReader(strings.NewReader(text)), false); err == nil {
			t.Errorf("%q: taken for %+v", text, got)
		}
	}
}

func FuzzReply(f *testing.F) {
	f.Add("200 ok\r\n", false)
	f.Add("211-a\r\n b\r\n211 c\r\n226 d\r\n", true)
	f.Add("\xff\xfe\x01220-x\n220 \n", false)
	f.Fuzz(func(t *testing.T, text string, wide bool) {
		r := bufio.NewReader(strings.NewReader(text))
		for left := len(text); ; {
			reply, err := readReply(r, wide)
			if err != nil {
				return
			}
			if reply.Code < 100 || reply.Code > 699 || len(reply.Lines) == 0 {
				t.Fatalf("%+v", reply)
			}
			size := 0
			for _, line := range reply.Lines {
				if size += len(line); strings.Contains(line, "\n") {
					t.Fatalf("a line end in %q", line)
				}
			}
			if left -= size; left < 0 {
				t.Fatal("more than there was")
			}
		}
	})
}

func TestParsePasv(t *testing.T) {
	for text, want := range map[string]string{
		"227 Entering Passive Mode (127,0,0,1,4,5).": "127.0.0.1 1029",
		"227 =127,0,0,1,4,5":                         "127.0.0.1 1029",
		"227 Entering Passive Mode 10,1,2,3,0,21":    "10.1.2.3 21",
		"227 1, 2 (127,0,0,1,255,255)":               "127.0.0.1 65535",
	} {
		host, port, err := parsePASV(text)
		if got := fmt.Sprint(host, " ", port); err != nil || got != want {
			t.Errorf("%q: %s, %v, want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]uint16{
		"229 Entering Extended Passive Mode (|||6446|)": 6446,
		"229 (!!!6446!)": 6446,
		"229 Extended (|1|10.1.2.3|6446|) passive (mode)": 6446,
	} {
		if host, port, err := parseEPSV(text); err != nil || port != want || host != "" {
			t.Errorf("%q: %s %d, %v", text, host, port, err)
		}
	}
}

func FuzzPorts(f *testing.F) {
	for _, text := range []string{"227 )(", "227 =127,0,0,1,4,5", "229 (|||6446|)", "229 (|||", "227 (1,2,3,4,5,6)"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if host, port, err := parsePASV(text); err == nil && (port == 0 || strings.Count(host, ".") != 3) {
			t.Errorf("PASV %q: %s %d", text, host, port)
		}
		if host, port, err := parseEPSV(text); err == nil && (port == 0 || host != "") {
			t.Errorf("EPSV %q: %s %d", text, host, port)
		}
	})
}

func TestParsePWD(t *testing.T) {
	for text, want := range map[string]string{
		`257 "/" is current`:     "/",
		`257 "/a""b" is cwd "x"`: `/a"b`,
		`257 "/a b"`:             "/a b",
		`257 "/ends in quote"""`: `/ends in quote"`,
		`257 "/x"" y" z`:         `/x" y`,
		"257 no quotes":          "",
		`257 "relative"`:         "",
		`257 "/open`:             "",
		"257 \"/nul\x00\"":       "",
		`257 ""`:                 "",
	} {
		if got, err := parsePWD(text); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
}

func FuzzPWD(f *testing.F) {
	f.Add(`257 "/a""b" is`)
	f.Fuzz(func(t *testing.T, text string) {
		if path, err := parsePWD(text); err == nil && (!strings.HasPrefix(path, "/") || strings.ContainsAny(path, "\r\n\x00")) {
			t.Errorf("%q: %q", text, path)
		}
	})
}

func TestFeatures(t *testing.T) {
	feat := func(lines ...string) Reply {
		return Reply{Code: 211, Lines: append(append([]string{"Features:"}, lines...), "End")}
	}
	unix := Reply{Code: 215, Lines: []string{"UNIX Type: L8"}}
	for name, test := range map[string]struct {
		greeting   string
		feat, syst Reply
		want       Features
	}{
		"proftpd": {"ProFTPD Server (Debian) [::ffff:127.0.0.1]",
			feat(" HASH CRC32;MD5;SHA-1*;SHA-256", " MFF modify;UNIX.group;UNIX.mode;", " MFMT", " MLST modify*;Perm*;size*;", " REST STREAM", " SIZE", " MDTM", " UTF8", " XCRC", " XSHA256"), unix,
			Features{Server: "ProFTPD", Sequential: true, MLST: true, Facts: []string{"modify", "perm", "size"}, Size: true, MDTM: true, MFMT: true,
				MFF: []string{"modify", "unix.group", "unix.mode"}, Restart: true, UTF8: true, fragile: true, Hash: []string{"SHA-1", "CRC32", "MD5", "SHA-256"}, Sums: []string{"XCRC", "XSHA256"}, Chmod: true}},
		"vsftpd behind another banner": {"Welcome", feat(" EPRT", " EPSV", " MDTM", " PASV", " REST STREAM", " SIZE", " TVFS"), unix,
			Features{Server: "vsftpd", Sequential: true, Size: true, MDTM: true, Restart: true, Chmod: true, MDTMSets: true, StatLists: true, awaitsNotify: true, unhurried: true}},
		"pure-ftpd": {"---------- Welcome to Pure-FTPd [privsep] [TLS] ----------", feat(" size"), unix,
			Features{Server: "Pure-FTPd", Sequential: true, Size: true, Chmod: true, mute: true, awaitsNotify: true, deaf: true}},
		"windows":   {"Microsoft FTP Service", feat(" SIZE"), Reply{Code: 215, Lines: []string{"Windows_NT"}}, Features{Server: "Microsoft FTP Service", Size: true}},
		"no FEAT":   {"hello", Reply{Code: 500, Lines: []string{"what?"}}, Reply{Code: 502, Lines: []string{"what?"}}, Features{Server: "hello", Size: true, MDTM: true, Restart: true, Chmod: true}},
		"no indent": {"hello", feat("SIZE", "REST STREAM"), unix, Features{Server: "hello, UNIX Type: L8", Size: true, Restart: true, Chmod: true}},
	} {
		got := features(test.greeting, test.feat, test.syst)
		got.Other = nil
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v\nwant %+v", name, got, test.want)
		}
	}
}

func FuzzFeatures(f *testing.F) {
	f.Add("hello", "MLST a*;b", "UNIX")
	f.Fuzz(func(t *testing.T, greeting, line, syst string) {
		features(greeting, Reply{Code: 211, Lines: []string{"x", line, "End"}}, Reply{Code: 215, Lines: []string{syst}})
	})
}

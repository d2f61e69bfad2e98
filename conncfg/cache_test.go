package conncfg

import "testing"

func TestCacheSettings(t *testing.T) {
	for text, want := range map[string]Cache{
		``:                      {},
		`cacheSize = "20GiB"`:   {Size: 20 << 30},
		`cacheSize = "1.5 GB"`:  {Size: 1_500_000_000},
		`cacheSize = 100000000`: {Size: 100_000_000},
		`cacheFree = "10%"`:     {FreePercent: 10},
		`cacheFree = "2GiB"`:    {FreeBytes: 2 << 30},
		"cacheSize = \"1g\"\ncacheFree = \"1 %\"": {Size: 1 << 30, FreePercent: 1},
	} {
		c, findings := Load(tree(t, with(map[string]string{"pierfs.toml": "activeEnvironments = [\"Test\"]\n" + text})))
		if HasErrors(findings) || c.Cache() != want {
			t.Errorf("%q: %+v, want %+v; found%s", text, c.Cache(), want, printed(findings))
		}
	}
	for text, want := range map[string]Code{
		`cacheSize = "much"`:     CodeInvalid,
		`cacheSize = "-1"`:       CodeInvalid,
		`cacheSize = "9e99GiB"`:  CodeInvalid,
		`cacheSize = "1MiB"`:     CodeRange,
		`cacheSize = 0`:          CodeRange,
		`cacheSize = true`:       CodeWrongType,
		`cacheFree = "0%"`:       CodeRange,
		`cacheFree = "100%"`:     CodeRange,
		`cacheFree = "a lot"`:    CodeInvalid,
		`cacheFree = ["5%"]`:     CodeWrongType,
		`cacheSpace = "4GiB"`:    CodeUnknownKey,
		`cacheFree = "five %"`:   CodeInvalid,
		`cacheFree = "10000000"`: "",
	} {
		c, findings := Load(tree(t, with(map[string]string{"pierfs.toml": "activeEnvironments = [\"Test\"]\n" + text})))
		got := errorsOf(findings)
		if want == "" && len(got) == 0 {
			continue
		}
		if len(got) != 1 || got[0].Code != want || got[0].Hint == "" || got[0].Line != 2 || c.Cache() != (Cache{}) {
			t.Errorf("%q: %+v, want one %s with a hint in line 2, got%s", text, c.Cache(), want, printed(got))
		}
	}
}

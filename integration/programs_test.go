package integration

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pierfs/integration/process"
	"pierfs/integration/servers"
)

// ability is what programs are run for where a protocol cannot bear all of it.
type ability struct {
	links bool
}

// sampleTree makes a directory with what programs copy: sizes around every boundary, modes, times, empty things, and links if
// they can be made.
func sampleTree(t *testing.T, links bool) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	for i, size := range []int{0, 1, 511, 4095, 4096, 4097, 32768, 100_000, 261_121, 3 << 20} {
		name := filepath.Join(dir, fmt.Sprintf("d%d", i%3), fmt.Sprintf("size %d", size))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, random(i, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, dir, `
		mkdir -p empty deep/er/still
		echo script > run.sh && chmod 755 run.sh
		echo secret > private && chmod 600 private
		if $1; then ln -s ../run.sh d0/link; ln -s run.sh link; fi
		find . -type f -exec touch -d '2024-02-29 12:34:56 UTC' {} +
		touch -d '2001-01-01 00:00:00 UTC' empty`, fmt.Sprint(links))
	return dir
}

// same compares two directories: names, types, modes, contents, link targets, and times of files to the second.
func same(t *testing.T, a, b string) {
	t.Helper()
	describe := func(dir string) string {
		return sh(t, dir, `find . \( -type f -printf '%P %y %m %s %Ts\n' -o -type l -printf '%P %y %l\n' -o -type d -printf '%P %y %m\n' \) | sort`)
	}
	if x, y := describe(a), describe(b); x != y {
		sh(t, "/", `diff <(echo "$1") <(echo "$2")`, x, y)
	}
	sh(t, "/", `diff -r --no-dereference "$1" "$2"`, a, b)
}

// TestPrograms runs what people run on a directory, unmodified, and looks at the server's own disk afterwards.
// Holds row 69 of the requirements.
func TestPrograms(t *testing.T) {
	t.Parallel()
	process.Need(t, "bash", "cp", "mv", "rsync", "tar", "git", "sqlite3", "vim", "sed", "diff", "find")
	programs(t, newStage(t, servers.SSHOptions{}, nil), ability{links: true})
}

func programs(t *testing.T, s *stage, can ability) {
	tree := sampleTree(t, can.links)

	t.Run("cp -a", func(t *testing.T) {
		mount, behind := s.dir(t, "cp")
		sh(t, mount, `cp -a "$1" .`, tree)
		same(t, tree, filepath.Join(behind, "tree"))
		same(t, tree, filepath.Join(mount, "tree"))
		sh(t, mount, `cp -a tree copy`)
		same(t, tree, filepath.Join(behind, "copy"))
		back := t.TempDir()
		sh(t, back, `cp -a "$1" .`, filepath.Join(mount, "tree"))
		same(t, tree, filepath.Join(back, "tree"))
		sh(t, mount, `rm -rf tree copy; test -z "$(ls -A)"`)
		sh(t, behind, `test -z "$(ls -A)"`)
	})

	t.Run("mv", func(t *testing.T) {
		mount, behind := s.dir(t, "mv")
		source := t.TempDir()
		sh(t, source, `cp -a "$1" tree`, tree)
		sh(t, mount, `mv "$1" in; mv in out; echo new > report; echo old > target; mv report target`, filepath.Join(source, "tree"))
		same(t, tree, filepath.Join(behind, "out"))
		has(t, filepath.Join(behind, "target"), []byte("new\n"))
		sh(t, mount, `mv out "$1"`, filepath.Join(source, "back"))
		same(t, tree, filepath.Join(source, "back"))
		sh(t, behind, `test "$(ls -A)" = target`)
	})

	t.Run("rsync", func(t *testing.T) {
		mount, behind := s.dir(t, "rsync")
		sh(t, mount, `rsync -a --checksum "$1/" r/`, tree)
		same(t, tree, filepath.Join(behind, "r"))
		if again := sh(t, mount, `rsync -a --checksum --itemize-changes "$1/" r/`, tree); again != "" {
			t.Errorf("the second rsync --checksum finds something to do:\n%s", again)
		}
		if again := sh(t, mount, `rsync -a --itemize-changes "$1/" r/`, tree); again != "" {
			t.Errorf("an rsync by size and time finds something to do:\n%s", again)
		}
		back := t.TempDir()
		sh(t, mount, `rsync -a r/ "$1/"`, back)
		same(t, tree, back)
	})

	t.Run("tar", func(t *testing.T) {
		mount, behind := s.dir(t, "tar")
		sh(t, mount, `mkdir x && tar -C "$1" -cf - . | tar -C x -xf -`, tree)
		same(t, tree, filepath.Join(behind, "x"))
		sh(t, mount, `tar -C x -czf archive.tgz . && tar -tzf archive.tgz >/dev/null`)
		back := t.TempDir()
		sh(t, back, `tar -xzf "$1"`, filepath.Join(behind, "archive.tgz"))
		same(t, tree, back)
	})

	t.Run("git", func(t *testing.T) {
		mount, behind := s.dir(t, "git")
		sh(t, mount, `
			git init -q repo && cd repo
			cp -a "$1/." . && git add . && git commit -q -m first
			echo more >> run.sh && git commit -qam second
			git status --porcelain | tee /dev/stderr | cmp - /dev/null
			git fsck --strict
			git gc -q && git fsck --strict
			cd .. && git clone -q repo clone && cd clone && git fsck --strict && git log --oneline | wc -l | grep -qx 2`, tree)
		clone := t.TempDir()
		sh(t, clone, `git -c safe.directory='*' clone -q "$1" c && cd c && git fsck --strict && git log --oneline | wc -l | grep -qx 2`, filepath.Join(mount, "repo"))
		sh(t, behind, `git -c safe.directory='*' -C repo fsck --strict`)
	})

	t.Run("sqlite3", func(t *testing.T) {
		mount, behind := s.dir(t, "sqlite")
		const transactions = 1000
		script := "CREATE TABLE t (n INTEGER PRIMARY KEY, s TEXT);\n"
		for i := range transactions {
			script += fmt.Sprintf("INSERT INTO t VALUES (%d, '%x');\n", i, random(i, 40))
		}
		script += "BEGIN; DELETE FROM t; ROLLBACK;\n"
		sh(t, mount, `sqlite3 -batch data.db <<<"$1"`, script)
		for _, dir := range []string{mount, behind} {
			got := sh(t, dir, `sqlite3 -batch data.db 'PRAGMA integrity_check; SELECT count(*), sum(n) FROM t;'`)
			if want := fmt.Sprintf("ok\n%d|%d\n", transactions, transactions*(transactions-1)/2); got != want {
				t.Errorf("in %s: %q, want %q", dir, got, want)
			}
		}
	})

	t.Run("editors and shells", func(t *testing.T) {
		mount, behind := s.dir(t, "edit")
		sh(t, mount, `
			printf 'one\ntwo\n' > text && chmod 640 text
			vim -es -u NONE -N '+%s/two/2/' +wq text
			sed -i s/one/1/ text
			bash -c 'echo a > f; echo b >> f'
			bash -c 'exec 3>held; echo x >&3; (echo y >&3); echo z >&3'
			echo first > log; echo second >> log; echo third | tee -a log >/dev/null
			dd if=/dev/zero of=patched bs=1 count=10 status=none
			printf X | dd of=patched bs=1 seek=5 conv=notrunc status=none
			cp text copy && truncate -s 2 copy
			: > empty; touch touched`)
		for name, want := range map[string]string{
			"text": "1\n2\n", "f": "a\nb\n", "held": "x\ny\nz\n", "log": "first\nsecond\nthird\n",
			"patched": "\x00\x00\x00\x00\x00X\x00\x00\x00\x00", "copy": "1\n", "empty": "", "touched": "",
		} {
			has(t, filepath.Join(behind, name), []byte(want))
			has(t, filepath.Join(mount, name), []byte(want))
		}
		if mode := sh(t, behind, `stat -c %a text`); mode != "640\n" {
			t.Errorf("mode of a file edited twice: %s, want 640", mode)
		}
		if left := sh(t, behind, `ls -A | sort | xargs`); left != "copy empty f held log patched text touched\n" {
			t.Errorf("the server has %q", left)
		}
	})

	t.Run("odd names", func(t *testing.T) {
		mount, behind := s.dir(t, "names")
		names := []string{
			"with space", " leading", "trailing ", "new\nline", "return\rof carriage", "tab\tbed", "ümläut", "u\u0308 decomposed", "\u00fc composed", "日本語", "latin-1 \xe4\xf6\xfc",
			"quote'\"s", "back\\slash", "star*?[x]", "$HOME `x`", "-rf", "~", "#x#", ".hidden", "a:b;c|d&e<f>g", "\x01\x7f\x1b[31m", "%s%n", "..twodots", "...",
			strings.Repeat("n", 255), strings.Repeat("ü", 127),
		}
		for i, name := range names {
			content := random(i, 100+i)
			if err := put(filepath.Join(mount, name), content); err != nil {
				t.Errorf("write %q: %v", name, err)
				continue
			}
			has(t, filepath.Join(behind, name), content)
		}
		for _, dir := range []string{mount, behind} {
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) != len(names) {
				t.Errorf("%s lists %d names, want %d", dir, len(entries), len(names))
			}
		}
		for i, name := range names {
			has(t, filepath.Join(mount, name), random(i, 100+i))
			if err := os.Rename(filepath.Join(mount, name), filepath.Join(mount, "moved")); err != nil {
				t.Errorf("rename %q: %v", name, err)
			}
			if err := os.Rename(filepath.Join(mount, "moved"), filepath.Join(mount, name)); err != nil {
				t.Errorf("rename to %q: %v", name, err)
			}
			if err := os.Remove(filepath.Join(mount, name)); err != nil {
				t.Errorf("remove %q: %v", name, err)
			}
		}
		sh(t, behind, `test -z "$(ls -A)"`)
	})

	t.Run("TestFS", func(t *testing.T) {
		mount, _ := s.dir(t, "fstest")
		sh(t, mount, `cp -a "$1/." . && find . -size +300k -delete`, tree) // it reads byte by byte
		r := child(t, "TestFS", mount, process.Patience*2)
		if r.Status != 0 || !strings.Contains(r.Stdout, "--- PASS: TestFS") {
			t.Errorf("exit %d\n%s%s", r.Status, r.Stdout, r.Stderr)
		}
	})
}

// TestTenThousandSmallFiles writes, lists, reads and removes them, eight at a time.
// Holds row 69 of the requirements.
func TestTenThousandSmallFiles(t *testing.T) {
	t.Parallel()
	s := newStage(t, servers.SSHOptions{}, nil)
	const files, workers = 10_000, 8
	mount, behind := s.dir(t, "many")
	name := func(i int) string { return fmt.Sprintf("file%05d", i) }
	content := func(i int) []byte { return random(i, i%2000) }
	each := func(what string, f func(i int) error) {
		t.Helper()
		var all sync.WaitGroup
		for w := range workers {
			all.Go(func() {
				for i := w; i < files; i += workers {
					if err := f(i); err != nil {
						t.Errorf("%s %d: %v", what, i, err)
						return
					}
				}
			})
		}
		all.Wait()
		if t.Failed() {
			t.FailNow()
		}
	}
	each("write", func(i int) error {
		if err := put(filepath.Join(mount, name(i)), content(i)); err != nil {
			return err
		}
		got, err := os.ReadFile(filepath.Join(behind, name(i)))
		if err == nil && !bytes.Equal(got, content(i)) {
			err = fmt.Errorf("close returned 0 and the server has %s", brief(got))
		}
		return err
	})
	for _, dir := range []string{mount, behind} {
		if n := strings.TrimSpace(sh(t, dir, `ls -lA | grep -c file`)); n != fmt.Sprint(files) {
			t.Errorf("ls -l of %s shows %s files, want %d", dir, n, files)
		}
	}
	each("read", func(i int) error {
		got, err := os.ReadFile(filepath.Join(mount, name(i)))
		if err == nil && !bytes.Equal(got, content(i)) {
			err = fmt.Errorf("read %s", brief(got))
		}
		return err
	})
	sh(t, s.mount, `rm -r many`)
	if _, err := os.Stat(behind); !os.IsNotExist(err) {
		t.Errorf("after rm -r the server still has it: %v", err)
	}
}

// TestGibibyte carries 1 GiB both ways and compares sums.
func TestGibibyte(t *testing.T) {
	t.Parallel()
	gibibyte(t, newStage(t, servers.SSHOptions{}, nil))
}

func gibibyte(t *testing.T, s *stage) {
	const size = 1 << 30
	sum := func(what, name string) string {
		t.Helper()
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		h := sha256.New()
		if n, err := io.Copy(h, f); err != nil || n != size {
			t.Fatalf("%s: %d bytes, %v; want %d", what, n, err, size)
		}
		return fmt.Sprintf("%x", h.Sum(nil))
	}
	there, here := filepath.Join(s.mount, "gib"), filepath.Join(s.behind, "gib")
	f, err := os.Create(there)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	block := random(7, 1<<20)
	for i := range size / len(block) {
		block[i] ^= 0x55
		if _, err := f.Write(block); err != nil {
			t.Fatalf("write MiB %d: %v", i, err)
		}
		h.Write(block)
	}
	if err := f.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	want := fmt.Sprintf("%x", h.Sum(nil))
	if got := sum("at the server", here); got != want {
		t.Errorf("uploaded: the server has %s, want %s", got, want)
	}
	// The server's own file under another name is known to nobody here.
	if err := os.Rename(here, here+"2"); err != nil {
		t.Fatal(err)
	}
	if got := sum("through the mount", there+"2"); got != want {
		t.Errorf("downloaded: %s, want %s", got, want)
	}
}

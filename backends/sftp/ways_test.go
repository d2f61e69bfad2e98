package sftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"pierfs/backends"
	"pierfs/integration/servers"
)

const lanes = 4

// channel is a real server's, with somebody in between.
type channel struct {
	*process
	number int // 0 is the session's first
	// asked sees every request before the server does and may answer it in its place; nil passes it on.
	asked func(c *channel, request frame) (reply frame)
	// told sees every reply, and returns those that go on now; nil is all of them.
	told func(reply frame) []frame

	mu      sync.Mutex
	partial frame
	out     *io.PipeReader
	in      *io.PipeWriter
}

func (c *channel) relay() {
	for {
		head := make(frame, packetHeader)
		_, err := io.ReadFull(c.process, head)
		if err == nil {
			head = append(head, make([]byte, 4+binary.BigEndian.Uint32(head)-packetHeader)...)
			_, err = io.ReadFull(c.process, head[packetHeader:])
		}
		if err != nil {
			c.in.CloseWithError(io.EOF) // as of a channel of SSH
			return
		}
		go_on := []frame{head}
		if c.told != nil {
			go_on = c.told(head)
		}
		for _, f := range go_on {
			c.reply(f)
		}
	}
}

func (c *channel) reply(f frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.in.Write(f) // it fails when nobody reads any more
}

func (c *channel) Read(p []byte) (int, error) { return c.out.Read(p) }

func (c *channel) Write(p []byte) (int, error) {
	c.partial = append(c.partial, p...)
	for len(c.partial) >= packetHeader {
		n := 4 + int(binary.BigEndian.Uint32(c.partial))
		if len(c.partial) < n {
			break
		}
		request := c.partial[:n:n]
		c.partial = c.partial[n:]
		if c.asked != nil {
			if answer := c.asked(c, request); answer != nil {
				go c.reply(answer)
				continue
			}
		}
		if _, err := c.process.Write(request); err != nil {
			return 0, io.EOF
		}
	}
	return len(p), nil
}

func (c *channel) Close() error {
	c.in.CloseWithError(io.EOF)
	return c.process.Close()
}

// answering returns body, which begins with its type, as the reply to request.
func answering(request frame, body []byte) frame {
	f := make(frame, packetHeader, packetHeader+len(body))
	f[4] = body[0]
	f = append(f, body[1:]...)
	f.seal(request.id())
	return f
}

// newLaned returns a Backend whose sessions have as many channels for content as are worth it. alter may meddle with a channel
// before it is used, or refuse it.
func newLaned(t testing.TB, alter func(*channel) error) *rig {
	t.Helper()
	r := newRig(t, Options{}, nil)
	r.connect = func(ctx context.Context) (*session, error) {
		var mu sync.Mutex
		opened := 0
		open := func(context.Context) (io.ReadWriteCloser, error) {
			mu.Lock()
			c := &channel{number: opened}
			opened++
			mu.Unlock()
			if alter != nil {
				if err := alter(c); err != nil {
					return nil, err
				}
			}
			c.process = startServer(t)
			c.out, c.in = io.Pipe()
			go c.relay()
			return c, nil
		}
		first, err := open(ctx)
		if err != nil {
			return nil, err
		}
		s, err := pipeSession(ctx, &r.o, first)
		if err == nil {
			s.dial, s.worth = open, lanes
		}
		return s, err
	}
	return r
}

func noise(size int) []byte {
	content := make([]byte, size)
	seed := rand.NewChaCha8([32]byte{7})
	_, _ = seed.Read(content) // it never fails
	return content
}

// readAll reads content by many at once, as a prefetcher does, and compares.
func readAll(t *testing.T, r backends.Reader, content []byte) {
	t.Helper()
	const piece = 200_001
	var all sync.WaitGroup
	turns := make(chan struct{}, 32)
	for off := 0; off < len(content); off += piece {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			p := make([]byte, min(piece, len(content)-off))
			if _, err := r.ReadAt(t.Context(), p, int64(off)); err != nil || !bytes.Equal(p, content[off:off+len(p)]) {
				t.Errorf("ReadAt(%d) = %v, or other bytes", off, err)
			}
		})
	}
	all.Wait()
}

// further waits until a search for ways has ended, and returns how many were found.
func further(t *testing.T, w *ways) int {
	t.Helper()
	eventually(t, func() string { return "a search for further ways" }, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return !w.seeking && !w.sought.IsZero()
	})
	return w.count()
}

func TestLongFileIsReadOnSeveralChannels(t *testing.T) {
	refusal := errors.New("no more sessions")
	for name, test := range map[string]struct {
		alter func(*channel) error
		want  int
	}{
		"all":         {nil, lanes},
		"two refused": {func(c *channel) error { return map[bool]error{true: refusal}[c.number > 2] }, lanes - 2},
		"all refused": {func(c *channel) error { return map[bool]error{true: refusal}[c.number > 0] }, 0},
		"answers in another order": {func(c *channel) error {
			var mu sync.Mutex
			var held []frame
			reads := 0 // without an answer from the server
			c.asked = func(_ *channel, request frame) frame {
				mu.Lock()
				defer mu.Unlock()
				if request[4] == typeRead {
					reads++
				}
				return nil
			}
			c.told = func(f frame) []frame {
				mu.Lock()
				defer mu.Unlock()
				if f[4] != typeData {
					return []frame{f}
				}
				held, reads = append(held, f), reads-1
				if reads > 0 && len(held) < 4 {
					return []frame{}
				}
				now := held
				held = nil
				slices.Reverse(now)
				return now
			}
			return nil
		}, lanes},
	} {
		t.Run(name, func(t *testing.T) {
			r := newLaned(t, test.alter)
			content := noise(24 << 20)
			put(t, r.path("file"), content)
			f, err := r.Open(t.Context(), "file")
			ok(t, err)
			ways := &f.(*reader).ways
			readAll(t, f, content)
			if got := further(t, ways); got != test.want {
				t.Errorf("%d further ways, want %d", got, test.want)
			}
			readAll(t, f, content[:1]) // and there it ends: nothing is owed
			ok(t, f.Close())
			if _, err := r.Stat(t.Context(), "file"); err != nil {
				t.Error(err)
			}
			leaves(t, r.Backend)
		})
	}
}

// What bears the name by now is another file, of the same length: only the first handle reads what was opened.
func TestAnotherFileIsNoFurtherWay(t *testing.T) {
	old := time.Unix(1.5e9, 0)
	for name, change := range map[string]func(path string){
		"another time":        func(path string) {},
		"other permissions":   func(path string) { _ = os.Chtimes(path, old, old); _ = os.Chmod(path, 0o640) },
		"a link to something": func(path string) { _ = os.Rename(path, path+"2"); _ = os.Symlink(path+"2", path) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newLaned(t, nil)
			content := noise(12 << 20)
			put(t, r.path("file"), content)
			ok(t, os.Chtimes(r.path("file"), old, old))
			f, err := r.Open(t.Context(), "file")
			ok(t, err)
			put(t, r.path("other"), make([]byte, len(content)))
			change(r.path("other"))
			ok(t, os.Rename(r.path("other"), r.path("file")))
			readAll(t, f, content)
			if got := further(t, &f.(*reader).ways); got != 0 {
				t.Errorf("%d further ways to another file", got)
			}
			ok(t, f.Close())
		})
	}
}

// dying returns an alter that hangs up the second channel at its nth request of a kind.
func dying(kind byte, nth int) func(*channel) error {
	return func(c *channel) error {
		if c.number != 2 {
			return nil
		}
		seen := 0
		c.asked = func(c *channel, request frame) frame {
			if request[4] == kind {
				seen++
			}
			if seen >= nth {
				c.process.Close()
			}
			return nil
		}
		return nil
	}
}

// refusing returns an alter whose second channel answers every request of a kind with a failure.
func refusing(kind byte) func(*channel) error {
	return func(c *channel) error {
		if c.number == 2 {
			c.asked = func(_ *channel, request frame) frame {
				if request[4] == kind {
					return answering(request, statusReply(statusFailure))
				}
				return nil
			}
		}
		return nil
	}
}

// A way that ends, or serves for nothing, costs the others a little and the program nothing.
func TestLossOfAChannelIsNoErrorOfAReader(t *testing.T) {
	for name, alter := range map[string]func(*channel) error{
		"at its first read": dying(typeRead, 1),
		"at its fifth read": dying(typeRead, 5),
		"while it opens":    dying(typeOpen, 1),
		"open is refused":   refusing(typeOpen),
		"stat is refused":   refusing(typeStat),
		"read is refused":   refusing(typeRead),
	} {
		t.Run(name, func(t *testing.T) {
			r := newLaned(t, alter)
			content := noise(24 << 20)
			put(t, r.path("file"), content)
			f, err := r.Open(t.Context(), "file")
			ok(t, err)
			readAll(t, f, content[:6<<20])
			further(t, &f.(*reader).ways)
			session := inUse(r.Backend)
			readAll(t, f, content)
			if got := f.(*reader).ways.count(); got != lanes-1 {
				t.Errorf("%d further ways, want %d", got, lanes-1)
			}
			ok(t, f.Close())
			if inUse(r.Backend) != session || !session.alive() {
				t.Error("the session was given up")
			}
			leaves(t, r.Backend)
		})
	}
}

// When the first channel goes, so does the session: whoever repeats the call gets another.
func TestLossOfTheSessionEndsAllWays(t *testing.T) {
	r := newLaned(t, nil)
	content := noise(12 << 20)
	put(t, r.path("file"), content)
	f, err := r.Open(t.Context(), "file")
	ok(t, err)
	readAll(t, f, content)
	further(t, &f.(*reader).ways)
	s := inUse(r.Backend)
	s.kill(errHungUp)
	if _, err := f.ReadAt(t.Context(), make([]byte, 1<<20), 0); backends.ClassOf(err) == backends.Final {
		t.Errorf("ReadAt = %v, which nobody repeats", err)
	}
	ok(t, f.Close())
	again, err := r.Open(t.Context(), "file")
	ok(t, err)
	readAll(t, again, content)
	ok(t, again.Close())
	leaves(t, r.Backend)
}

// write writes content in pieces and commits it.
func write(t *testing.T, r *rig, name string, content []byte, after func(w *writer, off int)) error {
	t.Helper()
	b, err := r.Create(t.Context(), name, backends.WriteMode{TempName: "." + name, Perm: 0o644})
	ok(t, err)
	w := b.(*writer)
	const piece = 100_003
	for off := 0; off < len(content); off += piece {
		if _, err := w.WriteAt(t.Context(), content[off:min(off+piece, len(content))], int64(off)); err != nil {
			return errors.Join(err, w.Abort())
		}
		if after != nil {
			after(w, off)
		}
	}
	_, err = w.Commit(t.Context(), backends.Commit{Size: int64(len(content))})
	return err
}

// pause waits for the further ways once so much is written that they are looked for.
func pause(t *testing.T, at int) func(*writer, int) {
	done := false
	return func(w *writer, off int) {
		if off >= at && !done {
			done = true
			w.ways.mu.Lock()
			sought := w.ways.seeking || !w.ways.sought.IsZero()
			w.ways.mu.Unlock()
			if sought {
				further(t, &w.ways)
			}
		}
	}
}

// writeByAll writes content onward, in whole MiB, and waits on the way until there are further ways.
func writeByAll(t *testing.T, w *writer, content []byte) {
	t.Helper()
	wait := pause(t, 6<<20)
	for off := 0; off < len(content); off += 1 << 20 {
		_, err := w.WriteAt(t.Context(), content[off:off+1<<20], int64(off))
		ok(t, err)
		wait(w, off)
	}
	if w.ways.count() == 0 {
		t.Fatal("there are no further ways")
	}
}

func TestLongContentIsWrittenOnSeveralChannels(t *testing.T) {
	for name, alter := range map[string]func(*channel) error{
		"all":                 nil,
		"one dies at once":    dying(typeWrite, 1),
		"one dies later":      dying(typeWrite, 7),
		"one dies at the end": dying(typeClose, 1),
		"open is refused":     refusing(typeOpen),
		"fstat is refused":    refusing(typeFstat),
		"write is refused":    refusing(typeWrite),
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			used := make(map[int]int)
			r := newLaned(t, func(c *channel) error {
				if alter != nil {
					if err := alter(c); err != nil {
						return err
					}
				}
				meddle := c.asked
				c.asked = func(c *channel, request frame) frame {
					if request[4] == typeWrite {
						mu.Lock()
						used[c.number]++
						mu.Unlock()
					}
					if meddle != nil {
						return meddle(c, request)
					}
					return nil
				}
				return nil
			})
			content := noise(32<<20 + 4711)
			ok(t, write(t, r, "file", content, pause(t, 6<<20)))
			if got := get(t, r.path("file")); got != string(content) {
				t.Fatal("the server has other bytes")
			}
			mu.Lock()
			if len(used) < lanes {
				t.Errorf("WRITEs by channel: %v", used)
			}
			mu.Unlock()
			if names := entries(t, r, ""); !slices.Equal(names, []string{"file"}) {
				t.Errorf("the directory holds %q", names)
			}
			leaves(t, r.Backend)
		})
	}
}

// A name that was made exclusively is ours as a temporary one is.
func TestLongContentOfANewNameIsWrittenOnSeveralChannels(t *testing.T) {
	r := newLaned(t, nil)
	content := noise(20 << 20)
	b, err := r.Create(t.Context(), "file", backends.WriteMode{Exclusive: true, Size: int64(len(content))})
	ok(t, err)
	w := b.(*writer)
	writeByAll(t, w, content)
	_, err = w.Commit(t.Context(), backends.Commit{Size: int64(len(content))})
	ok(t, err)
	if get(t, r.path("file")) != string(content) {
		t.Error("the server has other bytes")
	}
}

// Nothing that makes the content final leaves before every channel has answered for its WRITEs and closed its handle.
func TestAllChannelsAnswerBeforeAnythingIsFinal(t *testing.T) {
	var mu sync.Mutex
	owed := 0 // WRITEs and CLOSEs of further channels without an answer
	var early []string
	open := make(map[int]int)
	r := newLaned(t, func(c *channel) error {
		waiting := make(map[uint32]byte)
		c.asked = func(c *channel, request frame) frame {
			mu.Lock()
			defer mu.Unlock()
			kind := request[4]
			switch {
			case kind == typeWrite, kind == typeClose && c.number > 0:
				waiting[request.id()] = kind
				owed++
			case kind == typeOpen && c.number > 0:
				open[c.number]++
			case kind == typeExtended && bytes.Contains(request, []byte(extFsync)), kind == typeClose, kind == typeFsetstat:
				if owed > 0 {
					early = append(early, kinds[kind])
				}
			case kind == typeExtended && bytes.Contains(request, []byte(extPosixRename)):
				for n, handles := range open {
					if handles > 0 {
						t.Errorf("channel %d has %d handles open when the content is renamed", n, handles)
					}
				}
			}
			return nil
		}
		c.told = func(reply frame) []frame {
			mu.Lock()
			defer mu.Unlock()
			if kind, ok := waiting[reply.id()]; ok {
				delete(waiting, reply.id())
				owed--
				if kind == typeClose {
					open[c.number]--
				}
			}
			return []frame{reply}
		}
		return nil
	})
	if _, err := r.Stat(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	content := noise(20 << 20)
	when := time.Unix(1.6e9, 0)
	b, err := r.Create(t.Context(), "file", backends.WriteMode{TempName: ".file", Perm: 0o644})
	ok(t, err)
	w := b.(*writer)
	w.doubt() // nothing is synced on the way
	writeByAll(t, w, content)
	info, err := w.Commit(t.Context(), backends.Commit{Size: int64(len(content)), Attr: backends.Attr{ModTime: &when, AccTime: &when}})
	ok(t, err)
	if len(early) > 0 {
		t.Errorf("left before all WRITEs were answered: %q", early)
	}
	if !info.ModTime.Equal(when) {
		t.Errorf("its time is %v, want %v", info.ModTime, when)
	}
	if get(t, r.path("file")) != string(content) {
		t.Error("the server has other bytes")
	}
}

// A further handle is closed behind its WRITEs, and not a round trip later, when they were answered.
func TestFurtherHandlesCloseBehindTheirWrites(t *testing.T) {
	r := newLaned(t, func(c *channel) error {
		var mu sync.Mutex
		asked := make(map[uint32]byte)
		var last []frame // the answer to the last WRITE on a further channel, which comes with the next
		c.asked = func(c *channel, request frame) frame {
			mu.Lock()
			defer mu.Unlock()
			asked[request.id()] = request[4]
			return nil
		}
		c.told = func(reply frame) []frame {
			mu.Lock()
			defer mu.Unlock()
			kind := asked[reply.id()]
			delete(asked, reply.id())
			switch {
			case c.number == 0:
			case kind == typeWrite:
				before := last
				last = []frame{slices.Clone(reply)}
				return before
			case kind == typeClose:
				before := last
				last = nil
				return append(before, reply)
			}
			return []frame{reply}
		}
		return nil
	})
	content := noise(20 << 20)
	b, err := r.Create(t.Context(), "file", backends.WriteMode{TempName: ".file", Perm: 0o644})
	ok(t, err)
	w := b.(*writer)
	writeByAll(t, w, content)
	_, err = w.Commit(t.Context(), backends.Commit{Size: int64(len(content))})
	ok(t, err)
	if get(t, r.path("file")) != string(content) {
		t.Error("the server has other bytes")
	}
}

// Whoever goes back and writes over what was sent, cuts, or syncs, finds the order kept.
func TestOrderIsKeptOverSeveralChannels(t *testing.T) {
	for name, alter := range map[string]func(*channel) error{"all well": nil, "one dies": dying(typeWrite, 3)} {
		t.Run(name, func(t *testing.T) {
			r := newLaned(t, alter)
			content := noise(16 << 20)
			b, err := r.Create(t.Context(), "file", backends.WriteMode{TempName: ".file"})
			ok(t, err)
			w, wait := b.(*writer), pause(t, 5<<20)
			for off := 0; off < len(content) && err == nil; off += 1 << 20 {
				_, err = w.WriteAt(t.Context(), content[off:off+1<<20], int64(off))
				wait(w, off)
				if off == 8<<20 && err == nil {
					err = w.Sync(t.Context())
				}
			}
			chance := rand.New(rand.NewPCG(3, 4))
			for range 50 {
				if err != nil {
					break
				}
				off := chance.IntN(len(content) - 300_000)
				for i := range 300_000 {
					content[off+i]++
				}
				_, err = w.WriteAt(t.Context(), content[off:off+300_000], int64(off))
			}
			if err == nil {
				err = w.Truncate(t.Context(), 15<<20)
			}
			if err == nil {
				_, err = w.Commit(t.Context(), backends.Commit{Size: 15 << 20})
			} else {
				ok(t, w.Abort())
			}
			if alter != nil { // a WRITE without an answer may still come to pass: it must not be believed to come first
				if backends.ClassOf(err) != backends.Transient {
					t.Errorf("got %v of class %v, want one that is tried again", err, backends.ClassOf(err))
				}
				return
			}
			ok(t, err)
			if get(t, r.path("file")) != string(content[:15<<20]) {
				t.Error("the server has other bytes")
			}
		})
	}
}

// A name that was put in the place of the temporary file, or a link, gets nothing of the content.
func TestNothingIsWrittenToWhatTookTheTemporaryName(t *testing.T) {
	r := newLaned(t, nil)
	put(t, r.path("victim"), []byte("keep"))
	taken := false
	err := write(t, r, "file", noise(16<<20), func(w *writer, off int) {
		if !taken {
			taken = true
			ok(t, os.Rename(r.path(".file"), r.path(".moved")))
			ok(t, os.Symlink("victim", r.path(".file")))
		}
		pause(t, 6<<20)(w, off)
	})
	if err == nil {
		t.Error("Commit believes in a link")
	}
	if got := get(t, r.path("victim")); got != "keep" {
		t.Errorf("the victim holds %d bytes", len(got))
	}
}

func channelsOf(s *session) int {
	channels, _ := s.content()
	return len(channels)
}

// Channels that nobody needs close, and those who come later find others.
func TestIdleChannelsClose(t *testing.T) {
	r := newLaned(t, nil)
	content := noise(12 << 20)
	put(t, r.path("file"), content)
	f, err := r.Open(t.Context(), "file")
	ok(t, err)
	readAll(t, f, content)
	further(t, &f.(*reader).ways)
	s := inUse(r.Backend)
	s.retire(0) // notes what has moved
	s.retire(time.Hour)
	if n := channelsOf(s); n != lanes {
		t.Fatalf("%d channels for content, want %d", n, lanes)
	}
	s.retire(0)
	if n := channelsOf(s); n != 0 {
		t.Errorf("%d idle channels are left", n)
	}
	readAll(t, f, content[:2<<20])
	again, err := r.Open(t.Context(), "file")
	ok(t, err)
	readAll(t, again, content)
	if got := further(t, &again.(*reader).ways); got < lanes-1 { // its first may be on one of them
		t.Errorf("%d further ways, want %d", got, lanes-1)
	}
	ok(t, again.Close())
	ok(t, f.Close())
	if !s.alive() {
		t.Error("the session was given up")
	}
	leaves(t, r.Backend)
}

// A session that nobody uses is closed, and nobody notices who comes later. One with a file open is used.
// Holds row 61 of the requirements.
func TestUnusedSessionCloses(t *testing.T) {
	server := servers.NewSSHD(t, servers.SSHOptions{})
	b := connect(t, server, Options{SocketTimeout: stopTimeout, IdleTimeout: time.Nanosecond})
	works(t, b)
	put(t, filepath.Join(server.Dir, "open"), []byte("open"))
	f, err := b.Open(t.Context(), "open")
	ok(t, err)
	s := inUse(b)
	s.unused(0) // notes what was asked
	if s.unused(0) {
		t.Error("a session with an open file counts as unused")
	}
	readAll(t, f, []byte("open"))
	ok(t, f.Close())
	dies(t, s)
	for deadline := time.Now().Add(10 * time.Second); server.Sessions() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the server has %d sessions", server.Sessions())
		}
	}
	works(t, b)
	leaves(t, b)
}

// A server that is near is worth one channel for content, a far one as many as its windows take to be filled.
func TestRoundTripDecidesHowManyChannels(t *testing.T) {
	for trip, want := range map[time.Duration]int{0: 1, time.Millisecond: 1, 5 * time.Millisecond: 1, 20 * time.Millisecond: 3,
		40 * time.Millisecond: 6, time.Second: maxChannels} {
		s := &session{}
		s.trip.Store(int64(trip))
		if got := s.wide(); got != want {
			t.Errorf("%v: %d channels, want %d", trip, got, want)
		}
	}
}

// The first look at a long file, and the creation of one, open the channels that its content will take.
func TestChannelsForALongFileOpenInTime(t *testing.T) {
	for name, do := range map[string]func(r *rig) error{
		"stat": func(r *rig) error { _, err := r.Stat(t.Context(), "long"); return err },
		"create": func(r *rig) error {
			w, err := r.Create(t.Context(), "new", backends.WriteMode{TempName: ".new", Size: longFile})
			if err != nil {
				return err
			}
			return w.Abort()
		},
		"small": func(r *rig) error { _, err := r.Stat(t.Context(), "small"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			r := newLaned(t, nil)
			put(t, r.path("long"), make([]byte, longFile))
			put(t, r.path("small"), make([]byte, longFile-1))
			_, err := r.Stat(t.Context(), "") // a login
			ok(t, err)
			ok(t, do(r))
			s := inUse(r.Backend)
			s.mu.Lock()
			opening := s.opening
			s.mu.Unlock()
			if opening == nil != (name == "small") {
				t.Fatalf("channels are being opened: %v", opening != nil)
			}
			if opening != nil {
				<-opening
			}
			if n := channelsOf(s); n != map[bool]int{true: 0, false: lanes}[name == "small"] {
				t.Errorf("%d channels for content", n)
			}
			leaves(t, r.Backend)
		})
	}
}

package cache

import (
	"path/filepath"
	"testing"
	"time"

	"pierfs/backends/mem"
)

// TestAnswerThatWasOvertakenTakesNoName: that a name is not there, or is another file, was true when the server was asked. What was
// made of the name since, here, is not to lose it for that, however late the answer is dealt with.
func TestAnswerThatWasOvertakenTakesNoName(t *testing.T) {
	ctx := t.Context()
	server, dir := mem.New(mem.Options{}), t.TempDir()
	if err := server.WriteFile("old", []byte("content")); err != nil {
		t.Fatal(err)
	}
	tree, err := New(server, Options{Staging: filepath.Join(dir, "staging"), Quarantine: filepath.Join(dir, "quarantine"), MetadataTTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close(ctx)

	mark := tree.attrs.Mark()
	if !tree.attrs.AnswerAbsent("new", time.Now(), mark) {
		t.Fatal("an answer that nothing has overtaken was not believed")
	}
	if _, err := tree.Link(ctx, "old", "new"); err != nil {
		t.Fatal(err)
	}
	if tree.vanished(ctx, "new", mark) || !tree.sameFile("old", "new") {
		t.Error("a link lost its name to an answer from before it was made")
	}

	mark = tree.attrs.Mark()
	f, _, err := tree.Open(ctx, "made", OpenMode{Write: true, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Publish(ctx); err != nil {
		t.Fatal(err)
	}
	if tree.vanished(ctx, "made", mark) || tree.replaced(f, "made", mark) || tree.live("made") != f {
		t.Error("a file lost its name to an answer from before it was made")
	}
	if err := f.Close(ctx, false); err != nil {
		t.Fatal(err)
	}
}

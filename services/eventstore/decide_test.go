package eventstore

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestDecisionTable goes through the table of expected revisions by three ways:
// the Append stub, BatchAppend and the official client. A case is a history of a
// stream, one append, and the answer. Steps: "E:a,b" appends events a and b at
// expected E; "del", "tomb", "meta JSON".
func TestDecisionTable(t *testing.T) {
	t.Parallel()
	const (
		any    = expectAny
		none   = expectNoStream
		exists = expectExists
	)
	cases := []struct {
		name     string
		history  []string
		expected int64
		ids      string
		want     string
		again    bool // the events are stored once more: the stream has grown
	}{
		{"never seen, any", nil, any, "a", "ok(0)", true},
		{"never seen, no stream", nil, none, "a", "ok(0)", true},
		{"never seen, exists", nil, exists, "a", "wrong(-1)", false},
		{"never seen, exact", nil, 0, "a", "wrong(-1)", false},
		{"never seen, exact far", nil, 7, "a", "wrong(-1)", false},
		{"never seen, two events", nil, none, "a,b", "ok(1)", true},

		{"tombstoned, any", []string{"-1:a", "tomb"}, any, "b", "deleted", false},
		{"tombstoned, no stream", []string{"-1:a", "tomb"}, none, "b", "deleted", false},
		{"tombstoned, exists", []string{"-1:a", "tomb"}, exists, "b", "deleted", false},
		{"tombstoned, exact", []string{"-1:a", "tomb"}, 0, "b", "deleted", false},
		{"tombstoned, repeat", []string{"-1:a", "tomb"}, none, "a", "deleted", false},
		{"tombstoned unborn", []string{"tomb"}, any, "a", "deleted", false},
		{"tombstoned, no events", []string{"tomb"}, any, "", "deleted", false},

		{"exists, soft-deleted", []string{"-1:a", "del"}, exists, "b", "deleted", false},
		{"exists, metadata only", []string{`meta {"k":1}`}, exists, "a", "ok(0)", true},
		{"exists", []string{"-1:a"}, exists, "b", "ok(1)", true},

		{"any, unknown", []string{"-1:a"}, any, "b", "ok(1)", true},
		{"any, all known", []string{"-1:a,b", "1:c"}, any, "a,b", "ok(1)", false},
		{"any, one known", []string{"-1:a,b"}, any, "a", "ok(0)", false},
		{"exists, all known", []string{"-1:a,b", "1:c"}, exists, "b,c", "ok(2)", false},
		{"any, first known", []string{"-1:a"}, any, "a,b", "wrong(0)", false},
		{"any, later known", []string{"-1:a"}, any, "b,a", "ok(2)", true},
		{"any, after metadata", []string{`meta {}`}, any, "a", "ok(0)", true},

		{"no stream, repeat", []string{"-1:a,b"}, none, "a,b", "ok(1)", false},
		{"no stream, prefix", []string{"-1:a,b"}, none, "a", "ok(0)", false},
		{"no stream, longer", []string{"-1:a,b"}, none, "a,b,c", "wrong(1)", false},
		{"no stream, other", []string{"-1:a"}, none, "b", "wrong(0)", false},
		{"no stream, later differs", []string{"-1:a,b"}, none, "a,c", "wrong(1)", false},
		{"exact past, repeat", []string{"-1:a", "0:b,c", "2:d"}, 0, "b,c", "ok(2)", false},
		{"exact past, prefix", []string{"-1:a", "0:b,c"}, 0, "b", "ok(1)", false},
		{"exact past, other", []string{"-1:a", "0:b"}, 0, "c", "wrong(1)", false},
		{"exact past, shifted", []string{"-1:a,b,c"}, 0, "c", "wrong(2)", false},
		{"exact ahead", []string{"-1:a"}, 5, "b", "wrong(0)", false},
		{"exact", []string{"-1:a"}, 0, "b", "ok(1)", true},
		{"exact, same id twice", []string{"-1:a"}, 0, "a", "ok(1)", true},

		{"no events, any unborn", nil, any, "", "ok(-1)", false},
		{"no events, no stream unborn", nil, none, "", "ok(-1)", false},
		{"no events, exact", []string{"-1:a"}, 0, "", "ok(0)", false},
		{"no events, any", []string{"-1:a"}, any, "", "ok(0)", false},
		{"no events, exact past", []string{"-1:a,b"}, 0, "", "wrong(1)", false},
		{"no events, no stream", []string{"-1:a"}, none, "", "wrong(0)", false},

		{"soft-deleted, no stream", []string{"-1:a,b", "del"}, none, "c", "ok(2)", true},
		{"soft-deleted, any", []string{"-1:a,b", "del"}, any, "c", "ok(2)", true},
		{"soft-deleted, exact", []string{"-1:a,b", "del"}, 1, "c", "ok(2)", true},
		{"soft-deleted, exact past", []string{"-1:a,b", "del"}, 0, "c", "wrong(1)", false},
		{"soft-deleted, repeat", []string{"-1:a,b", "del"}, none, "a", "ok(0)", false},
	}
	w := serve(t, Config{})
	ways := []struct {
		name   string
		append func(string, int64, ...string) answer
	}{{"append", w.append}, {"batch", w.appendBatch}, {"client", w.appendOfficial}}
	for i, c := range cases {
		for _, way := range ways {
			t.Run(c.name+"/"+way.name, func(t *testing.T) {
				stream := fmt.Sprintf("%s-%d", way.name, i)
				for _, step := range c.history {
					w.step(t, stream, step)
				}
				before := len(w.history(stream))
				want := c.want
				if way.name == "client" {
					if strings.HasPrefix(want, "wrong") {
						want = "wrong(-9)"
					}
					if want == "ok(-1)" { // the client cannot say "no stream"
						want = "ok(0)"
					}
				}
				got := way.append(stream, c.expected, names(c.ids)...)
				if got.String() != want {
					t.Errorf("got %v, want %v", got, want)
				}
				if grown := len(w.history(stream)) - before; grown != 0 != c.again || c.again && grown != len(names(c.ids)) {
					t.Errorf("the stream has grown by %d", grown)
				}
			})
		}
	}
}

// TestIdempotencyAcrossRestart: exact revisions and any both recognise a repeat
// after the node has forgotten all it had in memory.
func TestIdempotencyAcrossRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := serve(t, Config{Dir: dir})
	first := w.append("s", expectNoStream, "a", "b")
	w.append("s", 1, "c")
	if err := w.node.Close(); err != nil {
		t.Fatal(err)
	}
	w = serve(t, Config{Dir: dir})
	for _, expected := range []int64{expectNoStream, expectAny, expectExists} {
		if got := w.append("s", expected, "a", "b"); got != first {
			t.Errorf("expected %d: repeat answered %v at %d, want %v at %d", expected, got, got.position, first, first.position)
		}
	}
	if got := w.append("s", 2, "d"); got.String() != "ok(3)" {
		t.Errorf("append after the restart: %v", got)
	}
}

// TestDeletes: what Delete and Tombstone expect, and what they leave.
func TestDeletes(t *testing.T) {
	t.Parallel()
	w := serve(t, Config{})
	want := func(what string, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	want("delete unborn", w.delete("unborn", expectAny).String(), "wrong(-1)")
	want("delete unborn, no stream", w.delete("unborn", expectNoStream).String(), "wrong(-1)")
	w.append("s", expectNoStream, "a", "b")
	want("delete elsewhere", w.delete("s", 0).String(), "wrong(1)")
	w.setMetadata("s", `{"$maxCount":5,"k":1}`)
	if a := w.delete("s", 1); a.position != 5 { // $users, a, b, metadata, this
		t.Errorf("delete answered position %d: %v", a.position, a)
	}
	want("deleted", fmt.Sprint(w.read("s")), "[not found]")
	want("metadata", fmt.Sprint(w.read("$$s")), `[$$s/1={"$tb":9223372036854775807}]`)
	want("delete again", w.delete("s", expectExists).String(), "deleted")
	want("write again", w.append("s", expectNoStream, "c", "d").String(), "ok(3)")
	want("undeleted", fmt.Sprint(w.read("s")), "[s/2=c s/3=d]")
	want("metadata", fmt.Sprint(w.read("$$s")), `[$$s/2={"$tb":2}]`)

	w.delete("s", expectAny)
	w.setMetadata("s", `{"k":2}`)
	want("undeleted by metadata", fmt.Sprint(w.read("$$s")), `[$$s/5={"$tb":4,"k":2}]`)
	want("nothing to see yet", fmt.Sprint(w.read("s")), "[]")
	want("write", w.append("s", 3, "e").String(), "ok(4)")
	want("seen", fmt.Sprint(w.read("s")), "[s/4=e]")

	want("tombstone elsewhere", w.tombstone("s", 9).String(), "wrong(4)")
	if a := w.tombstone("s", 4); a.err != nil || a.wrong || a.position == 0 {
		t.Errorf("tombstone: %v", a)
	}
	for _, what := range []answer{w.tombstone("s", expectAny), w.delete("s", expectAny), w.append("s", expectAny, "f"),
		w.append("$$s", expectAny, "g")} {
		want("after the tombstone", what.String(), "deleted")
	}
	want("read", fmt.Sprint(w.read("s")), "[deleted]")
	want("read the metastream", fmt.Sprint(w.read("$$s")), "[deleted]")
	want("subscribe", fmt.Sprint(w.read("s", subscribing)), "[deleted]")
	if a := w.tombstone("unborn", expectNoStream); a.err != nil || a.wrong {
		t.Errorf("tombstone of an unborn stream: %v", a)
	}
	want("write to all", w.append("$all", expectAny, "a").String(), "rpc error: code = PermissionDenied desc = access is denied")
}

func names(ids string) []string {
	if ids == "" {
		return nil
	}
	return strings.Split(ids, ",")
}

func (w *wire) step(t *testing.T, stream, step string) {
	t.Helper()
	var a answer
	switch {
	case step == "del":
		a = w.delete(stream, expectAny)
	case step == "tomb":
		a = w.tombstone(stream, expectAny)
	case strings.HasPrefix(step, "meta "):
		w.setMetadata(stream, step[5:])
	default:
		var expected int64
		at, ids, _ := strings.Cut(step, ":")
		if _, err := fmt.Sscan(at, &expected); err != nil {
			t.Fatal(err)
		}
		a = w.append(stream, expected, names(ids)...)
	}
	if a.err != nil || a.wrong || a.deleted {
		t.Fatalf("step %q: %v", step, a)
	}
}

// history is all that $all holds of a stream, whatever is hidden of it.
func (w *wire) history(stream string) []string {
	return slices.DeleteFunc(w.read(""), func(s string) bool { return !strings.HasPrefix(s, stream+"/") })
}

package eventstore

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// model is EventStoreDB as its documentation tells it, in the plainest form.
type model struct {
	streams map[string][]string // ids by revision
	tombs   map[string]bool
	meta    map[string]map[string]int64 // what counts of the newest metadata
	hasMeta map[string]bool
}

func (m *model) deleted(s string) bool { return m.meta[s]["$tb"] == softDeleted }

// append is the answer to an append; it changes the model when it succeeds.
func (m *model) append(s string, expected int64, ids []string) string {
	have, last := m.streams[s], int64(len(m.streams[s]))-1
	wrong := fmt.Sprintf("wrong(%d)", last)
	if m.tombs[s] {
		return "deleted"
	}
	if expected == expectExists {
		if m.deleted(s) {
			return "deleted"
		}
		if last < 0 && !m.hasMeta[s] {
			return wrong
		}
	}
	write := false
	switch {
	case expected == expectAny || expected == expectExists:
		at := int64(-1)
		known := 0
		for i, id := range ids {
			if r := slices.Index(have, id); r >= 0 {
				at = int64(r)
				known++
			} else if i == 0 {
				break
			}
		}
		switch {
		case known == 0 || len(ids) > 0 && slices.Index(have, ids[0]) < 0:
			write = true
		case known < len(ids):
			return wrong
		default:
			return fmt.Sprintf("ok(%d)", at)
		}
	case expected > last:
		return wrong
	case expected == last:
		write = true
	default:
		from := int(expected) + 1
		switch {
		case len(ids) > 0 && from+len(ids) <= len(have) && slices.Equal(have[from:from+len(ids)], ids):
			return fmt.Sprintf("ok(%d)", from+len(ids)-1)
		case len(ids) > 0 && have[from] != ids[0] && expected == expectNoStream && m.deleted(s):
			write = true
		default:
			return wrong
		}
	}
	if write && len(ids) > 0 {
		if m.deleted(s) {
			m.meta[s] = with(m.meta[s], "$tb", last+1)
		}
		m.streams[s] = append(have, ids...)
		last += int64(len(ids))
	}
	return fmt.Sprintf("ok(%d)", last)
}

func (m *model) setMeta(s string, meta map[string]int64) string {
	if m.tombs[s] {
		return "deleted"
	}
	if m.deleted(s) {
		meta = with(meta, "$tb", int64(len(m.streams[s])))
	}
	m.meta[s], m.hasMeta[s] = meta, true
	return "ok"
}

func (m *model) delete(s string, expected int64) string {
	if !m.tombs[s] && len(m.streams[s]) == 0 && !m.hasMeta[s] {
		return "wrong(-1)"
	}
	if a := m.expect(s, expected); a != "ok" {
		return a
	}
	m.meta[s], m.hasMeta[s] = map[string]int64{"$tb": softDeleted}, true
	return "ok"
}

func (m *model) tombstone(s string, expected int64) string {
	if a := m.expect(s, expected); a != "ok" {
		return a
	}
	m.tombs[s] = true
	return "ok"
}

// expect is append's answer to an event nobody has seen, without writing it.
func (m *model) expect(s string, expected int64) string {
	dry := &model{streams: map[string][]string{s: slices.Clone(m.streams[s])}, tombs: m.tombs,
		meta: map[string]map[string]int64{s: m.meta[s]}, hasMeta: m.hasMeta}
	if a := dry.append(s, expected, []string{"unseen"}); a[:2] != "ok" {
		return a
	}
	return "ok"
}

// read is what a forward read from revision 0 answers.
func (m *model) read(s string) (got []string) {
	have := m.streams[s]
	switch {
	case m.tombs[s]:
		return []string{"deleted"}
	case len(have) == 0 || m.deleted(s):
		return []string{"not found"}
	}
	first := m.meta[s]["$tb"]
	if n := m.meta[s]["$maxCount"]; n > 0 {
		first = max(first, int64(len(have))-n)
	}
	for r := first; r < int64(len(have)); r++ {
		got = append(got, fmt.Sprintf("%s/%d=%s", s, r, have[r]))
	}
	return got
}

func with(m map[string]int64, key string, v int64) map[string]int64 {
	out := map[string]int64{key: v}
	for k, old := range m {
		if k != key {
			out[k] = old
		}
	}
	return out
}

// TestRandomHistories runs random writes, deletes, metadata, reads and restarts
// against the node and the model, and checks the store after each history.
func TestRandomHistories(t *testing.T) {
	t.Parallel()
	steps := 0
	rapid.Check(t, func(rt *rapid.T) {
		fs := vfs.NewMem()
		w := serve(t, Config{FS: fs})
		m := &model{map[string][]string{}, map[string]bool{}, map[string]map[string]int64{}, map[string]bool{}}
		streams := rapid.SampledFrom([]string{"s", "t", "s-1"})
		expected := rapid.Custom(func(rt *rapid.T) int64 {
			return rapid.SampledFrom([]int64{expectAny, expectNoStream, expectExists, 0, 1, 2, 3, 4, 5}).Draw(rt, "at")
		})
		ids := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g", "h"}), 0, 3)
		fail := func(what string, got, want any) {
			if fmt.Sprint(got) != fmt.Sprint(want) {
				rt.Fatalf("%s: got %v, the model says %v", what, got, want)
			}
		}
		check := func() {
			for _, s := range []string{"s", "t", "s-1"} {
				want := m.read(s)
				fail("read "+s, w.read(s), want)
				if len(want) > 0 && want[0] != "deleted" && want[0] != "not found" {
					slices.Reverse(want)
					fail("read backwards "+s, w.read(s, backwards, fromEnd), want)
				}
			}
		}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			steps++
			s := streams.Draw(rt, "stream")
			switch op := rapid.IntRange(0, 19).Draw(rt, "op"); {
			case op < 11:
				e, list := expected.Draw(rt, "expected"), ids.Draw(rt, "ids")
				want := m.append(s, e, list)
				if op < 8 {
					fail(fmt.Sprint("append ", s, e, list), w.append(s, e, list...), want)
				} else {
					fail(fmt.Sprint("batch append ", s, e, list), w.appendBatch(s, e, list...), want)
				}
			case op < 14:
				meta := map[string]int64{}
				if n := rapid.Int64Range(0, 4).Draw(rt, "maxCount"); n > 0 {
					meta["$maxCount"] = n
				}
				if n := rapid.Int64Range(0, 4).Draw(rt, "tb"); n > 0 {
					meta["$tb"] = n
				}
				doc, err := json.Marshal(meta)
				if err != nil {
					rt.Fatal(err)
				}
				a := w.send(appendOptions("$$"+s, expectAny), appendEvent(testID(fmt.Sprint("meta", steps)), "$metadata", "application/json", doc))
				fail("metadata", kind(a), m.setMeta(s, meta))
			case op < 17:
				e := expected.Draw(rt, "expected")
				fail(fmt.Sprint("delete ", s, e), kind(w.delete(s, e)), m.delete(s, e))
			case op < 18:
				e := expected.Draw(rt, "expected")
				fail(fmt.Sprint("tombstone ", s, e), kind(w.tombstone(s, e)), m.tombstone(s, e))
			default:
				if err := w.node.Close(); err != nil {
					rt.Fatal(err)
				}
				w = serve(t, Config{FS: fs})
			}
			check()
		}
		if err := w.node.Close(); err != nil {
			rt.Fatal(err)
		}
		if r, err := Fsck(t.Context(), FsckConfig{Dir: "store", FS: fs}); err != nil || !r.OK() {
			rt.Fatalf("fsck: %v %v", r, err)
		}
	})
	fmt.Printf("random-histories steps=%d unexplained=0\n", steps)
}

// kind leaves the revision out, which deletes do not answer.
func kind(a answer) string {
	if a.err != nil || a.wrong || a.deleted {
		return a.String()
	}
	return "ok"
}

package bus

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"waymark/services/kit/es"
	"waymark/services/kit/estest"
)

// patience is how long a test waits for what does not come, on a machine that has
// others to serve.
const patience = 5 * time.Minute

// fill relays the whole log, without a relay left running.
func fill(t testing.TB, log es.Log, js jetstream.JetStream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := NewRelay(log, js, RelayOptions{}).run(ctx, true); err != nil {
		t.Fatal(err)
	}
}

func scrub(t testing.TB, log es.Log, js jetstream.JetStream) ScrubReport {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := Scrub(ctx, log, js, Mapping{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func rebuild(t testing.TB, log es.Log, js jetstream.JetStream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := Rebuild(ctx, log, js, Mapping{}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestScrubAndRebuild(t *testing.T) {
	t.Parallel()
	const events = 1000
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		found  func(ScrubReport) bool
	}{
		{"control", func(*testing.T, string) {}, func(r ScrubReport) bool { return !r.Damaged() && r.Verified == events }},
		{"deleted store", func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "jetstream")); err != nil {
				t.Fatal(err)
			}
		}, func(r ScrubReport) bool { return r.Damaged() && r.Absent && r.Behind == events }},
		{"flipped bit", flipBit, func(r ScrubReport) bool {
			return r.Damaged() && r.Verified < events && r.Missing+r.Altered > 0
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n, log := startNATS(t), estest.NewLog()
			writeMany(t, log, 0, events)
			js := n.connect()
			fill(t, log, js)
			whole := scrub(t, log, js)
			if whole.Damaged() || whole.Verified != events || whole.Behind != 0 {
				t.Fatalf("before the damage: %+v", whole)
			}
			n.stop()
			c.damage(t, n.dir)
			n.start()
			js = n.connect()
			r := scrub(t, log, js)
			t.Logf("%s: events=%d delivered=%d verified=%d missing=%d altered=%d behind=%d absent=%t first=%+v",
				c.name, r.Events, r.Messages, r.Verified, r.Missing, r.Altered, r.Behind, r.Absent, r.First)
			if !c.found(r) {
				t.Error("not as it should be")
			}
			rebuild(t, log, js)
			if r := scrub(t, log, js); r.Damaged() || r.Verified != events || r.Hash != whole.Hash {
				t.Errorf("after the rebuild: %+v", r)
			}
		})
	}
}

// flipBit flips one bit within the body of a message in the middle of the store.
func flipBit(t *testing.T, dir string) {
	t.Helper()
	var blocks []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".blk") {
			blocks = append(blocks, path)
		}
		return err
	})
	if err != nil || len(blocks) == 0 {
		t.Fatal("no blocks to damage", err)
	}
	data, err := os.ReadFile(blocks[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data[len(data)/2:], []byte(`"handoverId"`))
	if at < 0 {
		t.Fatal("no message found in the block")
	}
	data[len(data)/2+at+3] ^= 1
	if err := os.WriteFile(blocks[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestScrubNames damages a stream by what a wrong writer could do, and looks
// whether each kind is named.
func TestScrubNames(t *testing.T) {
	t.Parallel()
	n, log := startNATS(t), estest.NewLog()
	writeMany(t, log, 0, 8)
	js := n.connect()
	ctx := context.Background()
	if _, err := Ensure(ctx, js); err != nil {
		t.Fatal(err)
	}
	m := newMapper(Mapping{})
	events := make(chan *expectation, 100)
	if err := expectations(ctx, log, Mapping{}, events); err != nil {
		t.Fatal(err)
	}
	close(events)
	var all []*expectation
	for e := range events {
		all = append(all, e)
	}
	foreign := log.Events()[0]
	foreign.Position = all[7].position + 64
	unknown, err := m.message(&foreign, all[7].position)
	if err != nil {
		t.Fatal(err)
	}
	altered := withHeaders(all[3].msg)
	altered.Data = bytes.Replace(altered.Data, []byte(`"r"`), []byte(`"s"`), 1)
	// 1 comes late and twice, 3 is altered, 4 is missing, and so are 6 and 7: a
	// message that nobody knows stands after them.
	for _, msg := range []*nats.Msg{all[0].msg, all[2].msg, all[1].msg, all[1].msg, altered, all[5].msg, unknown} {
		if _, err := js.PublishMsg(ctx, withHeaders(msg)); err != nil {
			t.Fatal(err)
		}
	}
	r := scrub(t, log, js)
	t.Logf("%+v", r)
	if r.Verified != 3 || r.Reordered != 1 || r.Doubled != 1 || r.Altered != 1 || r.Unknown != 1 || r.Missing != 3 ||
		r.First != (Damage{"missing", 2, all[1].position}) {
		t.Error("damage is not named as it is")
	}
}

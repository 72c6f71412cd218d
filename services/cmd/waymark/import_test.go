package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"waymark/services/kit/es"
)

// What the test of a killed import takes in, and after how many events the system
// is killed: larger cohorts are given by hand.
var (
	importedCohort = flag.String("cohort", "../../cohort/testdata", "folder with cohorts in Synthea's format")
	killAt         = flag.Int("kill-at", 150, "events after which the system is killed")
)

// importInto imports the cohort and returns the report.
func importInto(t *testing.T, c *checkout) importReport {
	t.Helper()
	path, err := filepath.Abs(*importedCohort)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(within(t, 20*time.Minute), filepath.Join(c.dir, "bin", "waymark"), "import", "-q", "-o", "json", path)
	cmd.Dir, cmd.Env = c.dir, c.env
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var r importReport
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestImportTwice: all patients become pathways by commands that are all taken;
// the second time every one of them is a duplicate, and nothing is recorded.
func TestImportTwice(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	c.dev()
	first := importInto(t, c).Sources[0]
	if first.Patients == 0 || first.Whole != first.Patients || first.Refused != 0 || first.Duplicate != 0 || first.Taken != first.Read {
		t.Errorf("first: %+v", first)
	}
	settled(t, c)
	again := importInto(t, c)
	if s := again.Sources[0]; s.Taken != 0 || s.Refused != 0 || s.Duplicate != s.Read || s.Read != first.Read || s.Whole != s.Patients {
		t.Errorf("second: %+v, after %+v", s, first)
	}
	if n := again.Log.Events - again.Log.Own; n != 0 {
		t.Errorf("the second import recorded %d events", n)
	}
	c.sh("bin/waymark verify")
}

// TestREADMEImports does what the README says of one's own data.
func TestREADMEImports(t *testing.T) {
	t.Parallel()
	blocks := readmeBlocks(t, "Your own data")
	if len(blocks) != 1 {
		t.Fatalf("the section has %d blocks of commands, not 1", len(blocks))
	}
	c := newCheckout(t)
	services, err := filepath.Abs("../..")
	if err == nil {
		err = os.Symlink(services, filepath.Join(c.dir, "services"))
	}
	if err != nil {
		t.Fatal(err)
	}
	c.dev()
	out := c.sh(blocks[0])
	for _, text := range []string{"6, whole 6", "HL7 v2", "unusable 4", "bytes an event"} {
		if !strings.Contains(out, text) {
			t.Errorf("it does not print %q:\n%s", text, out)
		}
	}
}

// TestImportKilled: a system that is killed in the middle of an import, and an
// import that is run again, come to the same as one that nobody disturbed.
func TestImportKilled(t *testing.T) {
	t.Parallel()
	calm, struck := newCheckout(t), newCheckout(t)
	calm.dev()
	begun := time.Now()
	whole := importInto(t, calm).Sources[0]

	server, _, _ := struck.dev()
	path, err := filepath.Abs(*importedCohort)
	if err != nil {
		t.Fatal(err)
	}
	victim := exec.Command(filepath.Join(struck.dir, "bin", "waymark"), "import", "-q", path)
	victim.Dir, victim.Env = struck.dir, struck.env
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	n := 0
	enough := fmt.Errorf("enough")
	err = openLog(t, struck).Subscribe(within(t, 10*time.Minute), 0, es.Filter{}, func(m es.Message) error {
		if m.Event != nil {
			n++
		}
		if n == *killAt {
			return enough
		}
		return nil
	})
	if err != enough {
		t.Fatal(err)
	}
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	server.Wait()
	if victim.Wait() == nil {
		t.Fatal("the import was done before the system was killed: lower -kill-at")
	}
	struck.dev()
	again := importInto(t, struck).Sources[0]
	if again.Refused != whole.Refused || again.Whole != whole.Whole || again.Duplicate == 0 || again.Read != whole.Read {
		t.Errorf("after the kill: %+v, undisturbed: %+v", again, whole)
	}
	settled(t, calm)
	settled(t, struck)
	compare(t, recorded(t, calm, begun), recorded(t, struck, begun))
	struck.sh("bin/waymark verify")
	t.Logf("killed after %d events; %d of %d commands were known already", *killAt, again.Duplicate, again.Read)
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func openLog(t *testing.T, c *checkout) es.Log {
	t.Helper()
	log, err := es.Open(es.Config{URL: (&target{PortOffset: c.port}).storeURL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return log
}

// settled waits until nothing was recorded for a while: the services have heard of
// everything, and done what they do then.
func settled(t *testing.T, c *checkout) {
	t.Helper()
	log := openLog(t, c)
	ctx := within(t, 10*time.Minute)
	for calm := 0; calm < 3; {
		head, err := log.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		quiet, stop := context.WithTimeout(ctx, 700*time.Millisecond)
		err = log.Subscribe(quiet, head, es.Filter{}, func(m es.Message) error {
			if m.Event != nil && !strings.HasPrefix(m.Event.Stream, "checkpoint") {
				return errMoved
			}
			return nil
		})
		stop()
		if calm++; err == errMoved {
			calm = 0
		}
	}
}

var errMoved = fmt.Errorf("something was recorded")

// byTheClock are events that a timer records when it finds something due, or a reaction of
// what it finds open: whether it looks in the middle of an import or after it is chance.
var byTheClock = map[string]bool{"CareStepOverdue": true, "SurveillanceEndPassed": true, "OpenThingsEnded": true, "OpenThingsResumed": true, "SummaryOverdue": true, "SummaryDeliveryFailed": true, "ItemBecameDue": true, "ItemOverdue": true, "AssessmentExpired": true, "ConcernEscalated": true}

// one is an event without what two systems cannot have in common: times of the
// machine and ids that derive from them.
type one struct{ stream, content string }

var anyUUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)

// recorded reads what a system recorded, with times from begun on struck out.
func recorded(t *testing.T, c *checkout, begun time.Time) (all []one) {
	t.Helper()
	err := openLog(t, c).ReadAll(within(t, time.Minute), 0, func(e es.Recorded) error {
		category, _, _ := strings.Cut(e.Stream, "-")
		if category == "checkpoint" || category == "schema" || byTheClock[e.Type[strings.LastIndex(e.Type, ".")+1:]] {
			return nil
		}
		m, err := es.Decode(e)
		if err != nil {
			return err
		}
		m = proto.Clone(m)
		strike(m.ProtoReflect(), begun)
		raw, err := protojson.Marshal(m)
		if err != nil {
			return err
		}
		stream := e.Stream
		if category == "identity" { // named by a key of the folder
			stream = category
		}
		var compact any
		if err := json.Unmarshal(raw, &compact); err != nil {
			return err
		}
		if raw, err = json.Marshal(compact); err != nil {
			return err
		}
		all = append(all, one{stream, e.Type + string(raw)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// strike empties every time from begun on, at any depth.
func strike(m protoreflect.Message, begun time.Time) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Kind() != protoreflect.MessageKind || f.IsMap() {
			return true
		}
		each := func(inner protoreflect.Message) bool {
			if inner.Descriptor().FullName() == "google.protobuf.Timestamp" {
				return inner.Get(inner.Descriptor().Fields().ByName("seconds")).Int() >= begun.Unix()
			}
			strike(inner, begun)
			return false
		}
		if !f.IsList() {
			if each(v.Message()) {
				m.Clear(f)
			}
			return true
		}
		for i := range v.List().Len() {
			each(v.List().Get(i).Message())
		}
		return true
	})
}

// compare holds two logs against each other, stream by stream: as many events of
// the same content. Ids that only one of the two has derive from times, and count
// as one.
func compare(t *testing.T, a, b []one) {
	t.Helper()
	ids := func(all []one) map[string]bool {
		out := map[string]bool{}
		for _, e := range all {
			for _, id := range anyUUID.FindAllString(e.content, -1) {
				out[id] = true
			}
		}
		return out
	}
	inA, inB := ids(a), ids(b)
	shared := 0
	for id := range inA {
		if inB[id] {
			shared++
		}
	}
	print := func(all []one) map[string][]string {
		out := map[string][]string{}
		for _, e := range all {
			text := anyUUID.ReplaceAllStringFunc(e.content, func(id string) string {
				if inA[id] && inB[id] {
					return id
				}
				return "*"
			})
			out[e.stream] = append(out[e.stream], text)
		}
		return out
	}
	inAll, differ := print(a), 0
	other := print(b)
	for _, stream := range slices.Sorted(maps.Keys(inAll)) {
		x, y := inAll[stream], other[stream]
		slices.Sort(x)
		slices.Sort(y)
		if sha256.Sum256([]byte(strings.Join(x, "\n"))) == sha256.Sum256([]byte(strings.Join(y, "\n"))) {
			continue
		}
		if differ++; differ <= 5 {
			t.Errorf("%s: %d events and %d events:\n%s", stream, len(x), len(y), difference(x, y))
		}
	}
	if len(inAll) != len(other) || differ > 0 {
		t.Errorf("%d streams and %d streams, %d differ", len(inAll), len(other), differ)
	}
	if len(a) < 50 || shared < 20 {
		t.Errorf("%d events and %d ids in common: nothing was compared", len(a), shared)
	}
	t.Logf("%d streams, %d events and %d ids the same", len(inAll), len(a), shared)
}

// difference lists what only one of two sorted lists has.
func difference(x, y []string) string {
	var out []string
	count := map[string]int{}
	for _, s := range x {
		count[s]++
	}
	for _, s := range y {
		count[s]--
	}
	for _, s := range slices.Sorted(maps.Keys(count)) {
		if count[s] != 0 {
			out = append(out, fmt.Sprintf("%+d %s", count[s], s))
		}
	}
	return strings.Join(out, "\n")
}

package allinone

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	devv1 "waymark/proto/waymark/dev/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
)

// machine is a machine's clock that tests move.
type machine struct {
	mu sync.Mutex
	t  time.Time
}

func (m *machine) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.t
}

func (m *machine) pass(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.t = m.t.Add(d)
}

// TestClockNeverGoesBack restarts a fast clock after crashes, orderly ends,
// advances, failures of its storage and leaps of the machine's clock.
func TestClockNeverGoesBack(t *testing.T) {
	t.Parallel()
	m := &machine{t: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)}
	var kept time.Duration
	full := false
	open := func(rate float64) *clock {
		return newClock(m.now, rate, kept, func(d time.Duration) error {
			if full {
				return errors.New("disk full")
			}
			kept = d
			return nil
		})
	}
	c, last, shown := open(FastClock), time.Time{}, 0
	look := func() {
		t.Helper()
		now := c.Now()
		if now.Before(last) {
			t.Fatalf("after %d times the clock went from %s back to %s", shown, last, now)
		}
		last = now
		shown++
	}
	for i := range 2000 {
		look()
		m.pass(time.Duration(i%7) * time.Second)
		switch i % 23 {
		case 5: // kill -9
			c = open(FastClock)
		case 9:
			if err := c.close(); err != nil {
				t.Fatal(err)
			}
			before := c.Now()
			c = open(1)
			if gap := c.Now().Sub(before); gap < 0 || gap > time.Millisecond {
				t.Fatalf("an orderly restart moved the clock by %s", gap)
			}
		case 12:
			c = open(FastClock)
		case 14:
			full = true
		case 16:
			full = false
		case 18:
			m.pass(-time.Second)
		case 20:
			was := c.Now()
			if _, err := c.advance(36 * time.Hour); err != nil {
				t.Fatal(err)
			}
			if moved := c.Now().Sub(was); moved < 36*time.Hour-time.Minute || moved > 37*time.Hour {
				t.Fatalf("36 h moved it by %s", moved)
			}
		}
	}
	if _, err := c.advance(251 * 365 * 24 * time.Hour); fault.CodeOf(err) != "clock.range" {
		t.Errorf("251 years: %v", err)
	}
	t.Logf("%d times shown, %s ahead of the machine at the end", shown, last.Sub(m.now()))
}

func TestClockRunsADayAMinute(t *testing.T) {
	t.Parallel()
	m := &machine{t: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)}
	c := newClock(m.now, FastClock, 0, func(time.Duration) error { return nil })
	start := c.Now()
	m.pass(time.Minute)
	if passed := c.Now().Sub(start); passed != 24*time.Hour {
		t.Errorf("a minute is %s", passed)
	}
}

// TestAdvanceMovesTheRecord: what is recorded after an advance is recorded at
// the new time, and stays so over a restart.
func TestAdvanceMovesTheRecord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := start(t, Options{Data: dir})
	first := recordedAt(t, s, "schema-a")
	client := devv1.NewClockServiceClient(dial(t, s))
	const by = 14 * 24 * time.Hour
	if _, err := client.AdvanceClock(within(t, time.Minute), &devv1.AdvanceClockRequest{By: durationpb.New(-by)}); fault.CodeOf(err) != "request.invalid" {
		t.Errorf("back: %v", err)
	}
	now, err := client.AdvanceClock(within(t, time.Minute), &devv1.AdvanceClockRequest{By: durationpb.New(by)})
	if err != nil {
		t.Fatal(err)
	}
	if ahead := now.Now.AsTime().Sub(now.Machine.AsTime()); ahead < by || ahead > by+time.Millisecond {
		t.Errorf("it is %s ahead", ahead)
	}
	second := recordedAt(t, s, "schema-b")
	if second.Before(first.Add(by)) {
		t.Errorf("recorded %s before the advance, %s after it", first, second)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	s = start(t, Options{Data: dir})
	if third := recordedAt(t, s, "schema-c"); third.Before(second) {
		t.Errorf("recorded %s before the restart, %s after it", second, third)
	}
}

func dial(t *testing.T, s *System) *grpc.ClientConn {
	t.Helper()
	conn, err := run.Dial(s.GRPC, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// recordedAt appends an event and returns when the log says that was.
func recordedAt(t *testing.T, s *System, stream string) (at time.Time) {
	t.Helper()
	log := open(t, s)
	if _, err := log.Append(within(t, time.Minute), stream, es.NoStream, []es.NewEvent{{ID: uuid.New(), Type: "test", Data: []byte("x"), Metadata: []byte("{}")}}); err != nil {
		t.Fatal(err)
	}
	if err := log.Read(within(t, time.Minute), stream, 0, func(e es.Recorded) error { at = e.Recorded; return nil }); err != nil {
		t.Fatal(err)
	}
	return at
}

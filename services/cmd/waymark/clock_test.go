package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestParseSpan(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"14d": 14 * 24 * time.Hour, "1d12h": 36 * time.Hour, "90m": 90 * time.Minute,
		"": 0, "d": 0, "-1d": 0, "0d": 0, "14": 0, "1h1d": 0, "-3h": 0, "99999d": 0,
	} {
		if got, err := parseSpan(text); (err != nil) != (want == 0) || err == nil && got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}

// now asks a development server for its time.
func (c *checkout) now() time.Time {
	c.t.Helper()
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(c.sh("bin/waymark clock show")))
	if err != nil {
		c.t.Fatal(err)
	}
	return at
}

// TestClock moves the time of a development server as a person does: it moves
// that of recorded times too, and never goes back, also after a restart.
func TestClock(t *testing.T) {
	t.Parallel()
	c := newCheckout(t)
	server, _, stderr := c.dev("--clock", "fast")
	at := fmt.Sprintf("127.0.0.1:%d", portGRPC+c.port)
	out, said, code := waymark(t, "", "clock", "show", "--grpc", at)
	if code != exitOK || !strings.Contains(said, "a day takes 1m0s") {
		t.Errorf("a fast clock does not say so: exit %d, %q, %q", code, out, said)
	}
	before := c.now()
	advanced, said, code := waymark(t, "", "clock", "advance", "14d", "--grpc", at)
	after, err := time.Parse(time.RFC3339, strings.TrimSpace(advanced))
	if code != exitOK || err != nil || after.Sub(before) < 14*24*time.Hour || !strings.Contains(said, "days ahead of this machine") {
		t.Errorf("14d after %s: exit %d, %q, %q, %v", before, code, advanced, said, err)
	}
	if now := c.now(); now.Before(after) {
		t.Errorf("it went back from %s to %s", after, now)
	}
	recorded := c.sh("bin/waymark person register 9990000018 --field receipt.revision -q && bin/waymark events export | grep PersonRegistered")
	var event struct{ Recorded time.Time }
	if err := json.Unmarshal([]byte(recorded[strings.Index(recorded, "{"):]), &event); err != nil || event.Recorded.Before(after.Truncate(time.Second)) {
		t.Errorf("an event after %s is recorded at %s: %v\n%s", after, event.Recorded, err, recorded)
	}
	var shown struct{ Rate float64 }
	if out, _, code = waymark(t, "", "clock", "show", "--grpc", at, "-o", "json"); code != exitOK || json.Unmarshal([]byte(out), &shown) != nil || shown.Rate != 1440 {
		t.Errorf("as JSON: exit %d, %s", code, out)
	}
	for _, span := range []string{"14", "-1d", "0d", "1h1d"} {
		if _, said, code := waymark(t, "", "clock", "advance", "--grpc", at, "--", span); code != exitUsage || !strings.Contains(said, span) {
			t.Errorf("advance %s: exit %d, %q", span, code, said)
		}
	}
	last := c.now()
	c.stop(server, server.Process)
	if !strings.Contains(stderr.String(), "--clock fast") {
		t.Errorf("it does not say how to resume:\n%s", stderr)
	}
	if _, said, code = waymark(t, "", "clock", "show", "--grpc", at); code != exitUnavailable || !strings.Contains(said, "waymark dev") {
		t.Errorf("stopped: exit %d, %q", code, said)
	}
	c.dev()
	if now := c.now(); now.Before(last) {
		t.Errorf("a restart took it from %s back to %s", last, now)
	}
	if _, said, _ = waymark(t, "", "clock", "show", "--grpc", at); strings.Contains(said, "a day takes") {
		t.Errorf("with the real clock it says %q", said)
	}
}

// TestClockOfAnotherSystem: only a development server has a clock to be moved.
func TestClockOfAnotherSystem(t *testing.T) {
	t.Parallel()
	at := (&people{}).serve(t)
	for _, args := range [][]string{{"clock", "show"}, {"clock", "advance", "1d"}} {
		if _, said, code := waymark(t, "", append(args, "--grpc", at)...); code != exitUsage || !strings.Contains(said, "only a development server") {
			t.Errorf("%v: exit %d, %q", args, code, said)
		}
	}
	if _, said, code := waymark(t, "", "dev", "--clock", "slow", "--data", t.TempDir()); code != exitUsage || !strings.Contains(said, "real or fast") {
		t.Errorf("exit %d, %q", code, said)
	}
}

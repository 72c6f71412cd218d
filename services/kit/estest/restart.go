package estest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"waymark/services/kit/es"
)

// Restarts starts a Follower with a journal again and again, while the log grows
// along one of the stories or begins anew along another, and the journal is torn or
// spoiled. Each time its model must say what one without a journal says. follow
// makes a Follower of a log, with what its model says; stories are the events of
// logs that a test wrote, which differ.
func Restarts(t *testing.T, follow func(es.Log) (f *es.Follower, says func() string), stories ...[]es.Recorded) {
	t.Helper()
	run := func(t *rapid.T, log es.Log, dir string) string {
		f, says := follow(log)
		f.Keep(dir)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		if err := f.Wait(ctx, 0); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		return says()
	}
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "restarts")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		var log *Log
		var left []es.Recorded
		begin := func(t *rapid.T) { log, left = NewLog(), rapid.SampledFrom(stories).Draw(t, "story") }
		begin(t)
		damage := func(t *rapid.T, change func([]byte) []byte) {
			files, err := filepath.Glob(filepath.Join(dir, "*.journal"))
			if err != nil || len(files) > 1 {
				t.Fatal(files, err)
			}
			for _, file := range files {
				content, err := os.ReadFile(file)
				if err == nil && len(content) > 0 {
					err = os.WriteFile(file, change(content), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"grow": func(t *rapid.T) {
				for range rapid.IntRange(0, len(left)).Draw(t, "events") {
					e := left[0]
					left = left[1:]
					if _, err := log.Append(context.Background(), e.Stream, e.Revision-1, []es.NewEvent{{ID: e.ID, Type: e.Type, Data: e.Data, Metadata: e.Metadata}}); err != nil {
						t.Fatal(err)
					}
				}
			},
			"replace": begin,
			"tear": func(t *rapid.T) {
				damage(t, func(c []byte) []byte { return c[:rapid.IntRange(0, len(c)).Draw(t, "at")] })
			},
			"spoil": func(t *rapid.T) {
				damage(t, func(c []byte) []byte { c[rapid.IntRange(0, len(c)-1).Draw(t, "at")] ^= 1; return c })
			},
			"start": func(t *rapid.T) {
				if got, want := run(t, log, dir), run(t, log, ""); got != want {
					t.Fatalf("with a journal:\n%s\nwithout:\n%s", got, want)
				}
			},
		})
	})
}

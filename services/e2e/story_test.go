package e2e

import (
	"context"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
	"time"
)

// perform plays the story at name.
func perform(t *testing.T, files fs.FS, name string) error {
	t.Helper()
	s, err := ReadStory(files, name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	w := newWorld(t, s.begin())
	p := &play{Story: s, world: w, kept: map[string]string{}, looked: map[string]int{}}
	err = p.run(ctx)
	t.Logf("%s: %d steps, %d events, accountability passed %d times", s.Title, len(s.Steps), w.verifier.Events, w.verifier.Transfers)
	return err
}

// TestStories plays every story.
func TestStories(t *testing.T) {
	t.Parallel()
	names, err := fs.Glob(Stories, "stories/*.story")
	if err != nil || len(names) == 0 {
		t.Fatalf("%d stories: %v", len(names), err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(path.Base(name), ".story"), func(t *testing.T) {
			t.Parallel()
			if err := perform(t, Stories, name); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPlantedMistakes plays stories that are wrong: each must fail at the line
// and with the words that its last comment says.
func TestPlantedMistakes(t *testing.T) {
	t.Parallel()
	planted, err := fs.Glob(os.DirFS("testdata"), "stories/*.story")
	if err != nil || len(planted) == 0 {
		t.Fatalf("%d planted stories: %v", len(planted), err)
	}
	for _, name := range planted {
		t.Run(strings.TrimSuffix(path.Base(name), ".story"), func(t *testing.T) {
			t.Parallel()
			files := os.DirFS("testdata")
			text, err := fs.ReadFile(files, name)
			if err != nil {
				t.Fatal(err)
			}
			_, want, ok := strings.Cut(string(text), "# says:\n")
			if !ok {
				t.Fatal("it does not say how it fails")
			}
			want = strings.TrimSuffix(strings.ReplaceAll("\n"+want, "\n# ", "\n")[1:], "\n")
			got := perform(t, files, name)
			if got == nil || got.Error() != want {
				t.Errorf("it fails with\n%v\nwant\n%s", got, want)
			}
		})
	}
}

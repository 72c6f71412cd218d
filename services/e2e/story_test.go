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

// perform plays the story at name in the world that make makes for it.
func perform(t *testing.T, files fs.FS, name string, make func(start time.Time) *world) error {
	t.Helper()
	s, err := ReadStory(files, name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p := &play{Story: s, world: make(s.begin()), kept: map[string]string{}, looked: map[string]int{}}
	err = p.run(ctx)
	t.Logf("%s: %d steps, %d events", s.Title, len(s.Steps), len(p.world.log.Events()))
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
			if err := perform(t, Stories, name, func(start time.Time) *world { return newWorld(t, start) }); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPlantedMistakes plays stories that are wrong: each must fail at the line
// and with the words that its last comment says. They share a world: none of
// them sees another's pathway.
func TestPlantedMistakes(t *testing.T) {
	t.Parallel()
	all := t // the world lives as long as this test
	planted, err := fs.Glob(os.DirFS("testdata"), "stories/*.story")
	if err != nil || len(planted) == 0 {
		t.Fatalf("%d planted stories: %v", len(planted), err)
	}
	var shared *world
	for _, name := range planted {
		t.Run(strings.TrimSuffix(path.Base(name), ".story"), func(t *testing.T) {
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
			got := perform(t, files, name, func(start time.Time) *world {
				if shared == nil {
					shared = newWorld(all, start)
				}
				return shared
			})
			if got == nil || got.Error() != want {
				t.Errorf("it fails with\n%v\nwant\n%s", got, want)
			}
		})
	}
}

// TestReadme: the story that the README shows is one of ours.
func TestReadme(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range []string{"stories/ruled-out-on-day-28.story", "stories/given/an-urgent-lung-referral.story"} {
		text, err := fs.ReadFile(Stories, name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	_, shown, _ := strings.Cut(string(readme), "```\n")
	shown, _, _ = strings.Cut(shown, "```")
	if shown == "" {
		t.Fatal("the README shows no story")
	}
	for line := range strings.Lines(shown) {
		if strings.TrimSpace(line) != "..." && !strings.Contains(all.String(), line) {
			t.Errorf("the README shows %q, which no story says", line)
		}
	}
}

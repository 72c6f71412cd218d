package archtest

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestHouse(t *testing.T) {
	t.Parallel()
	r, err := check(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range r.violations {
		t.Errorf("services/%s", v)
	}
	t.Logf("%d packages, %d files, %d imports, %d rooms, %d drivers", r.packages, r.files, r.imports, len(rooms), len(drivers))
	if r.packages < len(rooms) || r.imports == 0 {
		t.Errorf("looked at %d packages and %d imports: the walk misses the house", r.packages, r.imports)
	}
}

// TestPlanted is the control: testdata/planted.txt is a house with every rule
// broken.
func TestPlanted(t *testing.T) {
	t.Parallel()
	root := planted(t)
	r, err := check(root)
	if err != nil {
		t.Fatal(err)
	}
	want := wants(t, root)
	filled := []string{}
	var got []string
	seen := map[string]bool{}
	for _, v := range r.violations {
		seen[v.rule] = true
		switch v.rule {
		case ruleEmpty, ruleIdle: // about what is absent: compared below
			filled = append(filled, v.file)
		default:
			got = append(got, fmt.Sprintf("%s:%d %s", v.file, v.line, v.rule))
		}
	}
	slices.Sort(got)
	for _, v := range r.violations {
		t.Log(v)
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("missed: %s", w)
		}
	}
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("false alarm: %s", g)
		}
	}
	if !slices.Contains(filled, "allinone") || slices.Contains(filled, "person") {
		t.Errorf("empty rooms: %v: allinone is one, person is not", filled)
	}
	if !slices.Contains(filled, "github.com/nats-io/nats-server") || slices.Contains(filled, "github.com/cockroachdb/pebble") {
		t.Errorf("idle drivers: %v: nats-server is one, pebble is not", filled)
	}
	for _, rule := range []string{ruleRoom, ruleEmpty, ruleImport, ruleDriver, ruleIdle, ruleTestOnly, ruleClock, ruleInit, ruleState} {
		if !seen[rule] {
			t.Errorf("rule %q caught nothing: plant a violation of it", rule)
		}
	}
	t.Logf("%d planted violations, all caught", len(want))
}

var (
	fileHeader  = regexp.MustCompile(`(?m)^-- (\S+) --\n`)
	wantComment = regexp.MustCompile(`// want ([a-z-]+)`)
)

// planted unpacks testdata/planted.txt: files after headers "-- path --".
func planted(t *testing.T) fs.FS {
	archive, err := os.ReadFile("testdata/planted.txt")
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{}
	headers := fileHeader.FindAllSubmatchIndex(archive, -1)
	for i, h := range headers {
		end := len(archive)
		if i+1 < len(headers) {
			end = headers[i+1][0]
		}
		files[string(archive[h[2]:h[3]])] = &fstest.MapFile{Data: archive[h[1]:end]}
	}
	return files
}

// wants lists the marked lines as "file:line rule"; a package clause marks its folder.
func wants(t *testing.T, root fs.FS) (want []string) {
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		source, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		for n, line := range strings.Split(string(source), "\n") {
			for _, m := range wantComment.FindAllStringSubmatch(line, -1) {
				at := fmt.Sprintf("%s:%d", name, n+1)
				if strings.HasPrefix(line, "package ") {
					at = path.Dir(name) + ":0"
				}
				want = append(want, at+" "+m[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(want) == 0 {
		t.Fatal("nothing is planted")
	}
	return want
}

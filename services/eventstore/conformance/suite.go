package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

const (
	module  = "github.com/EventStore/EventStore-Client-Go/v4"
	version = "v4.2.0"
)

// suite is the client's test program, built from a writable copy of its module.
type suite struct {
	dir      string   // the copy
	program  string   // the built test program
	declared []string // names of all tests that the sources declare
}

// buildSuite copies the client's module from the module cache to dir, puts our
// container helper in the place of its own, and builds the tests against the
// dependency set of this module, which is what our services link too. It needs
// nothing but the module cache.
func buildSuite(services, dir string) (*suite, error) {
	found, err := goCommand(services, "list", "-m", "-f", "{{.Version}} {{.Dir}}", module)
	if err != nil {
		return nil, err
	}
	v, source, _ := strings.Cut(strings.TrimSpace(found), " ")
	if v != version {
		return nil, fmt.Errorf("the client is %s, this suite is for %s", v, version)
	}
	s := &suite{dir: filepath.Join(dir, "client"), program: filepath.Join(dir, "suite.test")}
	if err := os.CopyFS(s.dir, os.DirFS(source)); err != nil {
		return nil, err
	}
	helper, err := os.ReadFile(filepath.Join(services, "eventstore/conformance/testdata/containers_test.go"))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(s.dir, "esdb", "containers_test.go"), helper, 0o644); err != nil {
		return nil, err
	}
	if s.declared, err = declaredTests(filepath.Join(s.dir, "esdb")); err != nil {
		return nil, err
	}

	// The same go.mod with the client replaced by the copy.
	modfile := filepath.Join(dir, "go.mod")
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(services, name))
		if err != nil {
			return nil, err
		}
		if name == "go.mod" {
			b = fmt.Appendf(b, "\nreplace %s => %s\n", module, s.dir)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return nil, err
		}
	}
	_, err = goCommand(services, "test", "-c", "-mod=mod", "-modfile="+modfile, "-o", s.program, module+"/esdb")
	return s, err
}

func goCommand(dir string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return "", fmt.Errorf("go %s: %w\n%s", args[0], err, exit.Stderr)
	}
	return string(out), err
}

// declaredTests lists the tests that the sources name, so that one which never
// ran can be told from one that does not exist. A subtest counts if its name is
// a literal; group names are left out.
func declaredTests(dir string) ([]string, error) {
	call := regexp.MustCompile(`t\.Run\("([^"]+)", (\w*)`)
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range call.FindAllSubmatch(b, -1) {
			name := string(m[1])
			if !strings.HasSuffix(name, "Tests") {
				names = append(names, strings.ReplaceAll(name, " ", "_"))
			}
		}
		return err
	})
	return names, err
}

// A result is what became of one test.
type result struct {
	Test   string
	Action string // pass, fail, skip
	Output string
}

// run runs the tests that pattern selects, apart from those in skip, with
// environ added to the environment, and returns one result for each test
// without subtests.
func (s *suite) run(pattern, skip string, environ ...string) ([]result, error) {
	cmd := exec.Command("go", "tool", "test2json", "-t", s.program,
		"-test.v=test2json", "-test.timeout=110s", "-test.run="+pattern, "-test.skip="+skip)
	cmd.Dir = filepath.Join(s.dir, "esdb")
	cmd.Env = append(os.Environ(), environ...)
	var events, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &events, &complaints
	runErr := cmd.Run() // a failed test is a failed command too
	results, err := readResults(&events)
	if err == nil && len(results) == 0 {
		err = fmt.Errorf("%s ran nothing: %w\n%s", pattern, runErr, &complaints)
	}
	return results, err
}

func readResults(r io.Reader) ([]result, error) {
	output := map[string]*strings.Builder{}
	parents := map[string]bool{}
	var all []result
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e result
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("test2json: %w", err)
		}
		if output[e.Test] == nil {
			output[e.Test] = new(strings.Builder)
		}
		switch e.Action {
		case "run":
			if i := strings.LastIndex(e.Test, "/"); i > 0 {
				parents[e.Test[:i]] = true
			}
		case "output":
			output[e.Test].WriteString(e.Output)
		case "pass", "fail", "skip":
			if e.Test != "" || e.Action == "fail" {
				e.Output = output[e.Test].String()
				all = append(all, e)
			}
		}
	}
	// A parent's failure is its child's, but for one that stopped before its children.
	failed := map[string]bool{}
	var leaves []result
	for _, e := range all {
		if parents[e.Test] || e.Test == "" {
			if e.Action != "fail" || failed[e.Test] || (e.Test == "" && len(failed) > 0) {
				continue
			}
		}
		if e.Action == "fail" {
			for name := e.Test; name != ""; {
				failed[name] = true
				name = name[:max(strings.LastIndex(name, "/"), 0)]
			}
		}
		leaves = append(leaves, e)
	}
	return leaves, lines.Err()
}

// Command testcount runs go test and says plainly what happened: a line for
// each package, the whole output of each test that failed, the name of each
// test that was skipped, and last "N passed, N failed, N skipped" (tests and
// subtests). It needs nothing but the standard library, so that make test works
// with Go alone. Usage: testcount [go test flags] packages.
//
// It exits 1 when anything failed, and also when no test ran at all.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// event is a line of go test -json (go doc test2json).
type event struct {
	Action      string
	Package     string
	Test        string
	Elapsed     float64
	Output      string
	ImportPath  string // of build output
	FailedBuild string
}

// report collects the events. Only the goroutine that reads go test's output uses it.
type report struct {
	out                     io.Writer
	passed, failed, skipped int
	skips                   []string
	output                  map[string]*strings.Builder // by package, test and build
	counts                  map[string]int              // tests by package
	failedIn                map[string]int              // failed tests by package
}

func (r *report) add(e event) {
	key := e.Package + " " + e.Test
	if strings.HasPrefix(e.Action, "build-") {
		key = "build " + e.ImportPath
	}
	switch e.Action {
	case "output", "build-output":
		b := r.output[key]
		if b == nil {
			b = &strings.Builder{}
			r.output[key] = b
		}
		b.WriteString(e.Output)
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	if e.Test == "" {
		r.packageDone(e)
		return
	}
	r.counts[e.Package]++
	switch e.Action {
	case "pass":
		r.passed++
	case "skip":
		r.skipped++
		r.skips = append(r.skips, e.Package+" "+e.Test)
	case "fail":
		r.failed++
		r.failedIn[e.Package]++
		fmt.Fprintf(r.out, "\n--- %s %s\n%s\n", e.Package, e.Test, r.text(key))
	}
	delete(r.output, key)
}

func (r *report) packageDone(e event) {
	name := strings.TrimPrefix(e.Package, "waymark/")
	switch {
	case e.Action == "fail":
		if r.failedIn[e.Package] == 0 { // did not build, panicked outside a test, or timed out
			r.failed++
			fmt.Fprintf(r.out, "\n--- %s\n%s%s\n", e.Package, r.text("build "+e.FailedBuild), r.leftover(e.Package))
		}
		fmt.Fprintf(r.out, "FAIL  %-32s %7.1f s %6d tests\n", name, e.Elapsed, r.counts[e.Package])
	case r.counts[e.Package] > 0:
		fmt.Fprintf(r.out, "ok    %-32s %7.1f s %6d tests\n", name, e.Elapsed, r.counts[e.Package])
	}
	for key := range r.output {
		if strings.HasPrefix(key, e.Package+" ") {
			delete(r.output, key)
		}
	}
}

func (r *report) text(key string) string {
	if b := r.output[key]; b != nil {
		return b.String()
	}
	return ""
}

// leftover is what a package printed inside and outside tests that never ended.
func (r *report) leftover(pkg string) string {
	var keys []string
	for key := range r.output {
		if strings.HasPrefix(key, pkg+" ") {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	var b strings.Builder
	for _, key := range keys {
		b.WriteString(r.output[key].String())
	}
	return b.String()
}

func main() {
	start := time.Now()
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testcount:", err)
		os.Exit(1)
	}

	var mu sync.Mutex // orders the lines of the ticker among those of the report
	spoke := time.Now()
	go func() {
		for range time.Tick(5 * time.Second) {
			mu.Lock()
			if time.Since(spoke) > 25*time.Second {
				fmt.Fprintf(os.Stderr, "      %s: compiling and testing (the first time takes minutes)\n", time.Since(start).Round(time.Second))
				spoke = time.Now()
			}
			mu.Unlock()
		}
	}()

	r := &report{out: os.Stdout, output: map[string]*strings.Builder{}, counts: map[string]int{}, failedIn: map[string]int{}}
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			mu.Lock()
			var e event
			if json.Unmarshal(line, &e) != nil {
				os.Stdout.Write(line)
			} else {
				r.add(e)
				if e.Test == "" && e.Action != "output" && e.Action != "start" {
					spoke = time.Now()
				}
			}
			mu.Unlock()
		}
		if err != nil {
			break
		}
	}
	err = cmd.Wait()
	mu.Lock()
	for _, s := range r.skips {
		fmt.Println("skipped:", s)
	}
	if err != nil && r.failed == 0 {
		r.failed++
		fmt.Println("go test:", err)
	}
	if r.passed == 0 && r.failed == 0 {
		r.failed++
		fmt.Println("no test passed: that is a failure")
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	if r.failed > 0 {
		os.Exit(1)
	}
}

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const childVariable = "WAYMARK_BENCH_CHILD"

// TestMain is the other side of a measurement where the variable says so.
func TestMain(m *testing.M) {
	if args, ok := os.LookupEnv(childVariable); ok {
		if err := Child(context.Background(), os.Stdin, os.Stdout, strings.Split(args, "\n")...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+strings.Join(args, "\n"))
	return cmd
}

// TestRun measures every row as shortly as can be: that each does its work
// without an error, whose checks are part of it, and that the figures hang
// together. It judges no speed.
func TestRun(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	names := append(Names(true), Names(false)...)
	told := map[string]int{}
	table, err := Run(ctx, Options{Dir: t.TempDir(), Rounds: 1, Round: 20 * time.Millisecond, Events: 1200, Child: child,
		Progress: func(row string, done, of int) { told[row] = of }}, names...)
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != len(names) || len(names) < 20 {
		t.Fatalf("%d rows of %d", len(table.Rows), len(names))
	}
	for _, r := range table.Rows {
		if !(r.Ours > 0) || r.What == "" || r.Unit == "" {
			t.Errorf("%+v", r)
		}
		if r.Limit != 0 && (r.Per == "" || r.RatioMin > r.Ratio || r.Ratio > r.RatioMax || !(r.RatioMin > 0)) {
			t.Errorf("%+v", r)
		}
		if r.Name[0] == 'T' && r.Name != "T1c" && r.Name != "T3v1" && r.Verdict() == "" {
			t.Errorf("%s has no floor", r.Name)
		}
		if r.Name != "T9" && told[r.Name] != 1 {
			t.Errorf("%s told of %d rounds", r.Name, told[r.Name])
		}
	}
	for _, markdown := range []bool{false, true} {
		var out strings.Builder
		if err := table.Write(&out, markdown); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"T13", "two-hop echoes/s", table.Machine.Disk, "load average"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("markdown %t: no %q in\n%s", markdown, want, out.String())
			}
		}
	}
	if _, err := json.Marshal(table); err != nil {
		t.Error(err) // a figure that is no number
	}
}

func TestRowOfRounds(t *testing.T) {
	t.Parallel()
	r := Row{Floor: 0.4, Aim: 0.6}
	r.fill([]float64{40, 10, 30}, []float64{100, 20, 60})
	if r.Ours != 30 || r.Limit != 60 || r.Ratio != 0.5 || r.RatioMin != 0.4 || r.RatioMax != 0.5 || r.Verdict() != "floor" {
		t.Errorf("%+v %s", r, r.Verdict())
	}
	for _, c := range []struct {
		row  Row
		want string
	}{
		{Row{Limit: 1, Ratio: 0.7, Floor: 0.4, Aim: 0.6}, "aim"},
		{Row{Limit: 1, Ratio: 0.3, Floor: 0.4, Aim: 0.6}, "below"},
		{Row{Ours: 40, Floor: 250, Aim: 50, AtMost: true}, "aim"},
		{Row{Ours: 60, Floor: 250, Aim: 50, AtMost: true}, "floor"},
		{Row{Ours: 251, Floor: 250, Aim: 50, AtMost: true}, "below"},
		{Row{Ours: 251}, ""},
	} {
		if got := c.row.Verdict(); got != c.want {
			t.Errorf("%+v: %s", c.row, got)
		}
	}
}

// TestChildSaysWhy: a child that does not start is an error that says so.
func TestChildSaysWhy(t *testing.T) {
	t.Parallel()
	if _, err := startProcess(child("nonsense")); err == nil || !strings.Contains(err.Error(), "no child") {
		t.Error(err)
	}
}

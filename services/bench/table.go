package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"waymark/services/kit/run"
)

// Options of Run. Dir and Child are required.
type Options struct {
	Dir    string        // for data; each row has a folder of its own in it, removed after
	Rounds int           // 0 means 10
	Round  time.Duration // of each side; 0 means 1.5 s
	Events int           // of the long logs that some rows need; 0 means 90,000
	// Child starts this program again in one of the roles of Child, so that client,
	// service and store are processes of their own.
	Child func(args ...string) *exec.Cmd
	// Progress, where set, is told of each round that ended.
	Progress func(row string, done, of int)
}

// Table is what Run measured, and on what.
type Table struct {
	Machine Machine `json:"machine"`
	Rounds  int     `json:"rounds"`
	Round   string  `json:"round"`
	Rows    []Row   `json:"rows"`
}

// Row is one rate or time of ours beside its limit. The ratio is ours through the
// limit's, of a round; Floor and Aim are what it should reach at least, or where
// AtMost is set stay below. A row without limit has no ratio, and its floor and aim are in Unit.
type Row struct {
	Name  string  `json:"name"`
	What  string  `json:"what"`
	Unit  string  `json:"unit"`
	Ours  float64 `json:"ours"` // median over the rounds
	Per   string  `json:"per"`  // what the limit is
	Limit float64 `json:"limit,omitempty"`

	Ratio    float64 `json:"ratio,omitempty"` // median over the rounds
	RatioMin float64 `json:"ratio_min,omitempty"`
	RatioMax float64 `json:"ratio_max,omitempty"`
	Floor    float64 `json:"floor,omitempty"`
	Aim      float64 `json:"aim,omitempty"`
	AtMost   bool    `json:"at_most,omitempty"`
	Note     string  `json:"note,omitempty"`
}

// Verdict says how the row stands to its floor and aim; empty where it has none.
func (r Row) Verdict() string {
	value := r.Ratio
	if r.Limit == 0 {
		value = r.Ours
	}
	reaches := func(target float64) bool { return r.AtMost && value <= target || !r.AtMost && value >= target }
	switch {
	case r.Floor == 0:
		return ""
	case reaches(r.Aim):
		return "aim"
	case reaches(r.Floor):
		return "floor"
	}
	return "below"
}

// side measures one side of a row for about d: a rate in units a second, or a time.
type side func(ctx context.Context, d time.Duration) (float64, error)

// measure is a row to be measured. limit is nil where there is none.
type measure struct {
	Row
	ours, limit side
	rounds      int        // at most; 0 means as many as asked for
	measured    func(*Row) // where it was measured already
}

// measures lists every row in the order of the table. prepare starts what it needs.
var measures = []struct {
	name    string
	limit   bool // of the machine
	prepare func(context.Context, *lab) (*measure, error)
}{
	{"fsync", true, limitFsync},
	{"pebble-1", true, limitPebble(1)},
	{"pebble-8", true, limitPebble(8)},
	{"pebble-64", true, limitPebble(64)},
	{"echo", true, limitEcho},
	{"echo-2", true, limitEcho2},
	{"echo-append", true, limitAppendShaped},
	{"stream", true, limitStream},
	{"decode", true, limitDecode},
	{"T1", false, appendRate},
	{"T1c", false, appendRateClient},
	{"T2", false, appendToPebble},
	{"T3", false, batchAppend},
	{"T3v1", false, bulkAppend},
	{"T4", false, commandRate},
	{"T5", false, commandLatency},
	{"T6", false, queryRate},
	{"T7", false, rebuildRate(1)},
	{"T7m", false, rebuildRate(32)},
	{"T7-1", false, rebuildRateOne(1)},
	{"T7m-1", false, rebuildRateOne(32)},
	{"T8", false, catchUpRate},
	{"T9", false, asOf},
	{"T10", false, visibility},
	{"T13", false, recovery},
	{"relay", false, relayRate},
}

// Names lists what Run can measure; limits are those of the machine.
func Names(limits bool) (names []string) {
	for _, m := range measures {
		if m.limit == limits {
			names = append(names, m.name)
		}
	}
	return names
}

// Run measures the named rows, one after the other.
func Run(ctx context.Context, opts Options, names ...string) (*Table, error) {
	if opts.Rounds == 0 {
		opts.Rounds = 10
	}
	if opts.Round == 0 {
		opts.Round = 1500 * time.Millisecond
	}
	if opts.Events == 0 {
		opts.Events = 90_000
	}
	t := &Table{Machine: inspect(opts.Dir), Rounds: opts.Rounds, Round: opts.Round.String()}
	for _, m := range measures {
		if !slices.Contains(names, m.name) {
			continue
		}
		row, err := runOne(ctx, opts, m.name, m.prepare)
		if err != nil {
			return t, fmt.Errorf("%s: %w", m.name, err)
		}
		t.Rows = append(t.Rows, row)
	}
	t.Machine.LoadAfter = loadAverage()
	return t, nil
}

func runOne(ctx context.Context, opts Options, name string, prepare func(context.Context, *lab) (*measure, error)) (row Row, err error) {
	l := &lab{opts: opts, dir: filepath.Join(opts.Dir, name)}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, l.close(), os.RemoveAll(l.dir)) }()
	m, err := prepare(ctx, l)
	if err != nil {
		return row, err
	}
	m.Name = name
	if m.measured != nil {
		m.measured(&m.Row)
		return m.Row, nil
	}
	rounds := opts.Rounds
	if m.rounds > 0 {
		rounds = min(rounds, m.rounds)
	}
	var ours, limits []float64
	for round := range rounds + 1 { // the first warms up and is not counted
		d := opts.Round
		if round == 0 {
			d = min(d, 500*time.Millisecond)
		}
		sides, into := []side{m.limit, m.ours}, []*[]float64{&limits, &ours}
		for turn := range sides {
			k := (round + turn) % 2 // whoever came second comes first now
			if sides[k] == nil {
				continue
			}
			v, err := sides[k](ctx, d)
			if err != nil {
				return row, err
			}
			if round > 0 {
				*into[k] = append(*into[k], v)
			}
		}
		if opts.Progress != nil && round > 0 {
			opts.Progress(name, round, rounds)
		}
	}
	m.fill(ours, limits)
	return m.Row, nil
}

// fill sets the figures of a row from those of its rounds.
func (r *Row) fill(ours, limits []float64) {
	r.Ours = median(ours)
	if limits == nil {
		return
	}
	r.Limit = median(limits)
	ratios := make([]float64, len(ours))
	for i := range ours {
		ratios[i] = ours[i] / limits[i]
	}
	r.Ratio, r.RatioMin, r.RatioMax = median(ratios), slices.Min(ratios), slices.Max(ratios)
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	n := len(sorted)
	switch {
	case n == 0:
		return math.NaN()
	case n%2 == 1:
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// Write prints the table for people, or where markdown is set for a README.
func (t *Table) Write(w io.Writer, markdown bool) error {
	var rows [][]string
	for _, r := range t.Rows {
		rows = append(rows, r.cells())
	}
	head := []string{"", "what", "ours", "limit", "ratio (min–max)", "floor", "aim", "reached"}
	if err := writeRows(w, markdown, head, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s; %d rounds of %s for each side, in turns, medians.\n", t.Machine.describe(), t.Rounds, t.Round)
	return err
}

func writeRows(w io.Writer, markdown bool, head []string, rows [][]string) error {
	if markdown {
		for _, cells := range slices.Concat([][]string{head, slices.Repeat([]string{"---"}, len(head))}, rows) {
			if _, err := fmt.Fprintln(w, "| "+strings.Join(cells, " | ")+" |"); err != nil {
				return err
			}
		}
		return nil
	}
	tab := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, cells := range slices.Concat([][]string{head}, rows) {
		fmt.Fprintln(tab, strings.Join(cells, "\t"))
	}
	return tab.Flush()
}

func (r Row) cells() []string {
	sign := "≥ "
	if r.AtMost {
		sign = "≤ "
	}
	target := func(x float64) string {
		if x == 0 {
			return ""
		}
		return sign + figure(x)
	}
	what, limit, ratio := r.What, "", ""
	if r.Note != "" {
		what += " (" + r.Note + ")"
	}
	if r.Limit != 0 {
		limit = figure(r.Limit) + " " + r.Per
		ratio = fmt.Sprintf("%.2f (%.2f–%.2f)", r.Ratio, r.RatioMin, r.RatioMax)
	}
	return []string{r.Name, what, figure(r.Ours) + " " + r.Unit, limit, ratio, target(r.Floor), target(r.Aim), r.Verdict()}
}

// figure shows a number with about three digits.
func figure(x float64) string {
	switch {
	case x >= 1e6:
		return fmt.Sprintf("%.2fM", x/1e6)
	case x >= 1e4:
		return fmt.Sprintf("%.1fk", x/1e3)
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.3g", x)
}

// Machine is what a table was measured on.
type Machine struct {
	CPU        string `json:"cpu"`
	Cores      int    `json:"cores"`
	Memory     string `json:"memory"`
	Disk       string `json:"disk"` // file system of the data
	System     string `json:"system"`
	Go         string `json:"go"`
	Version    string `json:"version"`
	LoadBefore string `json:"load_before"`
	LoadAfter  string `json:"load_after"`
	Command    string `json:"command"`
	At         string `json:"at"`
}

func (m Machine) describe() string {
	return fmt.Sprintf("%s; %d cores of %s, %s memory, data on %s, %s, %s, waymark %s; load average %s before, %s after; %s",
		m.At, m.Cores, m.CPU, m.Memory, m.Disk, m.System, m.Go, m.Version, m.LoadBefore, m.LoadAfter, m.Command)
}

// drive runs f in a number of goroutines for about d and returns how many units
// (what f returns) were done a second.
func drive(ctx context.Context, workers int, d time.Duration, f func(ctx context.Context, worker int) (int, error)) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		n   int
		err error
	}
	results := make(chan result, workers)
	began := run.Clock()
	for i := range workers {
		go func() {
			var r result
			for r.err == nil && run.Clock().Sub(began) < d {
				var n int
				n, r.err = f(ctx, i)
				r.n += n
			}
			results <- r
		}()
	}
	total := 0
	var err error
	for range workers {
		r := <-results
		total += r.n
		if r.err != nil && err == nil {
			err = r.err
			cancel()
		}
	}
	return float64(total) / run.Clock().Sub(began).Seconds(), err
}

// paced calls f at a steady rate for about d, whatever it takes, and returns how
// long each took from when it was due: waiting for a slow one before counts.
func paced(ctx context.Context, workers int, rate float64, d time.Duration, f func(ctx context.Context, worker int) error) ([]time.Duration, error) {
	n := max(1, int(rate*d.Seconds()))
	took := make([]time.Duration, n)
	began := run.Clock()
	due := make(chan int, n)
	errs := make(chan error, workers)
	for w := range workers {
		go func() {
			for i := range due {
				if err := f(ctx, w); err != nil {
					errs <- err
					return
				}
				took[i] = run.Clock().Sub(began.Add(time.Duration(float64(i) / rate * 1e9)))
			}
			errs <- nil
		}()
	}
	for i := range n {
		if wait := began.Add(time.Duration(float64(i) / rate * 1e9)).Sub(run.Clock()); wait > 0 {
			time.Sleep(wait)
		}
		due <- i
	}
	close(due)
	var err error
	for range workers {
		err = errors.Join(err, <-errs)
	}
	return took, err
}

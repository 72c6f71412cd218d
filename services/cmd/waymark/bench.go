package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"waymark/services/bench"
)

// benchCommand measures: our rates beside the limits of this machine.
func (c *cli) benchCommand() *cobra.Command {
	var opts bench.Options
	var quick bool
	cmd := &cobra.Command{
		Use: "bench [ROW...]", Short: "Measure what we do beside what this machine can do at most",
		Long: fmt.Sprintf(`Measure our rates and times, each in turns with its limit, which is the least that the same work
costs on this machine. A row shows the medians of its rounds and the ratio of ours to the limit,
with the smallest and the largest of a round. Absolute figures depend on the machine and on what
else runs; ratios much less. services/bench/README.md says what each row does.

  waymark bench           the table: %s
  waymark bench limits    the limits alone: %s
  waymark bench ROW...    these rows

Data is written to a folder of its own below --dir, which is removed afterwards. It takes about ten
minutes, with --quick a part of them, and the figures are then less sure. For a README: -o markdown.

Examples:
  waymark bench T1 T4 --rounds 20
  waymark bench -o markdown`, strings.Join(bench.Names(false), " "), strings.Join(bench.Names(true), " ")),
		Args: func(cmd *cobra.Command, args []string) error {
			for _, a := range args {
				if all := append(bench.Names(false), bench.Names(true)...); a != "limits" && !slices.Contains(all, a) {
					return fmt.Errorf("there is no row %q: limits, pathway, %s", a, strings.Join(all, ", "))
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if quick {
				opts.Rounds, opts.Round = 3, 500*time.Millisecond
			}
			if opts.Rounds < 1 || opts.Round < 10*time.Millisecond {
				return usage(cmd, fmt.Errorf("--rounds is at least 1, --round at least 10ms"))
			}
			return c.bench(cmd.Context(), opts, args)
		},
	}
	cmd.Flags().IntVar(&opts.Rounds, "rounds", 10, "rounds, each with a ratio of its own")
	cmd.Flags().DurationVar(&opts.Round, "round", 1500*time.Millisecond, "how long each side of a round takes")
	cmd.Flags().BoolVar(&quick, "quick", false, "3 rounds of half a second")
	cmd.Flags().StringVar(&opts.Dir, "dir", "", "where to put the data; its disk is measured (default: the folder for temporary files)")
	cmd.AddCommand(c.benchPathwayCommand(), c.benchYearCommand(), c.benchChildCommand())
	return cmd
}

func (c *cli) bench(ctx context.Context, opts bench.Options, names []string) (err error) {
	switch {
	case len(names) == 0:
		names = bench.Names(false)
	case slices.Contains(names, "limits"):
		names = append(names, bench.Names(true)...)
	}
	if opts.Dir, err = os.MkdirTemp(opts.Dir, "waymark-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(opts.Dir)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	opts.Child = func(args ...string) *exec.Cmd {
		return exec.Command(self, append([]string{"bench", "child"}, args...)...)
	}
	var bar *progress
	row := ""
	opts.Progress = func(name string, done, of int) {
		if name != row {
			if bar != nil {
				bar.end()
			}
			row, bar = name, c.progress(name+": rounds")
		}
		bar.set(uint64(done), uint64(of))
	}
	t, err := bench.Run(ctx, opts, names...)
	if bar != nil {
		bar.end()
	}
	if err != nil {
		return err
	}
	if c.format == "json" || c.format == "ndjson" {
		return c.printJSON(t, c.format == "json")
	}
	return t.Write(c.out, c.format == "markdown")
}

func (c *cli) benchYearCommand() *cobra.Command {
	var opts bench.YearOptions
	var keep string
	cmd := &cobra.Command{
		Use: "year", Short: "Record a year of the largest cancer alliance, and see what it costs", Args: cobra.NoArgs,
		Long: fmt.Sprintf(`Make up a year of urgent suspected cancer referrals (%d are those of the largest cancer
alliance), let the services decide all that follows from each, and record it in an event store:
about ten million events. Then make the read models anew, and verify every rule over the whole
log, as waymark verify does. On the way, at 10 thousand, 100 thousand, a million and ten million
events and at the end, it measures what appends, reads and a start cost.

The services run in this process without a network between them; appends are sent to the store
many at a time. --referrals makes it smaller. --keep keeps the data in a folder; where that holds
a year already, it is measured, made anew and verified again. Exits with 5 when a rule is broken.

Examples:
  waymark bench year --referrals 3000
  waymark bench year --dir /data -o markdown`, bench.AllianceReferrals),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.Referrals < 1 {
				return usage(cmd, fmt.Errorf("--referrals is at least 1"))
			}
			return c.benchYear(cmd.Context(), opts, keep)
		},
	}
	cmd.Flags().IntVar(&opts.Referrals, "referrals", bench.AllianceReferrals, "referrals of the year")
	cmd.Flags().StringVar(&keep, "keep", "", "folder to put the data in and leave it, instead of --dir")
	cmd.Flags().Uint64Var(&opts.Seed, "seed", 1, "what the patients are drawn from")
	cmd.Flags().StringVar(&opts.Dir, "dir", "", "where to put the data; it is removed afterwards (default: the folder for temporary files)")
	return cmd
}

func (c *cli) benchYear(ctx context.Context, opts bench.YearOptions, keep string) (err error) {
	if keep != "" {
		opts.Dir = keep
		err = os.MkdirAll(keep, 0o700)
	} else if opts.Dir, err = os.MkdirTemp(opts.Dir, "waymark-year-"); err == nil {
		defer os.RemoveAll(opts.Dir)
	}
	if err != nil {
		return err
	}
	if opts.Child, err = benchChild(); err != nil {
		return err
	}
	bars := map[string]*progress{}
	opts.Progress = func(what string, done, of int) {
		if bars[what] == nil {
			bars[what] = c.progress(what)
		}
		bars[what].set(uint64(done), uint64(of))
	}
	r, err := bench.Year(ctx, opts)
	for _, bar := range bars {
		bar.end()
	}
	if err != nil {
		return err
	}
	if c.format == "json" || c.format == "ndjson" {
		err = c.printJSON(r, c.format == "json")
	} else {
		err = r.Write(c.out, c.format == "markdown")
	}
	if err == nil && r.Verdict.Faults > 0 {
		err = damaged("", "%d faults, the first: %s", r.Verdict.Faults, r.Verdict.First[0].Error())
	}
	return err
}

// benchChild starts this program as the other side of a measurement.
func benchChild() (func(args ...string) *exec.Cmd, error) {
	self, err := os.Executable()
	return func(args ...string) *exec.Cmd {
		return exec.Command(self, append([]string{"bench", "child"}, args...)...)
	}, err
}

// benchChildCommand is what a measurement starts as its other side.
func (c *cli) benchChildCommand() *cobra.Command {
	return &cobra.Command{
		Use: "child ROLE", Short: "The other side of a measurement", Hidden: true, Args: cobra.MinimumNArgs(1),
		Long: `Be the other side of a measurement, until stdin ends. waymark bench starts it.

Example:
  waymark bench child echo`,
		RunE: func(cmd *cobra.Command, args []string) error { return bench.Child(cmd.Context(), c.in, c.out, args...) },
	}
}

func (c *cli) benchPathwayCommand() *cobra.Command {
	var opts bench.PathwayOptions
	cmd := &cobra.Command{
		Use: "pathway", Short: "Measure the rebuild of one pathway beside the bare reading of its streams", Args: cobra.NoArgs,
		Long: `Write one pathway to an event store in a folder of its own, which is removed afterwards,
and put it together again and again, in turns with the bare cost:

  bare read    the official client reads the same streams, all at once, and does nothing with them
  rebuild      the service reads, decodes and folds them
  GetPathway   the same by a gRPC call, with all that every call passes

The ratio is that of the medians of a round; of the rounds the median, smallest and largest are
shown. Times depend on the machine and on what else runs; the ratio much less.

Examples:
  waymark bench pathway
  waymark bench pathway --events 600 --rounds 20 -o json`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if opts.Events < 1 || opts.Rounds < 1 || opts.Reads < 1 {
				return usage(cmd, fmt.Errorf("--events, --rounds and --reads are at least 1"))
			}
			if opts.Dir, err = os.MkdirTemp("", "waymark-bench-"); err != nil {
				return err
			}
			defer os.RemoveAll(opts.Dir)
			bar := c.progress("measured rounds")
			opts.Round = func(done, of int) { bar.set(uint64(done), uint64(of)) }
			r, err := bench.Pathway(cmd.Context(), opts)
			bar.end()
			if err != nil {
				return err
			}
			return c.printBenchPathway(r)
		},
	}
	cmd.Flags().IntVar(&opts.Events, "events", 60, "events of the pathway")
	cmd.Flags().IntVar(&opts.Rounds, "rounds", 15, "rounds, each with a ratio of its own")
	cmd.Flags().IntVar(&opts.Reads, "reads", 300, "reads of each kind in a round")
	return cmd
}

func (c *cli) printBenchPathway(r bench.PathwayResult) error {
	if c.format == "json" || c.format == "ndjson" {
		return c.printJSON(r, c.format == "json")
	}
	c.say("one pathway of %d events in %d streams with its person; %d rounds of %d reads of each kind, in turns", r.Events, r.Streams, r.Rounds, r.Reads)
	type line struct {
		what string
		bench.Latency
		target string
	}
	lines := []line{{"bare read", r.Bare, ""}, {"rebuild", r.Rebuild, fmt.Sprintf("at most %.1f", r.Target)}, {"GetPathway", r.Call, ""}}
	return list(c, []string{"WHAT", "P50", "P99", "RATIO", "SMALLEST", "LARGEST", "TARGET"}, lines, func(l line) []string {
		ms := func(us float64) string { return fmt.Sprintf("%.3f ms", us/1000) }
		ratio := func(x float64) string { return fmt.Sprintf("%.2f", x) }
		return []string{l.what, ms(l.P50Micros), ms(l.P99Micros), ratio(l.Ratio), ratio(l.RatioMin), ratio(l.RatioMax), l.target}
	})
}

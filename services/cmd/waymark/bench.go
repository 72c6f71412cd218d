package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"waymark/services/bench"
)

// benchCommand holds what measures: our rates beside the limits of this machine.
func (c *cli) benchCommand() *cobra.Command {
	return noun("bench", "Measure what we cost beside what the work costs at least", c.benchPathwayCommand())
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

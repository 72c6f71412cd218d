package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"waymark/services/allinone"
	"waymark/services/cohort"
	"waymark/services/kit/run"
)

// devOptions are the settings of waymark dev; the rest of run.Config keeps its defaults.
type devOptions struct {
	Data         string   `flag:"data" default:".waymark" help:"folder of everything that is kept"`
	PortOffset   int      `flag:"port-offset" help:"added to every port: gRPC 7400, HTTP 7480, NATS 4222, event store 2113, MLLP 2575, FHIR 7450"`
	Fresh        bool     `flag:"fresh" help:"delete what --data holds and start anew"`
	Demo         bool     `flag:"demo" help:"seed some made-up patients in different stages (NHS numbers that belong to nobody)"`
	DemoPatients int      `flag:"demo-patients" default:"60" help:"with --demo: how many patients more to draw from published figures, in the background"`
	Clock        string   `flag:"clock" default:"real" help:"real, or fast: a day a minute from now on (waymark clock advance moves either)"`
	Facility     []string `flag:"facility" help:"the ODS code of a sending facility (HL7 MSH-4) that sends a name instead, as NAME=ODS; several, comma separated"`
	LogLevel     string   `flag:"log-level" default:"warn" help:"debug, info, warn or error"`
}

// defaultPatients is the default of --demo-patients.
const defaultPatients = 60

func (c *cli) devCommand() *cobra.Command {
	var o devOptions
	cmd := &cobra.Command{
		Use: "dev", Short: "Start everything in one process, for development", Args: cobra.NoArgs,
		Long: `Start the event store, NATS and every service in one process, under one data folder.

It listens on this machine only, without TLS and without login: it is not for patient data.
Ctrl-C stops it in order; what was recorded is kept.

Example:
  waymark dev --data ./.waymark --port-offset 1000`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.dev(cmd.Context(), o) },
	}
	run.Bind(cmd.Flags(), &o)
	return cmd
}

func (c *cli) dev(ctx context.Context, o devOptions) error {
	logger, err := run.NewLogger(c.err, "text", o.LogLevel)
	if err != nil {
		return usage(nil, fmt.Errorf("--log-level: %w", err))
	}
	rate, known := map[string]float64{"real": 1, "fast": allinone.FastClock}[o.Clock]
	if !known {
		return usage(nil, fmt.Errorf("--clock is real or fast"))
	}
	system, err := allinone.Start(ctx, allinone.Options{
		ClockRate: rate,
		Data:      o.Data, PortOffset: o.PortOffset, Fresh: o.Fresh, Config: run.Config{LogLevel: o.LogLevel, Facilities: o.Facility}, Logger: logger,
	})
	if err != nil {
		return err
	}
	if o.Demo {
		if err := c.seedDemo(ctx, system.GRPC); err != nil {
			return errors.Join(err, system.Stop())
		}
	}
	fmt.Fprint(c.out, c.banner(system, o))
	var seeding sync.WaitGroup
	if o.Demo && o.DemoPatients > 0 {
		seeding.Go(func() {
			switch whole, err := seedCohort(ctx, system.GRPC, o.DemoPatients, func(cohort.Step, outcome, error) {}); {
			case err == nil:
				c.say("the demonstration has %d patients more", whole)
			case ctx.Err() == nil:
				c.say("the demonstration's patients are not all there: %v", err)
			}
		})
	}
	ended := make(chan error, 1)
	go func() { ended <- system.Wait() }()
	select {
	case err := <-ended:
		return fmt.Errorf("the system ended by itself: %w", err)
	case <-ctx.Done():
	}
	seeding.Wait()
	c.say("\nstopping: calls in progress get a few seconds to end")
	if err := system.Stop(); err != nil {
		return err
	}
	c.say("stopped. Everything recorded is kept in %s\nresume with: %s", system.Data, c.resume(o))
	return nil
}

// banner is what `waymark dev` prints when it is ready: at most 12 lines, and a
// line only for what exists.
func (c *cli) banner(s *allinone.System, o devOptions) string {
	flags := ""
	if o.PortOffset != 0 {
		flags = fmt.Sprintf(" --port-offset %d", o.PortOffset)
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("waymark %s  development server: not for patient data (no TLS, no login)", version)
	line("  gRPC         %-38s %s", s.GRPC, strings.Join(allinone.Names(), ", ")+"; reflection and health on")
	line("  HTTP         %-38s also /healthz and /metrics", "http://"+s.HTTP+"/readyz")
	line("  FHIR R4      %-38s read, search, history, _as-of", s.FHIR)
	line("  NATS         %-38s event store: %s", s.NATS, s.EventStore)
	line("  HL7 v2       %-38s over MLLP", s.MLLP)
	kept := "kept; start anew with --fresh"
	if o.Demo {
		kept = "kept; 6 made-up patients on pathways ...0001 to ...0006"
		if o.DemoPatients > 0 {
			kept += fmt.Sprintf(", soon %d more", o.DemoPatients)
		}
	}
	line("  Data         %s  (%s)", s.Data, kept)
	line("Try next, in a second terminal (README.md walks through it):")
	if o.Demo {
		const offered = "00000000-0000-4000-8000-000000000005" // ...001 to ...006 are in other stages
		line("  %s handover show %s%s", program(), offered, flags)
		line("  %s pathway timeline %s%s", program(), offered, flags)
	} else {
		line("  %s call --list%s", program(), flags)
		line("  %s events tail%s", program(), flags)
	}
	line("  %s doctor%s", program(), flags)
	line("Ctrl-C stops it and keeps the data.")
	return b.String()
}

func (c *cli) resume(o devOptions) string {
	out := program() + " dev"
	if o.Data != ".waymark" {
		out += " --data " + o.Data
	}
	if o.PortOffset != 0 {
		out += fmt.Sprintf(" --port-offset %d", o.PortOffset)
	}
	if o.Demo {
		out += " --demo"
		if o.DemoPatients != defaultPatients {
			out += fmt.Sprintf(" --demo-patients %d", o.DemoPatients)
		}
	}
	if o.Clock == "fast" {
		out += " --clock fast"
	}
	return out
}

// program is what the user typed to get here, so that hints can be pasted.
func program() string {
	if name := os.Args[0]; !strings.HasSuffix(name, ".test") {
		return name
	}
	return "waymark"
}

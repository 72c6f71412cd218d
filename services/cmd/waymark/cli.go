// Command waymark is the one binary: `waymark dev` is a whole system in one
// process, `waymark run` some services of a distributed one, and everything else
// is for the people who look after them.
//
// Each noun has a file. Data goes to stdout and nothing else does: progress,
// hints and errors go to stderr, so that every command can be piped. The exit
// code says what kind of answer it was (exit.go).
package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"waymark/services/kit/run"
)

// cli is one invocation: where it reads and writes, and what all commands share.
type cli struct {
	in       io.Reader
	out, err io.Writer
	environ  []string

	format  string // -o; empty is the command's natural form
	quiet   bool
	started bool // a command's own code began: errors before are the caller's
}

func newCLI(in io.Reader, out, err io.Writer, environ []string) *cli {
	return &cli{in: in, out: out, err: err, environ: environ}
}

// execute runs one command line, prints its error and returns the exit code.
func (c *cli) execute(ctx context.Context, args []string) int {
	root := c.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if !c.started {
		err = usage(cmd, err)
	}
	return c.explain(err)
}

const rootHelp = `Waymark records every step on a patient's cancer pathway, and who is holding the next one.

Start here:
  waymark dev                    everything in one process; data in ./.waymark
  waymark call --list            what the services can be asked
  waymark events tail            what happens, live
  waymark doctor                 whether everything is ready
  waymark verify                 whether the whole record keeps its promises

Every flag can be given as an environment variable: --port-offset is WAYMARK_PORT_OFFSET.
Data is printed on stdout, progress and errors on stderr.

Exit codes:
` + exitHelp

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use: "waymark", Short: "The record of every step on a patient's cancer pathway", Long: rootHelp,
		SilenceUsage: true, SilenceErrors: true,
		Args:              cobra.NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return c.prepare(cmd) },
	}
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return run.FlagError(cmd.Flags(), err) })
	root.PersistentFlags().StringVarP(&c.format, "output", "o", "", "table, json, ndjson or markdown (default: what reads best) [$WAYMARK_OUTPUT]")
	root.PersistentFlags().BoolVarP(&c.quiet, "quiet", "q", false, "no progress and no hints on stderr [$WAYMARK_QUIET]")
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run:"}, &cobra.Group{ID: "use", Title: "Use:"}, &cobra.Group{ID: "operate", Title: "Operate:"}, &cobra.Group{ID: "more", Title: "More:"})
	root.SetHelpCommandGroupID("more")
	root.SetCompletionCommandGroupID("more")
	add := func(group string, commands ...*cobra.Command) {
		for _, cmd := range commands {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add("run", c.devCommand(), c.runCommand(), c.eventstoreCommand())
	add("use", c.nounCommands()...)
	add("use", c.callCommand(), c.eventsCommand(), c.sendCommand(), c.fhirCommand(), c.importCommand(), c.tryCommand())
	add("operate", c.doctorCommand(), c.clockCommand(), c.busCommand(), c.fsckCommand(), c.verifyCommand(), c.benchCommand(), c.realInputCommand(), c.configCommand())
	add("more", c.versionCommand())
	return root
}

// prepare reads the environment into the flags of cmd before it runs.
func (c *cli) prepare(cmd *cobra.Command) error {
	var others []string // one environment may serve all commands
	each(cmd.Root(), func(other *cobra.Command) {
		other.LocalFlags().VisitAll(func(f *pflag.Flag) { others = append(others, f.Name) })
	})
	if err := run.Environ(cmd.Flags(), c.environ, others...); err != nil {
		return err
	}
	if c.format != "" && !slices.Contains(formats, c.format) {
		return fmt.Errorf("--output is %s", strings.Join(formats, ", "))
	}
	c.started = true
	return nil
}

func each(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		each(sub, visit)
	}
}

// say prints progress or a hint, unless --quiet.
func (c *cli) say(format string, args ...any) {
	if !c.quiet {
		fmt.Fprintf(c.err, format+"\n", args...)
	}
}

// noun is a command that only holds others.
func noun(use, short string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return usage(cmd, fmt.Errorf("say what: %s", strings.Join(verbNames(verbs), ", ")))
	}}
	cmd.AddCommand(verbs...)
	return cmd
}

func verbNames(verbs []*cobra.Command) (names []string) {
	for _, v := range verbs {
		names = append(names, v.Name())
	}
	return names
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/spf13/cobra"

	"waymark/services/allinone"
	"waymark/services/eventstore"
	"waymark/services/kit/es"
)

func (c *cli) verifyCommand() *cobra.Command {
	var t *target
	var data string
	cmd := &cobra.Command{
		Use: "verify", Short: "Check the whole record against every rule, above all who was accountable when", Args: cobra.NoArgs,
		Long: `Read the whole log again and check that

  * every event is as it was written, where it belongs, and readable
  * every command was recorded whole, and once
  * at every instant exactly one party was accountable for each open pathway (I1),
    accountability passed only by acceptance or a listed cause, and was told (I2 to I9)
  * whatever is planned for a patient has an appointment or a task with a day, and no slot two
  * persons, clocks, adjustments, plans and messages of other systems keep their rules

by code that shares nothing with the services that wrote it. Names the first events that break
a rule and exits with 5. Against a running system, or with --data in the folder of a stopped one.

The log is read once and checked in parts, so that memory hardly grows with it. What waits to be
checked is set aside, compressed and sealed, in a file without a name in the folder for temporary
files: about a quarter of what the log takes. TMPDIR names another folder.

Examples:
  waymark verify
  waymark verify --data ./.waymark -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := allinone.NewLongVerifier()
			if err != nil {
				return err
			}
			defer v.Close()
			if data != "" {
				err = c.verifyFolder(cmd.Context(), v, data)
			} else {
				err = c.withLog(t, func(log es.Log) error { return c.verifyRunning(cmd.Context(), v, log) })
			}
			if err != nil {
				return err
			}
			p := c.progress("parts checked:")
			defer p.end()
			if err := v.End(cmd.Context(), func(done, of int) { p.set(uint64(done), uint64(of)) }); err != nil {
				return err
			}
			return c.printVerdict(&v.Verdict)
		},
	}
	t = c.bindTarget(cmd)
	cmd.Flags().StringVar(&data, "data", "", "data folder of a stopped system")
	return cmd
}

func (c *cli) verifyRunning(ctx context.Context, v *allinone.Verifier, log es.Log) error {
	head, err := log.Head(ctx)
	if err != nil {
		return err
	}
	p := c.progress("read")
	defer p.end()
	return log.ReadAll(ctx, 0, func(e es.Recorded) error {
		p.set(uint64(e.Position), uint64(max(head, e.Position)))
		return v.Next(e)
	})
}

func (c *cli) verifyFolder(ctx context.Context, v *allinone.Verifier, data string) error {
	dir := allinone.StoreDir(data)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return notFound("", "%s holds no log", data)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	report, err := eventstore.Fsck(ctx, eventstore.FsckConfig{Dir: dir, Log: func(e eventstore.CheckedEvent) error {
		err := v.Next(es.Recorded{ID: e.ID, Stream: e.Stream, Revision: es.Revision(e.Revision), Position: es.Position(e.Position),
			Type: e.Type, Data: e.Data, Metadata: e.Metadata, Recorded: e.Created})
		if err != nil {
			stop(err) // it is no fault of the event
		}
		return nil
	}})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, syscall.EAGAIN):
		return unavailable("waymark verify checks a running system without --data", "%s is in use: stop the system first", data)
	case err != nil:
		return damaged("", "%w", err)
	case report.Faults > 0:
		return damaged("waymark fsck --data "+data, "the store itself has %d faults", report.Faults)
	}
	return nil
}

func (c *cli) printVerdict(v *allinone.Verdict) error {
	var err error
	if c.format == "json" || c.format == "ndjson" {
		err = c.printJSON(v, c.format == "json")
	} else {
		rows := [][2]string{{"events", fmt.Sprint(v.Events)}, {"commands", fmt.Sprint(v.Commands)}, {"streams", fmt.Sprint(v.Streams)},
			{"hash chains", fmt.Sprint(v.Chained)}, {"pathways", fmt.Sprint(v.Pathways)}, {"  open now", fmt.Sprint(v.Open)},
			{"transfers of accountability", fmt.Sprint(v.Transfers)}, {"instants", fmt.Sprint(v.Instants)}, {"faults", fmt.Sprint(v.Faults)}}
		for _, f := range v.First {
			rows = append(rows, [2]string{"fault", f.Error()})
		}
		err = list(c, []string{"WHAT", "COUNT"}, rows, func(r [2]string) []string { return r[:] })
	}
	if err == nil && v.Faults > 0 {
		err = damaged(fmt.Sprintf("waymark events show %s", v.First[0].Stream), "%d faults", v.Faults)
	}
	return err
}

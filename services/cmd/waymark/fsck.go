package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"waymark/services/allinone"
	"waymark/services/eventstore"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
)

func (c *cli) fsckCommand() *cobra.Command {
	var t *target
	var data string
	cmd := &cobra.Command{
		Use: "fsck", Short: "Check that every stored event is as it was written", Args: cobra.NoArgs,
		Long: `Follow the hash chain of every stream, in the running system, or with --data in the folder
of a stopped one, where the store itself is checked as well: checksums, order, positions
and revisions without gaps. Exits with 5 when something is not as it was written.

Examples:
  waymark fsck
  waymark fsck --data ./.waymark`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := &verifier{chains: map[string]followed{}}
			var err error
			if data != "" {
				err = v.folder(cmd.Context(), data)
			} else {
				err = c.withLog(t, func(log es.Log) error { return v.running(cmd.Context(), c, log) })
			}
			if err != nil {
				return err
			}
			return c.printVerified(v)
		},
	}
	t = c.bindTarget(cmd)
	cmd.Flags().StringVar(&data, "data", "", "data folder of a stopped system, or of a stopped waymark eventstore")
	return cmd
}

// verifier follows the chains of all streams and collects what is wrong.
type verifier struct {
	Events    int      `json:"events"`
	Streams   int      `json:"streams"`
	Chained   int      `json:"chained_streams"`
	Unchained int      `json:"unchained_streams"` // checkpoints, schemas, streams of other writers
	Faults    int      `json:"faults"`
	First     []string `json:"first,omitempty"` // the first 20 of them

	chains map[string]followed // by stream
}

// followed is how far a stream was followed.
type followed struct {
	chain  es.Chain
	broken bool
}

func (v *verifier) fault(text string) {
	if v.Faults++; len(v.First) < 20 {
		v.First = append(v.First, text)
	}
}

// event follows one event. Events of a stream must come in order.
func (v *verifier) event(e es.Recorded) error {
	if strings.HasPrefix(e.Stream, "$") {
		return nil
	}
	v.Events++
	at, known := v.chains[e.Stream]
	category, _, _ := strings.Cut(e.Stream, "-")
	ours := strings.HasPrefix(e.Type, "waymark.") && !slices.Contains(bus.DefaultExclude(), category)
	follow := ours || es.Chained(e)
	if !known {
		v.Streams++
		if follow {
			v.Chained++
		} else {
			v.Unchained++
		}
	}
	var err error
	if follow && !at.broken { // a broken stream is told once
		at.chain, err = at.chain.Next(e)
		at.broken = err != nil
	}
	v.chains[e.Stream] = at
	return err
}

// running checks the log of a running system.
func (v *verifier) running(ctx context.Context, c *cli, log es.Log) error {
	head, err := log.Head(ctx)
	if err != nil {
		return err
	}
	p := c.progress("checked")
	defer p.end()
	return log.ReadAll(ctx, 0, func(e es.Recorded) error {
		if err := v.event(e); err != nil {
			v.fault(err.Error())
		}
		p.set(uint64(e.Position), uint64(max(head, e.Position)))
		return nil
	})
}

// folder checks the store of a stopped system.
func (v *verifier) folder(ctx context.Context, data string) error {
	dir := allinone.StoreDir(data)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		dir = data // of waymark eventstore
	}
	if _, err := os.Stat(dir); err != nil {
		return notFound("", "%w", err)
	}
	report, err := eventstore.Fsck(ctx, eventstore.FsckConfig{Dir: dir, Each: func(e eventstore.CheckedEvent) error {
		return v.event(es.Recorded{ID: e.ID, Stream: e.Stream, Revision: es.Revision(e.Revision), Position: es.Position(e.Position),
			Type: e.Type, Data: e.Data, Metadata: e.Metadata, Recorded: e.Created})
	}})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, syscall.EAGAIN) {
		return unavailable("waymark fsck checks a running system without --data", "%s is in use: stop the system first", data)
	}
	if err != nil {
		return damaged("", "%w", err)
	}
	v.Faults = report.Faults
	for _, f := range report.First {
		v.First = append(v.First, f.String())
	}
	return nil
}

func (c *cli) printVerified(v *verifier) error {
	var err error
	if c.format == "json" || c.format == "ndjson" {
		err = c.printJSON(v, c.format == "json")
	} else {
		rows := [][2]string{{"events", fmt.Sprint(v.Events)}, {"streams", fmt.Sprint(v.Streams)}, {"hash chains followed", fmt.Sprint(v.Chained)},
			{"streams without chain", fmt.Sprint(v.Unchained)}, {"faults", fmt.Sprint(v.Faults)}}
		for _, f := range v.First {
			rows = append(rows, [2]string{"fault", f})
		}
		err = list(c, []string{"WHAT", "COUNT"}, rows, func(r [2]string) []string { return r[:] })
	}
	if err == nil && v.Faults > 0 {
		err = damaged("keep the data as it is, and restore from a replica or a backup", "%d faults", v.Faults)
	}
	return err
}

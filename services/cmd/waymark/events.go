package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"waymark/services/kit/bus"
	"waymark/services/kit/es"
)

func (c *cli) eventsCommand() *cobra.Command {
	return noun("events", "See what happened: tail, show, export",
		c.eventsTailCommand(), c.eventsShowCommand(), c.eventsExportCommand())
}

// errEnough ends a tail or a read that has printed all that was asked for.
var errEnough = errors.New("enough")

func (c *cli) eventsTailCommand() *cobra.Command {
	var t *target
	var o bus.TailOptions
	var since time.Duration
	var all bool
	var count int
	cmd := &cobra.Command{
		Use: "tail", Short: "Show events live, as CloudEvents from NATS", Args: cobra.NoArgs,
		Long: `Show events as they are published on NATS: CloudEvents, without personal or clinical data.
A table shows one line for each; -o json and -o ndjson print the whole CloudEvent.

Examples:
  waymark events tail --category referral
  waymark events tail --all --count 10 -o ndjson
  waymark events tail --event ReferralAccepted --tenant RJ1`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if all {
				o.Sequence = 1
			} else if since > 0 {
				o.Since = time.Now().Add(-since)
			}
			return c.withNATS(t, func(js jetstream.JetStream) error {
				if !o.Once {
					c.say("listening to %s; Ctrl-C ends it", withoutUser(t.natsURL()))
				}
				return c.tail(cmd.Context(), js, o, count)
			})
		},
	}
	t = c.bindTarget(cmd)
	flags := cmd.Flags()
	flags.StringSliceVar(&o.Categories, "category", nil, "only streams of this category, such as referral; may be given several times")
	flags.StringVar(&o.Event, "event", "", "only this event, such as ReferralAccepted")
	flags.StringVar(&o.Tenant, "tenant", "", "only events of this trust, by ODS code")
	flags.BoolVar(&all, "all", false, "begin with the first event there is")
	flags.DurationVar(&since, "since", 0, "begin this long ago, such as 2h")
	flags.BoolVar(&o.Once, "once", false, "end when all that is stored has been shown")
	flags.IntVar(&count, "count", 0, "end after so many events")
	return cmd
}

func (c *cli) tail(ctx context.Context, js jetstream.JetStream, o bus.TailOptions, count int) error {
	shown := 0
	err := bus.Tail(ctx, js, o, func(d bus.Delivery) error {
		if err := c.printDelivery(d, shown == 0); err != nil {
			return err
		}
		if shown++; shown == count {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (c *cli) printDelivery(d bus.Delivery, first bool) error {
	if c.format == "json" || c.format == "ndjson" {
		return c.printJSON(d.Data, c.format == "json")
	}
	var e struct {
		Type, Subject, RecordedTime, Sequence string
		Data                                  json.RawMessage
	}
	if err := json.Unmarshal(d.Data, &e); err != nil {
		return fmt.Errorf("the message at position %d is no CloudEvent: %w", d.Position, err)
	}
	tokens := strings.Split(d.Subject, ".")
	recorded := e.RecordedTime
	if at, err := time.Parse(time.RFC3339Nano, recorded); err == nil {
		recorded = at.Format("15:04:05.000")
	}
	revision, _ := strconv.ParseInt(e.Sequence, 10, 64) // 20 digits; 0 when it is not what we write
	line := fmt.Sprintf("%-12s  %10d  %-6s  %-26s  %-48s  %s", recorded, d.Position, tokens[2], tokens[len(tokens)-1],
		fmt.Sprintf("%s-%s#%d", tokens[3], e.Subject[strings.Index(e.Subject, "/")+1:], revision), e.Data)
	if first {
		fmt.Fprintf(c.out, "%-12s  %10s  %-6s  %-26s  %-48s  %s\n", "RECORDED", "POSITION", "TRUST", "EVENT", "STREAM", "DATA")
	}
	_, err := fmt.Fprintln(c.out, c.fit(line))
	return err
}

func (c *cli) eventsShowCommand() *cobra.Command {
	var t *target
	cmd := &cobra.Command{
		Use: "show STREAM | STREAM#REVISION | POSITION", Short: "Show stored events with all their data and metadata", Args: cobra.ExactArgs(1),
		Long: `Show the events of a stream, or one of them, decoded, with their metadata: who did it,
when, why, by which command. It reads the log itself and so shows patient data.

Examples:
  waymark events show pathway-0190c3f2-...
  waymark events show 'pathway-0190c3f2-...#3'
  waymark events show 4711`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withLog(t, func(log es.Log) error { return c.show(cmd.Context(), log, args[0]) })
		},
	}
	t = c.bindTarget(cmd)
	return cmd
}

// show prints the events that what names; a position alone is one of the log.
func (c *cli) show(ctx context.Context, log es.Log, what string) error {
	shown := 0
	print := func(e es.Recorded) error {
		shown++
		raw, err := es.JSON(e)
		if err != nil {
			return err
		}
		if c.format == "table" {
			if shown == 1 {
				fmt.Fprintf(c.out, "%-20s  %10s  %s\n", "RECORDED", "POSITION", "STREAM  EVENT")
			}
			_, err = fmt.Fprintf(c.out, "%s  %10d  %s#%d  %s\n", e.Recorded.Format(time.RFC3339), e.Position, e.Stream, e.Revision, e.Type)
			return err
		}
		return c.printJSON(raw, c.format != "ndjson")
	}
	var err error
	if position, number := strconv.ParseUint(what, 10, 64); number == nil && position > 0 {
		err = log.ReadAll(ctx, es.Position(position-1), func(e es.Recorded) error {
			if e.Position == es.Position(position) {
				return errors.Join(print(e), errEnough)
			}
			return errEnough
		})
	} else {
		stream, revision, one := strings.Cut(what, "#")
		from, err2 := int64(0), error(nil)
		if one {
			from, err2 = strconv.ParseInt(revision, 10, 64)
		}
		if err2 != nil || from < 0 || !strings.Contains(stream, "-") {
			return &coded{fmt.Errorf("%q is no stream, no stream#revision and no position", what), exitUsage, "waymark events show --help"}
		}
		err = log.Read(ctx, stream, es.Revision(from), func(e es.Recorded) error {
			if err := print(e); err != nil || !one {
				return err
			}
			return errEnough
		})
	}
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if shown == 0 {
		return notFound("", "there is nothing at %s", what)
	}
	return nil
}

// Exported is one line of `waymark events export`. Data and Metadata are the
// stored bytes, in base64, so that a line holds the event byte for byte: what
// proves it (the chain in its metadata) can be checked from the file alone.
type Exported struct {
	Stream   string      `json:"stream"`
	Revision es.Revision `json:"revision"`
	Position es.Position `json:"position"`
	ID       string      `json:"id"`
	Type     string      `json:"type"`
	Recorded time.Time   `json:"recorded"`
	Data     []byte      `json:"data"`
	Metadata []byte      `json:"metadata"`
}

func (c *cli) eventsExportCommand() *cobra.Command {
	var t *target
	var after uint64
	cmd := &cobra.Command{
		Use: "export [STREAM...]", Short: "Print stored events byte for byte, one JSON object a line",
		Long: `Print the events of the named streams, or of the whole log, one JSON object a line. Data and
metadata are the stored bytes in base64: the file can be replayed and verified without us.
It holds patient data.

Examples:
  waymark events export > log.ndjson
  waymark events export pathway-0190c3f2-... referral-0190c3f2-...
  waymark events export --after 4711 >> log.ndjson`,
		RunE: func(cmd *cobra.Command, streams []string) error {
			if after > 0 && len(streams) > 0 {
				return usage(cmd, errors.New("--after is for the whole log, not for streams"))
			}
			return c.withLog(t, func(log es.Log) error { return c.export(cmd.Context(), log, es.Position(after), streams) })
		},
	}
	t = c.bindTarget(cmd)
	cmd.Flags().Uint64Var(&after, "after", 0, "begin after this log position: goes on where an earlier export ended")
	return cmd
}

func (c *cli) export(ctx context.Context, log es.Log, after es.Position, streams []string) error {
	written := 0
	line := func(e es.Recorded) error {
		written++
		return c.printJSON(Exported{e.Stream, e.Revision, e.Position, e.ID.String(), e.Type, e.Recorded.UTC(), e.Data, e.Metadata}, false)
	}
	if len(streams) == 0 {
		if err := log.ReadAll(ctx, after, line); err != nil {
			return err
		}
	}
	slices.Sort(streams)
	for _, stream := range slices.Compact(streams) {
		before := written
		if err := log.Read(ctx, stream, 0, line); err != nil {
			return err
		}
		if written == before {
			return notFound("", "stream %s has no events", stream)
		}
	}
	c.say("%d events", written)
	return nil
}

package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"waymark/services/kit/bus"
)

const busHelp = `The bus is a copy of the log that can be made anew: scrub compares the two event by event,
rebuild deletes the copy and fills it from the log.`

func (c *cli) busCommand() *cobra.Command {
	return noun("bus", "Look after the events on NATS: status, scrub, rebuild",
		c.busStatusCommand(), c.busScrubCommand(), c.busRebuildCommand())
}

func (c *cli) busStatusCommand() *cobra.Command {
	var t *target
	cmd := &cobra.Command{
		Use: "status", Short: "Show how far the relay is, and who reads", Args: cobra.NoArgs, Long: "Show how far the bus is behind the log, and who reads it.\n\nExample:\n  waymark bus status -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withBus(t, func(s *stores) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), t.Timeout)
				defer cancel()
				r, err := bus.Inspect(ctx, s.log, s.js, bus.Mapping{Env: t.Environment})
				if err != nil {
					return err
				}
				if c.format == "json" || c.format == "ndjson" {
					return c.printJSON(r, c.format == "json")
				}
				lag := strconv.Itoa(r.Lag)
				if !r.LagExact {
					lag += " or more"
				}
				rows := [][2]string{{"log head", fmt.Sprint(r.Head)}, {"relayed", fmt.Sprint(r.Relayed)}, {"behind", lag + " events"}}
				if r.Absent {
					rows = append(rows, [2]string{"stream", "there is none yet"})
				} else {
					rows = append(rows, [2]string{"stream", bus.StreamName + ", made " + r.Created.Format(time.RFC3339)},
						[2]string{"messages", fmt.Sprintf("%d, %d bytes, %d replicas", r.Messages, r.Bytes, r.Replicas)})
				}
				for _, reader := range r.Consumers {
					rows = append(rows, [2]string{"reader", fmt.Sprintf("%s, %d waiting", reader.Name, reader.Pending)})
				}
				return list(c, []string{"WHAT", "VALUE"}, rows, func(r [2]string) []string { return r[:] })
			})
		},
	}
	t = c.bindTarget(cmd)
	return cmd
}

func (c *cli) busScrubCommand() *cobra.Command {
	var t *target
	cmd := &cobra.Command{
		Use: "scrub", Short: "Compare every event on the bus with the log", Args: cobra.NoArgs,
		Long: busHelp + "\n\nExits with 5 when the bus is damaged. It changes nothing and may run beside everything.\n\nExample:\n  waymark bus scrub",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withBus(t, func(s *stores) error {
				p := c.progress("compared")
				r, err := bus.Scrub(cmd.Context(), s.log, s.js, bus.Mapping{Env: t.Environment}, p.set)
				p.end()
				if err != nil {
					return err
				}
				if err := c.printScrub(r); err != nil {
					return err
				}
				next := "waymark bus rebuild --yes" + t.flags()
				switch {
				case r.Absent && r.Events > 0:
					return damaged(next, "the bus has no stream, the log has %d events for it", r.Events)
				case r.First.What != "":
					return damaged(next, "the bus is damaged: first %s at log position %d", r.First.What, r.First.Position)
				}
				return nil
			})
		},
	}
	t = c.bindTarget(cmd)
	return cmd
}

func (c *cli) printScrub(r bus.ScrubReport) error {
	if c.format == "json" || c.format == "ndjson" {
		return c.printJSON(r, c.format == "json")
	}
	rows := [][2]string{{"events in the log", fmt.Sprint(r.Events)}, {"verified", fmt.Sprint(r.Verified)}, {"missing", fmt.Sprint(r.Missing)},
		{"altered", fmt.Sprint(r.Altered)}, {"doubled", fmt.Sprint(r.Doubled)}, {"reordered", fmt.Sprint(r.Reordered)},
		{"unknown", fmt.Sprint(r.Unknown)}, {"not relayed yet", fmt.Sprint(r.Behind)}, {"hash", r.Hash}}
	return list(c, []string{"WHAT", "COUNT"}, rows, func(r [2]string) []string { return r[:] })
}

func (c *cli) busRebuildCommand() *cobra.Command {
	var t *target
	var yes bool
	cmd := &cobra.Command{
		Use: "rebuild", Short: "Delete the bus and fill it again from the log", Args: cobra.NoArgs,
		Long: busHelp + `

Our own consumers find their place again by log position. Whoever reads the stream
by other means sees every event again: so it asks for --yes. It can be interrupted.

Example:
  waymark bus rebuild --yes`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				return usage(cmd, fmt.Errorf("this deletes stream %s at %s and fills it again from the log: say --yes", bus.StreamName, withoutUser(t.natsURL())))
			}
			return c.withBus(t, func(s *stores) error {
				p := c.progress("relayed")
				err := bus.Rebuild(cmd.Context(), s.log, s.js, bus.Mapping{Env: t.Environment}, p.set)
				p.end()
				if err != nil {
					return err
				}
				c.say("rebuilt; prove it with: waymark bus scrub%s", t.flags())
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	t = c.bindTarget(cmd)
	return cmd
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	devv1 "waymark/proto/waymark/dev/v1"
)

func (c *cli) clockCommand() *cobra.Command {
	var t, u *target
	show := &cobra.Command{
		Use: "show", Short: "Print the time of a development server", Args: cobra.NoArgs,
		Long: `Print the time of a development server: that of every service and of the recorded times.

Example:
  waymark clock show`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withClock(cmd.Context(), t, func(ctx context.Context, client devv1.ClockServiceClient) (*devv1.Clock, error) {
				return client.GetClock(ctx, &devv1.GetClockRequest{})
			})
		},
	}
	advance := &cobra.Command{
		Use: "advance DURATION", Short: "Move the clock of a development server on, such as 14d or 36h", Args: cobra.ExactArgs(1),
		Long: `Move the clock of a development server on: that of every service and of the recorded
times. Whatever became due on the way is done then. It never goes back, also after a restart;
start anew with waymark dev --fresh.

Examples:
  waymark clock advance 14d
  waymark clock advance 1d12h`,
		RunE: func(cmd *cobra.Command, args []string) error {
			by, err := parseSpan(args[0])
			if err != nil {
				return usage(cmd, err)
			}
			return c.withClock(cmd.Context(), u, func(ctx context.Context, client devv1.ClockServiceClient) (*devv1.Clock, error) {
				return client.AdvanceClock(ctx, &devv1.AdvanceClockRequest{By: durationpb.New(by)})
			})
		},
	}
	t, u = c.bindTarget(show), c.bindTarget(advance)
	return noun("clock", "Show or move the time of a development server", show, advance)
}

func (c *cli) withClock(ctx context.Context, t *target, ask func(context.Context, devv1.ClockServiceClient) (*devv1.Clock, error)) error {
	conn, err := t.dial()
	if err != nil {
		return usage(nil, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	now, err := ask(ctx, devv1.NewClockServiceClient(conn))
	switch codeOf(err) {
	case codes.OK:
	case codes.Unimplemented:
		return &coded{errors.New("only a development server has a clock that can be asked or moved"), exitUsage, "waymark dev"}
	case codes.Unavailable:
		return unavailable("waymark doctor"+t.flags()+", or start it: waymark dev", "no server answers at %s", t.grpcAddress())
	default:
		return err
	}
	if c.format != "" && c.format != "table" {
		return c.printMessage(now, c.format == "json")
	}
	fmt.Fprintln(c.out, now.Now.AsTime().Format(time.RFC3339))
	if ahead := now.Now.AsTime().Sub(now.Machine.AsTime()); ahead >= time.Minute {
		c.say("%.1f days ahead of this machine", ahead.Hours()/24)
	}
	if now.Rate != 1 {
		c.say("a day takes %s", time.Duration(float64(24*time.Hour)/now.Rate))
	}
	return nil
}

// parseSpan reads a duration that may begin with days: 14d, 1d12h, 36h.
func parseSpan(text string) (time.Duration, error) {
	var span time.Duration
	rest := text
	if days, after, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return 0, fmt.Errorf("%q is no duration such as 14d, 1d12h or 36h", text)
		}
		span, rest = time.Duration(n)*24*time.Hour, after
	}
	if rest != "" {
		more, err := time.ParseDuration(rest)
		if err != nil {
			return 0, fmt.Errorf("%q is no duration such as 14d, 1d12h or 36h", text)
		}
		span += more
	}
	if span <= 0 {
		return 0, fmt.Errorf("%q: the clock moves forward only", text)
	}
	return span, nil
}

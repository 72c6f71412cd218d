package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	devv1 "waymark/proto/waymark/dev/v1"
	"waymark/services/kit/run"
)

// nounCommands makes the commands of verbs.go.
func (c *cli) nounCommands() (commands []*cobra.Command) {
	for _, n := range nouns {
		var of []*cobra.Command
		for _, v := range verbsOf(n[0]) {
			of = append(of, c.verbCommand(v))
		}
		if of != nil {
			commands = append(commands, noun(n[0], n[1], of...))
		}
	}
	return commands
}

// verbCommand makes one command: its arguments and flags set fields of the
// request of its method.
func (c *cli) verbCommand(v verb) *cobra.Command {
	var t *target
	var who caller
	var field string
	fields := strings.Fields(v.args)
	use := v.name
	for _, f := range fields {
		use += " " + strings.ToUpper(strings.TrimSuffix(f, "_id"))
	}
	var required []string
	flags := map[string]string{}
	cmd := &cobra.Command{
		Use: use + " [field=value ...]", Short: v.short,
		Long: fmt.Sprintf("%s.\n\nIt calls %s; waymark call --describe %s shows what else can be given as\nfield=value, and the reply.\n\nExample:\n  waymark %s %s %s", v.short, v.method, v.method, v.noun, v.name, v.example),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) < len(fields) {
				return usage(cmd, fmt.Errorf("say which: %s", strings.ToUpper(strings.Join(fields[len(args):], ", "))))
			}
			for _, name := range required {
				if !cmd.Flags().Changed(name) {
					return usage(cmd, fmt.Errorf("--%s is needed", name))
				}
			}
			m, err := find(v.method)
			if err != nil {
				return err
			}
			given := map[string]string{}
			for i, f := range fields {
				given[f] = args[i]
			}
			for name, path := range flags {
				if cmd.Flags().Changed(name) {
					given[path] = cmd.Flags().Lookup(name).Value.String()
				}
			}
			return c.speak(cmd, t, &who, v, m, args, given, field)
		},
	}
	t = c.bindTarget(cmd)
	run.Bind(cmd.Flags(), &who)
	cmd.Flags().StringVar(&field, "field", "", "print only this field of the reply; for scripts")
	for _, pair := range strings.Fields(v.flags) {
		name, path, _ := strings.Cut(pair, "=")
		help := "sets " + path
		if must, ok := strings.CutSuffix(name, "!"); ok {
			name, help = must, help+"; needed"
			required = append(required, name)
		}
		for _, value := range strings.Fields(v.preset) {
			if p, value, _ := strings.Cut(value, "="); p == path {
				help += fmt.Sprintf(" (default %s)", value)
			}
		}
		flags[name] = path
		cmd.Flags().String(name, "", help+" [$"+environmentName(name)+"]")
	}
	return cmd
}

func environmentName(flag string) string {
	return "WAYMARK_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// speak fills in the request of a verb and calls its method.
func (c *cli) speak(cmd *cobra.Command, t *target, who *caller, v verb, m method, args []string, given map[string]string, field string) error {
	conn, err := t.dial()
	if err != nil {
		return usage(nil, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), t.Timeout)
	defer cancel()
	extra := args[len(strings.Fields(v.args)):]
	for _, pair := range extra {
		path, _, _ := strings.Cut(pair, "=")
		given[path] = "" // no default; the pair itself follows
	}
	if v.fill == "offer" {
		if err := openOffer(ctx, conn, m.desc.Input().Fields(), given); err != nil {
			return c.hint(t, m, dynamicpb.NewMessage(m.desc.Input()), err)
		}
	}
	var pairs []string
	for _, value := range strings.Fields(v.preset) {
		path, value, _ := strings.Cut(value, "=")
		if _, set := given[path]; !set {
			pairs = append(pairs, path+"="+c.meaning(ctx, conn, t, who, args, value))
		}
	}
	for path, value := range given {
		if value != "" {
			pairs = append(pairs, path+"="+value)
		}
	}
	request, err := c.request(m, "", append(pairs, extra...))
	if err != nil {
		return &coded{err, exitUsage, "waymark call --describe " + m.short}
	}
	if err := c.fill(request, who, t); err != nil {
		return usage(cmd, err)
	}
	return c.invoke(cmd.Context(), t, m, request, field)
}

// meaning replaces $words in a preset value.
func (c *cli) meaning(ctx context.Context, conn grpc.ClientConnInterface, t *target, who *caller, args []string, value string) string {
	if !strings.Contains(value, "$") {
		return value
	}
	first := ""
	if len(args) > 0 {
		first = args[0]
	}
	now := time.Now()
	if strings.Contains(value, "$today") || strings.Contains(value, "$now") {
		// A development server may have a time of its own.
		if clock, err := devv1.NewClockServiceClient(conn).GetClock(ctx, &devv1.GetClockRequest{}); err == nil {
			now = clock.Now.AsTime()
		}
	}
	organisation := who.Organisation
	if organisation == "" && t.local() {
		organisation = "RJ1"
	}
	return strings.NewReplacer("$1", first, "$organisation", organisation,
		"$today", england(now).Format(time.DateOnly), "$now", now.UTC().Format(time.RFC3339)).Replace(value)
}

// england is a time as clocks in England show it; where this machine does not
// know how, in UTC.
func england(t time.Time) time.Time {
	if london, err := time.LoadLocation("Europe/London"); err == nil {
		return t.In(london)
	}
	return t.UTC()
}

// openOffer fills in the id of the open offer of a ledger, and the versions that
// were offered: what the acceptor is shown is what the acceptor accepts.
func openOffer(ctx context.Context, conn grpc.ClientConnInterface, fields protoreflect.FieldDescriptors, given map[string]string) error {
	if _, set := given["handover_id"]; set {
		return nil
	}
	reply, err := careleadv1.NewHandoverServiceClient(conn).GetLedger(ctx, &careleadv1.GetLedgerRequest{PathwayId: given["pathway_id"]})
	if err != nil {
		return err
	}
	h := reply.Ledger.GetHandover()
	if h.GetState() != careleadv1.HandoverState_HANDOVER_STATE_OFFERED {
		return &coded{errors.New("no offer of this pathway is open"), exitConflict, "waymark handover show " + given["pathway_id"]}
	}
	for name, value := range map[protoreflect.Name]string{"handover_id": h.HandoverId, "summary_version": fmt.Sprint(h.SummaryVersion), "plan_version": fmt.Sprint(h.PlanVersion)} {
		if _, set := given[string(name)]; !set && fields.ByName(name) != nil {
			given[string(name)] = value
		}
	}
	return nil
}

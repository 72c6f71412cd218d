package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	careleadv1 "waymark/proto/waymark/carelead/v1"
	devv1 "waymark/proto/waymark/dev/v1"
	_ "waymark/proto/waymark/pathway/v1" // its methods, for find
	planv1 "waymark/proto/waymark/plan/v1"
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
				if !cmd.Flags().Changed(name) {
					continue
				}
				value := cmd.Flags().Lookup(name).Value.String()
				if whole, moment := strings.CutSuffix(path, "*"); moment {
					if path, value, err = parseMoment(whole, value); err != nil {
						return usage(cmd, fmt.Errorf("--%s: %w", name, err))
					}
				}
				given[path] = value
			}
			return c.speak(cmd, t, &who, v, m, args, given, field)
		},
	}
	t = c.bindTarget(cmd)
	run.Bind(cmd.Flags(), &who)
	cmd.Flags().StringVar(&field, "field", "", "print only this field of the reply; for scripts")
	for _, pair := range strings.Fields(v.flags) {
		name, path, _ := strings.Cut(pair, "=")
		help := "sets " + strings.TrimSuffix(path, "*")
		if strings.HasSuffix(path, "*") {
			help += ": a time (RFC 3339), a date (its end, in England) or a log position"
		}
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
	var failed error
	switch v.fill {
	case "offer":
		failed = openOffer(ctx, conn, m.desc.Input().Fields(), given)
	case "plan", "summary":
		failed = newestPlan(ctx, conn, m.desc.Input().Fields(), given)
	case "ledger":
		openLedger(ctx, conn, given["pathway_id"])
	}
	if failed != nil {
		return c.hint(t, m, dynamicpb.NewMessage(m.desc.Input()), failed)
	}
	var pairs []string
	for _, value := range strings.Fields(v.preset) {
		path, value, _ := strings.Cut(value, "=")
		if _, set := given[path]; !set {
			pairs = append(pairs, path+"="+c.meaning(ctx, conn, t, who, args, value))
		}
	}
	data := ""
	for path, value := range given {
		file, isFile := strings.CutPrefix(value, "@")
		switch {
		case isFile && m.desc.Input().Fields().ByName(protoreflect.Name(path)) != nil:
			text, err := os.ReadFile(file)
			if err != nil {
				return usage(cmd, err)
			}
			data = fmt.Sprintf("{%q: %s}", path, text)
		case value != "":
			pairs = append(pairs, path+"="+value)
		}
	}
	request, err := c.request(m, data, append(pairs, extra...))
	if err != nil {
		return &coded{err, exitUsage, "waymark call --describe " + m.short}
	}
	if err := c.fill(request, who, t); err != nil {
		return usage(cmd, err)
	}
	if shown := columns[v.noun+" "+v.name]; shown != "" && field == "" && c.format != "json" {
		return c.invokeList(ctx, conn, t, m, request, strings.Fields(shown))
	}
	return c.invoke(cmd.Context(), t, m, request, field)
}

// invokeList prints the rows of a reply, its first repeated field, as
// a table or a line each.
func (c *cli) invokeList(ctx context.Context, conn *grpc.ClientConn, t *target, m method, request *dynamicpb.Message, shown []string) error {
	reply := dynamicpb.NewMessage(m.desc.Output())
	if err := conn.Invoke(ctx, m.path(), request, reply); err != nil {
		return c.hint(t, m, request, err)
	}
	var rows []protoreflect.Message
	for i := range m.desc.Output().Fields().Len() {
		f := m.desc.Output().Fields().Get(i)
		if !f.IsList() || f.Message() == nil {
			continue
		}
		for j := range reply.Get(f).List().Len() {
			rows = append(rows, reply.Get(f).List().Get(j).Message())
		}
		break
	}
	if c.format == "ndjson" {
		for _, row := range rows {
			if err := c.printMessage(row.Interface(), false); err != nil {
				return err
			}
		}
	} else {
		var head []string
		for _, path := range shown {
			head = append(head, strings.ToUpper(path[strings.LastIndex(path, ".")+1:]))
		}
		if err := list(c, head, rows, func(row protoreflect.Message) (cells []string) {
			for _, path := range shown {
				cells = append(cells, cell(row, path))
			}
			return cells
		}); err != nil {
			return err
		}
	}
	if f := m.desc.Output().Fields().ByName("next_page_token"); f != nil && reply.Get(f).String() != "" {
		c.say("there is more: page_token=%s", reply.Get(f).String())
	}
	return nil
}

// cell is the value at a path of a message as a table shows it.
func cell(m protoreflect.Message, path string) string {
	name, rest, nested := strings.Cut(path, ".")
	f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	switch {
	case f == nil || f.HasPresence() && !m.Has(f):
		return ""
	case nested && f.Message() != nil:
		return cell(m.Get(f).Message(), rest)
	case f.Enum() != nil:
		text := string(f.Enum().Values().ByNumber(m.Get(f).Enum()).Name())
		return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(text, enumPrefix(f.Enum())), "_", " "))
	case f.Message() != nil && f.Message().FullName() == "google.protobuf.Timestamp":
		fields := f.Message().Fields()
		return time.Unix(m.Get(f).Message().Get(fields.ByNumber(1)).Int(), 0).UTC().Format(time.RFC3339)
	}
	return m.Get(f).String()
}

// enumPrefix is what all values of an enum begin with: LEAD_STATE_ for LeadState.
func enumPrefix(e protoreflect.EnumDescriptor) string {
	return strings.TrimSuffix(string(e.Values().Get(0).Name()), "UNSPECIFIED")
}

// parseMoment reads a time, a date or a log position into the field of AsOf that
// means it. A date is all that was known by the end of it, in England.
func parseMoment(path, text string) (field, value string, err error) {
	if _, err := strconv.ParseUint(text, 10, 64); err == nil {
		return path + ".position", text, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return path + ".recorded", t.UTC().Format(time.RFC3339Nano), nil
	}
	day, err := time.ParseInLocation(time.DateOnly, text, england(time.Time{}).Location())
	if err != nil {
		return "", "", fmt.Errorf("%q is no time such as 2026-03-02T12:00:00Z, no date and no log position", text)
	}
	return path + ".recorded", day.AddDate(0, 0, 1).Add(-time.Nanosecond).UTC().Format(time.RFC3339Nano), nil
}

// newestPlan fills in the newest summary of a pathway with the version that an
// approver is shown, and the revision of the plan.
func newestPlan(ctx context.Context, conn grpc.ClientConnInterface, fields protoreflect.FieldDescriptors, given map[string]string) error {
	client := planv1.NewPlanServiceClient(conn)
	wants := func(r *planv1.PlanReply) bool {
		return r.GetRecord().GetPlan() != nil && (fields.ByName("summary_id") == nil || len(r.Record.Summaries) > 0)
	}
	var reply *planv1.PlanReply
	var err error
	soon(ctx, func() bool {
		reply, err = client.GetPlan(ctx, &planv1.GetPlanRequest{PathwayId: given["pathway_id"]})
		return err == nil && wants(reply) || codeOf(err) == codes.Unimplemented || codeOf(err) == codes.Unavailable || fields.ByName("lead_id") != nil
	})
	if err != nil && !(codeOf(err) == codes.NotFound && fields.ByName("lead_id") != nil) { // an offer may go out without a plan
		return err
	}
	found := map[protoreflect.Name]string{"seen_revision": fmt.Sprint(reply.GetRecord().GetRevision()), "plan_version": fmt.Sprint(reply.GetRecord().GetPlan().GetVersion())}
	if n := len(reply.GetRecord().GetSummaries()); n > 0 {
		summary := reply.Record.Summaries[n-1]
		found["summary_id"], found["seen_version"] = summary.SummaryId, fmt.Sprint(summary.DraftVersion)
		found["summary_version"] = fmt.Sprint(summary.Version)
	} else if fields.ByName("summary_id") != nil {
		return &coded{errors.New("this pathway has no summary yet: it becomes due when a period of treatment ends"), exitConflict, "waymark pathway treatment-ended " + given["pathway_id"]}
	}
	for name, value := range found {
		if _, set := given[string(name)]; !set && fields.ByName(name) != nil {
			given[string(name)] = value
		}
	}
	return nil
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

var errNoOffer = errors.New("no offer of this pathway is open")

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
		return &coded{errNoOffer, exitConflict, "waymark handover show " + given["pathway_id"]}
	}
	for name, value := range map[protoreflect.Name]string{"handover_id": h.HandoverId, "summary_version": fmt.Sprint(h.SummaryVersion), "plan_version": fmt.Sprint(h.PlanVersion)} {
		if _, set := given[string(name)]; !set && fields.ByName(name) != nil {
			given[string(name)] = value
		}
	}
	return nil
}

// openLedger waits until the ledger of a pathway is open: it opens a moment
// after the pathway started.
func openLedger(ctx context.Context, conn grpc.ClientConnInterface, pathway string) {
	client := careleadv1.NewHandoverServiceClient(conn)
	soon(ctx, func() bool {
		reply, err := client.GetLedger(ctx, &careleadv1.GetLedgerRequest{PathwayId: pathway})
		return err == nil && reply.Ledger.GetHolder() != nil || codeOf(err) == codes.Unimplemented || codeOf(err) == codes.Unavailable
	})
}

// soon asks until it is so, for a second or two: one service hears of what
// another recorded a moment later.
func soon(ctx context.Context, so func() bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for !so() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(30 * time.Millisecond):
		}
	}
}

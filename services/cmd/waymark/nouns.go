package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
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
	"waymark/services/kit/fault"
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
	use, least, most := v.name, 0, 0
	for i, f := range fields {
		if optional := strings.TrimSuffix(f, "?"); optional != f {
			fields[i], f = optional, "["+argument(optional)+"]"
			most++
		} else {
			f = argument(f)
			least++
			most++
		}
		use += " " + f
	}
	var required []string
	flags := map[string]string{}
	cmd := &cobra.Command{
		Use: use + " [field=value ...]", Short: v.short,
		Long: fmt.Sprintf("%s.\n\nIt calls %s; waymark call --describe %s shows what else can be given as\nfield=value, and the reply.\n\nExample:\n  waymark %s %s %s", v.short, v.method, v.method, v.noun, v.name, v.example),
		RunE: func(cmd *cobra.Command, args []string) error {
			positional := len(args)
			if i := slices.IndexFunc(args, func(a string) bool { return strings.Contains(a, "=") }); i >= 0 {
				positional = i
			}
			if positional < least {
				var names []string
				for _, f := range fields[positional:least] {
					names = append(names, argument(f))
				}
				return usage(cmd, fmt.Errorf("say which: %s", strings.Join(names, ", ")))
			}
			positional = min(positional, most)
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
			for i, f := range fields[:positional] {
				given[f] = args[i]
			}
			for name, path := range flags {
				if !cmd.Flags().Changed(name) {
					continue
				}
				if whole, list := strings.CutSuffix(path, "[]"); list {
					values, err := cmd.Flags().GetStringArray(name)
					if err != nil {
						return err
					}
					for _, pair := range values {
						at, value, ok := strings.Cut(pair, "=")
						if !ok {
							return usage(cmd, fmt.Errorf("--%s is PATH=VALUE, such as PID-3.1=9990000018", name))
						}
						one, err := json.Marshal(map[string]string{"path": at, "value": value})
						if err != nil {
							return err
						}
						args = append(args, whole+"="+string(one))
					}
					continue
				}
				value := cmd.Flags().Lookup(name).Value.String()
				switch whole, kind := path[:len(path)-1], path[len(path)-1]; kind {
				case '*':
					path, value, err = parseMoment(whole, value)
				case '^':
					path = whole
					value, err = parseInstant(value)
				}
				if strings.HasSuffix(path, "_month") {
					if _, bad := time.Parse("2006-01", value); bad != nil {
						err = fmt.Errorf("%q is no month such as 2026-03", value)
					}
				}
				if err != nil {
					return usage(cmd, fmt.Errorf("--%s: %w", name, err))
				}
				given[path] = value
			}
			return c.speak(cmd, t, &who, v, m, args, args[positional:], given, field)
		},
	}
	t = c.bindTarget(cmd)
	run.Bind(cmd.Flags(), &who)
	cmd.Flags().StringVar(&field, "field", "", "print only this field of the reply; for scripts")
	for _, pair := range strings.Fields(v.flags) {
		name, path, _ := strings.Cut(pair, "=")
		help := "sets " + strings.TrimRight(path, "*^")
		switch {
		case strings.HasSuffix(path, "*"):
			help += ": a time (RFC 3339), a date (its end, in England) or a log position"
		case strings.HasSuffix(path, "^"):
			help += ": a time (RFC 3339) or a date (its begin, in England)"
		case name == "slots!":
			help += ", such as '2026-12-01 09:00-12:00 every 20m'"
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
		if strings.HasSuffix(path, "[]") {
			cmd.Flags().StringArray(name, nil, "PATH=VALUE of a field to correct; may be given several times")
			continue
		}
		cmd.Flags().String(name, "", help+" [$"+environmentName(name)+"]")
	}
	return cmd
}

func environmentName(flag string) string {
	return "WAYMARK_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// speak fills in the request of a verb and calls its method.
func (c *cli) speak(cmd *cobra.Command, t *target, who *caller, v verb, m method, args, extra []string, given map[string]string, field string) error {
	conn, err := t.dial()
	if err != nil {
		return usage(nil, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), t.Timeout)
	defer cancel()
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
	case "slots":
		var err error
		if given["slots"], err = parseSlots(given["slots"]); err != nil {
			return usage(cmd, fmt.Errorf("--slots: %w", err))
		}
	}
	if failed != nil {
		return v.hint(t, args, c.hint(t, m, dynamicpb.NewMessage(m.desc.Input()), failed))
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
		case value != "" && isList(m.desc.Input(), path) && !strings.HasPrefix(value, "["):
			for one := range strings.SplitSeq(value, ",") {
				pairs = append(pairs, path+"="+one)
			}
		case value != "":
			pairs = append(pairs, path+"="+value)
		}
	}
	request, err := c.request(m, data, append(pairs, extra...))
	if err != nil {
		return usage(cmd, err)
	}
	if err := c.fill(request, who, t); err != nil {
		return usage(cmd, err)
	}
	if shown := columns[v.noun+" "+v.name]; shown != "" && field == "" && c.format != "json" {
		return v.hint(t, args, c.invokeList(ctx, conn, t, m, request, columnsOf(shown)))
	}
	return v.hint(t, args, c.invoke(cmd.Context(), t, m, request, field))
}

// hint makes what to do next about the verb: the help that names what was typed,
// or the command that reads the record which refused.
func (v verb) hint(t *target, args []string, err error) error {
	var known *coded
	if !errors.As(err, &known) {
		return err
	}
	next := known.next
	switch code := fault.CodeOf(err); {
	case known.code == exitUsage && strings.HasPrefix(next, "waymark call --describe "):
		next = "see waymark " + v.noun + " " + v.name + " --help"
	case code == "appointment.slot.taken" && len(args) > 1:
		next = "waymark slot list " + args[len(args)-2] + t.flags()
	case code == "indicator.unknown" || code == "indicator.not_served":
		next = "waymark indicator list" + t.flags()
	case known.code == exitConflict && fault.CodeOf(err) != "" && records[v.noun] != "" && len(args) > 0:
		next = "waymark " + records[v.noun] + " " + args[0] + t.flags() + ", then decide again; repeating this as it is will be refused again"
	}
	return &coded{known.error, known.code, next}
}

// records are the verbs that show what a noun's commands are decided upon.
var records = map[string]string{"person": "person show", "pathway": "pathway clocks", "handover": "handover show", "plan": "plan show", "lead": "lead show",
	"neighbourhood": "neighbourhood show", "referral": "referral list", "appointment": "appointment list", "session": "session show"}

// argument is the name of a positional argument in help: SLOT for place.slot.slot_id.
func argument(field string) string {
	field = field[strings.LastIndex(field, ".")+1:]
	return strings.ToUpper(strings.TrimSuffix(field, "_id"))
}

// isList reports whether a field takes several values that are no messages.
func isList(m protoreflect.MessageDescriptor, path string) bool {
	f := m.Fields().ByName(protoreflect.Name(path))
	return f != nil && f.IsList() && f.Message() == nil
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

// parseInstant reads a time, or a date as the moment at which it begins in England.
func parseInstant(text string) (string, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t.UTC().Format(time.RFC3339Nano), nil
	}
	day, err := time.ParseInLocation(time.DateOnly, text, england(time.Time{}).Location())
	if err != nil {
		return "", fmt.Errorf("%q is no time such as 2026-03-02T12:00:00Z and no date", text)
	}
	return day.UTC().Format(time.RFC3339Nano), nil
}

var slotsText = regexp.MustCompile(`^(\d{4}-\d{2}-\d{2}) (\d{2}:\d{2})-(\d{2}:\d{2}) every (\S+)$`)

// parseSlots reads the slots of a session: JSON, or a day, from when to when and how
// long each is. What does not fit before the end is left out. Times are those of
// clocks in England.
func parseSlots(text string) (string, error) {
	if strings.HasPrefix(text, "[") {
		return text, nil
	}
	m := slotsText.FindStringSubmatch(strings.TrimSpace(text))
	if m == nil {
		return "", fmt.Errorf("%q is not like '2026-12-01 09:00-12:00 every 20m'", text)
	}
	const local = "2006-01-02T15:04"
	from, err := time.Parse(local, m[1]+"T"+m[2])
	if err != nil {
		return "", fmt.Errorf("%s %s is no time", m[1], m[2])
	}
	until, err := time.Parse(local, m[1]+"T"+m[3])
	if err != nil {
		return "", fmt.Errorf("%s %s is no time", m[1], m[3])
	}
	length, err := time.ParseDuration(m[4])
	if err != nil || length < time.Minute || length%time.Minute != 0 {
		return "", fmt.Errorf("%q is no length in whole minutes such as 20m", m[4])
	}
	slots := []map[string]string{}
	for at := from; !at.Add(length).After(until); at = at.Add(length) {
		slots = append(slots, map[string]string{"start": at.Format(local), "end": at.Add(length).Format(local)})
	}
	if len(slots) == 0 {
		return "", fmt.Errorf("not one slot of %s fits between %s and %s", m[4], m[2], m[3])
	}
	raw, err := json.Marshal(slots)
	return string(raw), err
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

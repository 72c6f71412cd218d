package e2e

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	metav1 "waymark/proto/waymark/meta/v1"
	pathwayv1 "waymark/proto/waymark/pathway/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/fault"
)

// play is one run of a story in a world.
type play struct {
	*Story
	world  *world
	kept   map[string]string // $names
	looked map[string]int    // events of each stream that a step has looked at
	calls  int
}

var (
	calls       = regexp.MustCompile(`^(.+) calls (\S+)$`)
	shows       = regexp.MustCompile(`^then (\S+) shows(?: for (.+))?$`)
	records     = regexp.MustCompile(`^then (\S+) records(?: (.+))?$`)
	accountable = regexp.MustCompile(`^then accountable(?: for (\S+))?(?: at (\d{4}-\d\d-\d\d \d\d:\d\d))? is (.+)$`)
	standards   = regexp.MustCompile(`^then the clocks(?: of (\S+))? say$`)
	keeping     = regexp.MustCompile(`^keep ([a-z_]+) = (\S+)$`)
	assignment  = regexp.MustCompile(`^(\S+) = (.*)$`)
	refusal     = regexp.MustCompile(`^refused (\S+)$`)
	dollar      = regexp.MustCompile(`\$[a-z_]+`)
)

// run plays the story to its end or to the first thing that is not as it says.
func (p *play) run(ctx context.Context) error {
	for i, s := range p.Steps {
		if err := p.step(ctx, s); err != nil {
			return err
		}
		if err := p.world.verify(); err != nil {
			return s.At("%v", err)
		}
		if s.Given && (i+1 == len(p.Steps) || !p.Steps[i+1].Given) {
			for _, e := range p.world.log.Events() {
				p.looked[e.Stream] = int(e.Revision) + 1
			}
		}
	}
	if err := p.world.verifier.End(ctx, nil); err != nil {
		return err
	}
	if p.world.verifier.Faults > 0 {
		return fmt.Errorf("%s: the record breaks a rule: %+v", p.Steps[0].File, p.world.verifier.First[0])
	}
	return nil
}

func (p *play) step(ctx context.Context, s Step) error {
	if s.Moves {
		if err := p.world.moveTo(ctx, s.Time); err != nil {
			return s.At("%v", err)
		}
		return nil
	}
	if m := accountable.FindStringSubmatch(s.Text); m != nil {
		return p.accountable(ctx, s, m[1], m[2], m[3])
	}
	if m := standards.FindStringSubmatch(s.Text); m != nil {
		return p.standards(ctx, s, m[1])
	}
	if m := records.FindStringSubmatch(s.Text); m != nil {
		return p.records(s, m[1], m[2])
	}
	if m := shows.FindStringSubmatch(s.Text); m != nil {
		return p.shows(ctx, s, m[1], m[2])
	}
	if m := calls.FindStringSubmatch(s.Text); m != nil {
		return p.call(ctx, s, m[1], m[2])
	}
	return s.At("%q is none of: NAME calls METHOD, then STREAM records EVENTS, then accountable is NAME, then METHOD shows, then the clocks say", s.Text)
}

// expand puts what was kept in place of $names.
func (p *play) expand(line Line, text string) (string, error) {
	var err error
	return dollar.ReplaceAllStringFunc(text, func(name string) string {
		value, ok := p.kept[name[1:]]
		if !ok {
			err = line.At("nothing was kept as %s", name)
		}
		return value
	}), err
}

func (p *play) call(ctx context.Context, s Step, who, what string) error {
	actor, ok := p.Parties[who]
	if !ok || actor.User == "" {
		return s.At("%q is no person or system that this story names", who)
	}
	m, err := method(what)
	if err != nil {
		return s.At("%v", err)
	}
	request, err := newMessage(m.Input())
	if err != nil {
		return s.At("%v", err)
	}
	p.calls++
	head(request, &metav1.Command{
		CommandId: uuid.NewSHA1(uuid.NameSpaceURL, fmt.Appendf(nil, "%s/%d", p.Title, p.calls)).String(),
		Actor:     &metav1.Actor{User: actor.User, RoleCode: actor.Role, Organisation: actor.Organisation},
	})
	var keep []Line
	refused := Line{}
	for _, line := range s.Under {
		if refusal.MatchString(line.Text) {
			refused = line
			continue
		}
		if keeping.MatchString(line.Text) {
			keep = append(keep, line)
			continue
		}
		if err := p.assign(request, line); err != nil {
			return err
		}
	}
	reply, err := p.world.invoke(ctx, m, request)
	if refused.Text != "" {
		want := refusal.FindStringSubmatch(refused.Text)[1]
		if err == nil {
			return refused.At("%s\n  expected: refused with %s\n  seen:     done", what, want)
		}
		if fault.CodeOf(err) != want && status.Code(err).String() != want {
			return refused.At("%s\n  expected: refused with %s\n  seen:     %s", what, want, explain(err))
		}
		return nil
	}
	if err != nil {
		return s.At("%s\n  expected: done\n  seen:     %s", what, explain(err))
	}
	for _, line := range keep {
		m := keeping.FindStringSubmatch(line.Text)
		value, err := Get(reply, m[2])
		if err != nil {
			return line.At("%v", err)
		}
		if value == "none" {
			return line.At("the reply has no %s", m[2])
		}
		p.kept[m[1]] = value
	}
	return nil
}

// explain names an error with what its details say of fields.
func explain(err error) string {
	s, _ := status.FromError(err)
	text := fmt.Sprintf("%s, %s: %s", fault.CodeOf(err), s.Code(), s.Message())
	for _, d := range s.Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.FieldViolations {
				text += fmt.Sprintf("\n            %s: %s", v.Field, v.Description)
			}
		}
	}
	return text
}

func (p *play) assign(request proto.Message, line Line) error {
	m := assignment.FindStringSubmatch(line.Text)
	if m == nil {
		return line.At("%q is no field = value", line.Text)
	}
	value, err := p.expand(line, m[2])
	if err != nil {
		return err
	}
	if err := Set(request, m[1], value, p.Parties); err != nil {
		return line.At("%v", err)
	}
	return nil
}

// shows asks and compares. A read model is waited for until it has seen all.
func (p *play) shows(ctx context.Context, s Step, what, about string) error {
	m, err := method(what)
	if err != nil {
		return s.At("%v", err)
	}
	request, err := newMessage(m.Input())
	if err != nil {
		return s.At("%v", err)
	}
	fields := request.ProtoReflect().Descriptor().Fields()
	if f := fields.ByName("pathway_id"); f != nil && about == "" {
		about = "pathway_id = $pathway"
	}
	for one := range strings.SplitSeq(about, ", ") {
		if one == "" {
			continue
		}
		if err := p.assign(request, Line{s.File, s.Number, one}); err != nil {
			return err
		}
	}
	if f := fields.ByName("min_position"); f != nil && f.Kind() == protoreflect.Uint64Kind {
		head, err := p.world.log.Head(ctx)
		if err != nil {
			return s.At("%v", err)
		}
		request.ProtoReflect().Set(f, protoreflect.ValueOfUint64(uint64(head)))
	}
	reply, err := p.world.invoke(ctx, m, request)
	if err != nil {
		return s.At("%s\n  expected: an answer\n  seen:     %s", what, explain(err))
	}
	return p.compare(s, func(path string) (string, error) { return Get(reply, path) })
}

// compare looks at each line below a step.
func (p *play) compare(s Step, see func(path string) (string, error)) error {
	if len(s.Under) == 0 {
		return s.At("says nothing of what is to be seen")
	}
	for _, line := range s.Under {
		m := keeping.FindStringSubmatch(line.Text)
		if m != nil {
			value, err := see(m[2])
			if err != nil {
				return line.At("%v", err)
			}
			p.kept[m[1]] = value
			continue
		}
		if m = assignment.FindStringSubmatch(line.Text); m == nil {
			return line.At("%q is no field = value", line.Text)
		}
		want, err := p.expand(line, m[2])
		if err != nil {
			return err
		}
		path, err := p.expand(line, m[1])
		if err != nil {
			return err
		}
		seen, err := see(path)
		if err != nil {
			return line.At("%v", err)
		}
		if !Agree(want, seen) {
			return line.At("%s\n  expected: %s\n  seen:     %s", m[1], want, seen)
		}
	}
	return nil
}

func (p *play) standards(ctx context.Context, s Step, pathway string) error {
	if pathway == "" {
		pathway = "$pathway"
	}
	id, err := p.expand(s.Line, pathway)
	if err != nil {
		return err
	}
	reply, err := referralv1.NewPathwayServiceClient(p.world.conn).GetPathway(ctx, &referralv1.GetPathwayRequest{PathwayId: id})
	if err != nil {
		return s.At("%s", explain(err))
	}
	found, err := Standards(reply.Pathway)
	if err != nil {
		return s.At("%v", err)
	}
	if err := p.agrees(ctx, s, id, found); err != nil {
		return err
	}
	return p.compare(s, func(path string) (string, error) {
		if v, ok := found[path]; ok {
			return v, nil
		}
		return "none", nil
	})
}

// agrees compares the clocks with those that the read side shows.
func (p *play) agrees(ctx context.Context, s Step, id string, found map[string]string) error {
	reply, err := pathwayv1.NewPathwayQueryServiceClient(p.world.conn).GetPathway(ctx, &pathwayv1.GetPathwayRequest{PathwayId: id})
	if err != nil {
		return s.At("%s", explain(err))
	}
	shown := map[string]string{}
	for _, c := range reply.Pathway.Clocks {
		name := c.Clock
		if name == "fds" {
			name = "fds28"
		}
		if _, first := shown[name]; !first && c.Days != nil {
			shown[name] = verdict(int(*c.Days), c.Counted, c.Breach)
		}
	}
	for _, name := range []string{"fds28", "d31", "d62", "d38", "d24"} {
		if says, ok := found[name]; ok && says != shown[name] {
			return s.At("the read side does not agree on %s\n  by the rules:  %s\n  it shows:      %s", name, says, shown[name])
		}
	}
	return nil
}

// records compares what was recorded in a stream since a step last looked at it.
func (p *play) records(s Step, stream, inline string) error {
	category, id, _ := strings.Cut(stream, "-")
	if id == "" {
		id = map[string]string{"person": "$person", "lead": "$lead", "neighbourhood": "$neighbourhood"}[category]
		if id == "" {
			id = "$pathway"
		}
	}
	id, err := p.expand(s.Line, id)
	if err != nil {
		return err
	}
	var want []string
	for _, line := range s.Under {
		want = append(want, line.Text)
	}
	if inline != "" && inline != "nothing" {
		want = append(want, strings.Split(inline, ", ")...)
	}
	all := p.world.recorded(category + "-" + id)
	seen := all[p.looked[category+"-"+id]:]
	p.looked[category+"-"+id] = len(all)
	if !slices.Equal(want, seen) {
		return s.At("events of %s since the story last looked\n  expected: %s\n  seen:     %s", category, list(want), list(seen))
	}
	return nil
}

func list(names []string) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

func (p *play) accountable(ctx context.Context, s Step, pathway, at, want string) error {
	if pathway == "" {
		pathway = "$pathway"
	}
	id, err := p.expand(s.Line, pathway)
	if err != nil {
		return err
	}
	if _, known := p.Parties[want]; !known && want != "nobody" {
		return s.At("%q is nobody whom this story names", want)
	}
	when := p.world.clock()
	if at != "" {
		if when, err = ParseTime(at); err != nil {
			return s.At("%v", err)
		}
	}
	seen, err := p.world.accountable(id, when)
	if err != nil {
		return s.At("%v", err)
	}
	who, err := pathwayv1.NewPathwayQueryServiceClient(p.world.conn).WhoWasAccountable(ctx, &pathwayv1.WhoWasAccountableRequest{PathwayId: id,
		At: &pathwayv1.AsOf{Moment: &pathwayv1.AsOf_Recorded{Recorded: timestamppb.New(when)}}})
	if err != nil {
		return s.At("%s", explain(err))
	}
	if shown := who.Custody.GetHolder().GetName(); shown != seen && !(who.Custody == nil && seen == "nobody") {
		return s.At("the read side does not agree on who was accountable at %s\n  by the events: %s\n  it shows:      %s", showTime(when), seen, shown)
	}
	if want != seen {
		return s.At("accountable at %s\n  expected: %s\n  seen:     %s", showTime(when), want, seen)
	}
	return nil
}

// begin is where the clock of a story stands before its first step.
func (s *Story) begin() time.Time {
	for _, step := range s.Steps {
		if step.Moves {
			return step.Time
		}
	}
	return time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
}

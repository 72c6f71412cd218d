package carelead

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	pb "waymark/proto/waymark/carelead/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
)

// Custody checks for the one promise: at every instant exactly one party is
// accountable for each open pathway. A pathway is open from its PathwayStarted,
// when the team named there is accountable by definition, until its ledger is
// closed. Every ledger is put through Audit (I1 to I9); what its pathway, those
// that it was rerouted from, and other ledgers have to do with it is posted, for
// a Meeting.
//
// It also checks leads and neighbourhoods. Like Audit it shares no code with
// the folds and the decisions.
type Custody struct {
	ledgers   map[string]*custody // by pathway id
	leads     map[string]*auditedLead
	areas     map[string]bool // neighbourhoods that were defined
	post      func(es.Fact)
	transfers int
}

// custody is what is known of one ledger.
type custody struct {
	Audit
	last       es.Recorded // its newest event
	superseded bool        // closed in favour of another
}

// auditedLead is the state of one lead.
type auditedLead struct {
	places   map[string]string // handover by pathway that takes a place
	capacity int32
	away     map[string]bool // leave that was booked: whether it has begun
	gone     bool
}

// ofRing is the key of the facts about ledgers closed in favour of others, which
// are few. The other keys are ids of pathways.
const ofRing = "superseded"

// NewCustody returns an audit of ledgers, leads and neighbourhoods from their
// first events.
func NewCustody(post func(es.Fact)) *Custody {
	return &Custody{ledgers: map[string]*custody{}, leads: map[string]*auditedLead{}, areas: map[string]bool{}, post: post}
}

// Transfers is how often accountability passed.
func (c *Custody) Transfers() int { return c.transfers }

// Next takes the next event of the log, of any category.
func (c *Custody) Next(e es.Entry) error {
	category, id, _ := strings.Cut(e.Stream, "-")
	switch category {
	case "pathway":
		return c.pathway(id, e)
	case "carelead":
		return c.ledger(id, e)
	case "lead":
		return c.lead(id, e)
	case "neighbourhood":
		_, defines := e.Event.(*pb.NeighbourhoodDefined)
		if defines == c.areas[id] {
			return fmt.Errorf("a neighbourhood is defined twice, or not first")
		}
		c.areas[id] = true
	}
	return nil
}

// pathway posts the teams that are accountable by definition.
func (c *Custody) pathway(id string, e es.Entry) error {
	named := func(kind, id string, t *referralv1.Team) {
		c.post(es.Fact{Key: id, Kind: kind, Args: []string{t.GetOrganisation(), t.GetCode(), t.GetName()}, At: e.Place()})
	}
	switch v := e.Event.(type) {
	case *referralv1.PathwayStarted:
		team := v.GetFacts().GetResponsibleTeam()
		if team.GetOrganisation() == "" || team.GetName() == "" {
			return fmt.Errorf("I1: the pathway starts without a responsible team: nobody is accountable")
		}
		named("starts", id, team)
	case *referralv1.PathwayRerouted: // names the teams of the onward pathways, which start after it
		for _, o := range v.GetFacts().GetOnward() {
			named("starts", strings.ToLower(o.PathwayId), o.GetResponsibleTeam())
		}
	case *referralv1.ClockCorrected:
		if team := v.GetReplacement().GetStart().GetResponsibleTeam(); team != nil {
			named("is corrected", id, team)
		}
	}
	return nil
}

func (c *Custody) ledger(id string, e es.Entry) error {
	p := c.ledgers[id]
	if p == nil {
		p = &custody{}
		c.ledgers[id] = p
	}
	was, transfers := p.Holder(), p.Transfers()
	p.last = e.Place()
	if err := p.Audit.Next(Entry{Event: e.Event, Command: e.Metadata.CommandID, Recorded: e.Recorded.Recorded}); err != nil {
		return err
	}
	c.transfers += p.Transfers() - transfers
	fact := func(key, kind string, args ...string) {
		c.post(es.Fact{Key: key, Kind: kind, Args: args, At: e.Place()})
	}
	switch v := e.Event.(type) {
	case *pb.LedgerOpened:
		if v.PathwayId != id {
			return fmt.Errorf("I1: a ledger opens in the stream of another pathway")
		}
		// The team holds it already, by definition.
		fact(id, "opens", v.Holder.Kind.String(), v.Holder.Organisation, v.Holder.Id, v.Holder.Name)
	case *pb.LedgerClosed:
		by := strings.ToLower(v.SupersededBy)
		if by != "" || p.superseded {
			fact(ofRing, "closes", id, by)
		}
		p.superseded = by != ""
	case *pb.LedgerReopened:
		if p.superseded {
			fact(ofRing, "closes", id, "")
		}
		p.superseded = false
	}
	if _, opens := e.Event.(*pb.LedgerOpened); !opens {
		switch now := p.Holder(); {
		case now == nil && was != nil:
			fact(id, "ends")
		case now != nil && !Same(now, was):
			fact(id, "passes", fmt.Sprintf("%s %s %s", now.GetKind(), now.GetOrganisation(), now.GetId()))
		}
	}
	if e.Metadata.Index+1 == e.Metadata.Count {
		return p.Audit.End()
	}
	return nil
}

func (c *Custody) lead(id string, e es.Entry) error {
	l := c.leads[id]
	v, registers := e.Event.(*pb.LeadRegistered)
	if registers == (l != nil) {
		return fmt.Errorf("a lead is registered twice, or not first")
	}
	if registers {
		if v.GetParty().GetOrganisation() == "" {
			return fmt.Errorf("a lead is registered without an organisation")
		}
		c.leads[id] = &auditedLead{places: map[string]string{}, capacity: v.Capacity, away: map[string]bool{}}
		return nil
	}
	switch v := e.Event.(type) {
	case *pb.CapacityChanged:
		l.capacity = v.Capacity
	case *pb.CaseloadPlaceTaken:
		// A newer offer of a pathway takes over the place that it has, and one that
		// comes back by itself, without a handover, is counted whatever the capacity.
		handover, taken := l.places[v.PathwayId]
		switch {
		case l.gone:
			return fmt.Errorf("a deactivated lead takes a pathway")
		case taken && handover == v.HandoverId:
			return fmt.Errorf("a pathway takes two places of one lead")
		case !taken && v.HandoverId != "" && len(l.places) >= int(l.capacity):
			return fmt.Errorf("a lead takes more pathways than the capacity of %d", l.capacity)
		}
		l.places[v.PathwayId] = v.HandoverId
	case *pb.CaseloadPlaceFreed:
		if _, taken := l.places[v.PathwayId]; !taken {
			return fmt.Errorf("a place is freed that was not taken")
		}
		delete(l.places, v.PathwayId)
	case *pb.LeaveBooked:
		l.away[v.LeaveId] = false
	case *pb.LeaveStarted:
		if begun, booked := l.away[v.LeaveId]; !booked || begun {
			return fmt.Errorf("leave starts that was not booked, or twice")
		}
		l.away[v.LeaveId] = true
	case *pb.LeaveEnded:
		if !l.away[v.LeaveId] {
			return fmt.Errorf("leave ends that has not begun")
		}
		delete(l.away, v.LeaveId)
	case *pb.LeadDeactivated:
		if l.gone {
			return fmt.Errorf("a lead is deactivated twice")
		}
		l.gone = true
	case *pb.LeadActivated:
		l.gone = false
	}
	return nil
}

// End finds what only the end of the log shows: a command without its last event.
func (c *Custody) End(time.Time) []error {
	var found []error
	for _, id := range slices.Sorted(maps.Keys(c.ledgers)) {
		p := c.ledgers[id]
		if err := p.Audit.End(); err != nil {
			found = append(found, es.BreachAt(p.last, "%s", err))
		}
	}
	return found
}

// Meeting checks what a ledger has to do with its pathway and with other ledgers:
// it opens with the team of a pathway that started, the times of its holders join
// without a gap or an overlap, it is open as long as the pathway is, and no
// ledgers are closed in favour of each other in a ring.
type Meeting struct {
	pathways map[string]*accountable
	by       map[string]string // the pathway in favour of whose ledger one's is closed
}

// accountable is who was accountable for one pathway.
type accountable struct {
	started bool
	teams   [][]string // organisation, code and name, as PathwayStarted or a correction of it has them
	ledger  bool       // there is one
	held    bool       // and it has a holder
	last    es.Recorded
	spans   []span
}

// span is how long one party was accountable; the last one of an open pathway
// has no end.
type span struct {
	holder   string
	from, to time.Time
	open     bool
}

// NewMeeting returns an audit of what a Custody posts.
func NewMeeting() *Meeting { return &Meeting{map[string]*accountable{}, map[string]string{}} }

// Next takes the next fact about pathways.
func (a *Meeting) Next(f es.Fact) error {
	if f.Key == ofRing {
		return a.ring(f.Args[0], f.Args[1])
	}
	p := a.pathways[f.Key]
	if p == nil {
		p = &accountable{}
		a.pathways[f.Key] = p
	}
	at := f.At.Recorded
	switch p.last = f.At; f.Kind {
	case "starts":
		// Unless the pathway was started by rerouting another to it.
		if p.teams = append(p.teams, f.Args); !p.started {
			p.started = true
			p.pass(f.Args[0]+" "+f.Args[2], at)
		}
	case "is corrected":
		p.teams = append(p.teams, f.Args)
	case "opens":
		p.ledger, p.held = true, true
		if !p.started {
			return fmt.Errorf("I1: a ledger opens for a pathway that was never started")
		}
		kind, organisation, id, name := f.Args[0], f.Args[1], f.Args[2], f.Args[3]
		first := func(t []string) bool {
			return kind == pb.PartyKind_PARTY_KIND_TEAM.String() && organisation == t[0] && (name == t[2] || t[1] != "" && id == t[1])
		}
		if !slices.ContainsFunc(p.teams, first) {
			return fmt.Errorf("I1: the ledger's first holder is not the team that PathwayStarted names")
		}
	case "ends":
		p.held = false
		p.close(at)
	case "passes":
		p.held = true
		p.pass(f.Args[0], at)
	}
	return nil
}

func (a *Meeting) ring(id, by string) error {
	a.by[id] = by
	for at, n := by, 0; at != "" && n <= len(a.by); at, n = a.by[at], n+1 {
		if at == id {
			return fmt.Errorf("I1: ledgers are closed in favour of each other in a ring: nobody is accountable for the patient")
		}
	}
	return nil
}

// pass gives the pathway to a holder from at on.
func (p *accountable) pass(holder string, at time.Time) {
	p.close(at)
	p.spans = append(p.spans, span{holder: holder, from: at, open: true})
}

func (p *accountable) close(at time.Time) {
	if n := len(p.spans); n > 0 && p.spans[n-1].open {
		p.spans[n-1].to, p.spans[n-1].open = at, false
	}
}

func (p *accountable) open() bool {
	n := len(p.spans)
	return n > 0 && p.spans[n-1].open
}

// Pathways is how many pathways were started.
func (a *Meeting) Pathways() (n int) {
	for _, p := range a.pathways {
		if p.started {
			n++
		}
	}
	return n
}

// Open is how many pathways are open at the end.
func (a *Meeting) Open() (n int) {
	for _, p := range a.pathways {
		if p.open() {
			n++
		}
	}
	return n
}

// End finds what only the end of the log shows: times of holders that do not
// join, a holder who is not the ledger's.
func (a *Meeting) End(time.Time) []error {
	var found []error
	for _, id := range slices.Sorted(maps.Keys(a.pathways)) {
		p := a.pathways[id]
		for i, s := range p.spans {
			switch {
			case i > 0 && p.spans[i-1].open, s.open && i+1 < len(p.spans):
				found = append(found, es.BreachAt(p.last, "I1: two parties are accountable at once"))
			case s.holder == "", !s.open && s.to.Before(s.from):
				found = append(found, es.BreachAt(p.last, "I1: nobody is accountable for a time"))
			}
		}
		if p.ledger && p.held != p.open() {
			found = append(found, es.BreachAt(p.last, "I1: the pathway is open and its ledger is not, or the other way round"))
		}
	}
	return found
}

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

// Custody checks a whole log for the one promise: at every instant exactly one
// party is accountable for each open pathway. A pathway is open from its
// PathwayStarted, when the team named there is accountable by definition, until
// its ledger is closed. Every ledger is put through Audit (I1 to I9), and the
// times from one holder to the next must join without a gap or an overlap.
//
// It also checks leads and neighbourhoods. Like Audit it shares no code with
// the folds and the decisions.
type Custody struct {
	pathways map[string]*custody // by pathway id
	leads    map[string]*auditedLead
	areas    map[string]bool // neighbourhoods that were defined

	recorded  time.Time // of the last event
	instants  int
	transfers int
}

// custody is who was accountable for one pathway.
type custody struct {
	started bool
	teams   []*referralv1.Team // that PathwayStarted, or a correction of it, named
	ledger  *Audit             // nil before LedgerOpened
	last    es.Recorded        // the newest event of the ledger
	by      string             // the pathway in favour of whose ledger this one is closed
	spans   []span
}

// span is how long one party was accountable; the last one of an open pathway
// has no end.
type span struct {
	holder   string
	from, to time.Time
	open     bool
}

// auditedLead is the state of one lead.
type auditedLead struct {
	places   map[string]string // handover by pathway that takes a place
	capacity int32
	away     map[string]bool // leave that was booked: whether it has begun
	gone     bool
}

// NewCustody returns an audit of a log from its first event.
func NewCustody() *Custody {
	return &Custody{pathways: map[string]*custody{}, leads: map[string]*auditedLead{}, areas: map[string]bool{}}
}

// Pathways is how many pathways were started.
func (c *Custody) Pathways() (n int) {
	for _, p := range c.pathways {
		if p.started {
			n++
		}
	}
	return n
}

// Open is how many pathways are open at the end.
func (c *Custody) Open() (n int) {
	for _, p := range c.pathways {
		if p.open() {
			n++
		}
	}
	return n
}

// Instants is how many distinct recorded times were checked.
func (c *Custody) Instants() int { return c.instants }

// Transfers is how often accountability passed.
func (c *Custody) Transfers() int { return c.transfers }

// Next takes the next event of the log, of any category.
func (c *Custody) Next(e es.Entry) error {
	if e.Recorded.Recorded.Before(c.recorded) {
		return fmt.Errorf("it was recorded before the event before it: nobody can say who was accountable when")
	}
	if e.Recorded.Recorded.After(c.recorded) {
		c.recorded = e.Recorded.Recorded
		c.instants++
	}
	category, id, _ := strings.Cut(e.Stream, "-")
	switch category {
	case "pathway":
		return c.started(id, e)
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

func (c *Custody) pathway(id string) *custody {
	p := c.pathways[id]
	if p == nil {
		p = &custody{}
		c.pathways[id] = p
	}
	return p
}

func (c *Custody) started(id string, e es.Entry) error {
	p := c.pathway(id)
	switch v := e.Event.(type) {
	case *referralv1.PathwayStarted:
		team := v.GetFacts().GetResponsibleTeam()
		if team.GetOrganisation() == "" || team.GetName() == "" {
			return fmt.Errorf("I1: the pathway starts without a responsible team: nobody is accountable")
		}
		p.start(team, e.Recorded.Recorded)
	case *referralv1.PathwayRerouted: // names the teams of the onward pathways, which start after it
		for _, o := range v.GetFacts().GetOnward() {
			c.pathway(strings.ToLower(o.PathwayId)).start(o.GetResponsibleTeam(), e.Recorded.Recorded)
		}
	case *referralv1.ClockCorrected:
		if team := v.GetReplacement().GetStart().GetResponsibleTeam(); team != nil {
			p.teams = append(p.teams, team)
		}
	}
	return nil
}

// start makes a team accountable, unless the pathway was started by rerouting
// another to it.
func (p *custody) start(team *referralv1.Team, at time.Time) {
	if p.teams = append(p.teams, team); !p.started {
		p.started = true
		p.pass(teamName(team), at)
	}
}

func teamName(t *referralv1.Team) string { return t.Organisation + " " + t.Name }

func partyName(p *Party) string {
	return fmt.Sprintf("%s %s %s", p.GetKind(), p.GetOrganisation(), p.GetId())
}

func (c *Custody) ledger(id string, e es.Entry) error {
	p := c.pathway(id)
	if p.ledger == nil {
		p.ledger = &Audit{}
	}
	was, transfers := p.ledger.Holder(), p.ledger.Transfers()
	p.last = e.Recorded
	if err := p.ledger.Next(Entry{Event: e.Event, Command: e.Metadata.CommandID, Recorded: e.Recorded.Recorded}); err != nil {
		return err
	}
	if e.Metadata.Index+1 == e.Metadata.Count {
		if err := p.ledger.End(); err != nil {
			return err
		}
	}
	c.transfers += p.ledger.Transfers() - transfers
	switch v := e.Event.(type) {
	case *pb.LedgerClosed:
		p.by = strings.ToLower(v.SupersededBy)
		for at, n := p.by, 0; at != "" && n <= len(c.pathways); at, n = c.pathway(at).by, n+1 {
			if at == id {
				return fmt.Errorf("I1: ledgers are closed in favour of each other in a ring: nobody is accountable for the patient")
			}
		}
	case *pb.LedgerReopened:
		p.by = ""
	}
	if v, opens := e.Event.(*pb.LedgerOpened); opens {
		if !p.started {
			return fmt.Errorf("I1: a ledger opens for a pathway that was never started")
		}
		if v.PathwayId != id {
			return fmt.Errorf("I1: a ledger opens in the stream of another pathway")
		}
		first := func(t *referralv1.Team) bool {
			return v.Holder.Kind == pb.PartyKind_PARTY_KIND_TEAM && v.Holder.Organisation == t.Organisation && (v.Holder.Name == t.Name || t.Code != "" && v.Holder.Id == t.Code)
		}
		if !slices.ContainsFunc(p.teams, first) {
			return fmt.Errorf("I1: the ledger's first holder is not the team that PathwayStarted names")
		}
		return nil // the team held it already, by definition
	}
	switch now := p.ledger.Holder(); {
	case now == nil && was != nil:
		p.close(e.Recorded.Recorded)
	case now != nil && !Same(now, was):
		p.pass(partyName(now), e.Recorded.Recorded)
	}
	return nil
}

// pass gives the pathway to a holder from at on.
func (p *custody) pass(holder string, at time.Time) {
	p.close(at)
	p.spans = append(p.spans, span{holder: holder, from: at, open: true})
}

func (p *custody) close(at time.Time) {
	if n := len(p.spans); n > 0 && p.spans[n-1].open {
		p.spans[n-1].to, p.spans[n-1].open = at, false
	}
}

func (p *custody) open() bool {
	n := len(p.spans)
	return n > 0 && p.spans[n-1].open
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

// End finds what only the end of the log shows: a command without its last
// event, times of holders that do not join, a holder who is not the ledger's.
func (c *Custody) End() []error {
	var found []error
	for _, id := range slices.Sorted(maps.Keys(c.pathways)) {
		p := c.pathways[id]
		if p.ledger != nil {
			if err := p.ledger.End(); err != nil {
				found = append(found, es.BreachAt(p.last, "%s", err))
			}
		}
		for i, s := range p.spans {
			switch {
			case i > 0 && p.spans[i-1].open, s.open && i+1 < len(p.spans):
				found = append(found, es.BreachAt(p.last, "I1: two parties are accountable at once"))
			case s.holder == "", !s.open && s.to.Before(s.from):
				found = append(found, es.BreachAt(p.last, "I1: nobody is accountable for a time"))
			}
		}
		if p.ledger != nil && (p.ledger.Holder() != nil) != p.open() {
			found = append(found, es.BreachAt(p.last, "I1: the pathway is open and its ledger is not, or the other way round"))
		}
	}
	return found
}

package carelead

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	pb "waymark/proto/waymark/carelead/v1"
	"waymark/services/kit/es"
)

// board is the read model of this room: all leads and neighbourhoods, and for
// each ledger only whose it is. It lives in memory, is built from the log at each
// start and decides nothing: whoever finds a ledger here reads its stream before
// acting.
type board struct {
	*es.Follower // its lock guards all below

	leads          map[string]Lead
	neighbourhoods map[string]Neighbourhood
	ledgers        map[string]whose
	ofPerson       map[string]map[string]bool      // person id -> pathway ids
	ofLead         map[string]map[string]bool      // lead id -> pathway ids, see whose.leads
	placed         map[string]map[string]bool      // pathway id -> leads of whom it has a place
	due            map[string]map[string]time.Time // pathway id -> what runs out -> when; see timers
	closed         map[string]bool                 // ledgers whose timers stand still, until they are reopened
	unoffered      map[string]map[string]Place     // lead id -> pathway id -> place whose offer was not heard of yet

	blind func(proto.Message) bool // what tests set to plant a bug that they must catch: these events are not heard
}

// whose is what the board keeps of a ledger: ids of parties that are persons.
type whose struct{ person, holder, actingFor, offered string }

// leads are those whose leave or end of role the ledger must hear of.
func (w whose) leads() []string { return []string{w.holder, w.actingFor, w.offered} }

func newBoard(log es.Log) *board {
	b := &board{
		leads: make(map[string]Lead), neighbourhoods: make(map[string]Neighbourhood), ledgers: make(map[string]whose),
		ofPerson: make(map[string]map[string]bool), ofLead: make(map[string]map[string]bool),
		placed: make(map[string]map[string]bool), due: make(map[string]map[string]time.Time),
		closed: make(map[string]bool), unoffered: make(map[string]map[string]Place),
	}
	b.Follower = es.Follow(log, "carelead.behind", b.apply, categories...)
	return b
}

var categories = []string{LedgerDecider.Category, LeadDecider.Category, NeighbourhoodDecider.Category}

func (b *board) apply(e es.Recorded) error {
	category, id, _ := strings.Cut(e.Stream, "-")
	event, err := es.Decode(e)
	if err != nil {
		return err
	}
	if b.blind != nil && b.blind(event) {
		return nil
	}
	switch category {
	case LeadDecider.Category:
		b.leads[id], err = es.TryEvolve(evolveLead, b.leads[id], event)
		switch v := event.(type) {
		case *pb.CaseloadPlaceTaken:
			put(b.placed, v.PathwayId, id)
			delete(b.unoffered[id], v.PathwayId)
			if v.HandoverId != "" {
				if b.unoffered[id] == nil {
					b.unoffered[id] = make(map[string]Place)
				}
				b.unoffered[id][v.PathwayId] = b.leads[id].place(v.PathwayId)
			}
		case *pb.CaseloadPlaceFreed:
			delete(b.placed[v.PathwayId], id)
			delete(b.unoffered[id], v.PathwayId)
		}
	case NeighbourhoodDecider.Category:
		b.neighbourhoods[id], err = es.TryEvolve(evolveNeighbourhood, b.neighbourhoods[id], event)
	case LedgerDecider.Category:
		was := b.ledgers[id]
		now := was
		switch v := event.(type) {
		case *pb.LedgerOpened:
			now.person, now.holder = v.PersonId, leadID(v.Holder)
			put(b.ofPerson, v.PersonId, id)
		case *pb.AccountabilityTransferred:
			now.holder, now.actingFor = leadID(v.To), leadID(v.ActingFor)
		case *pb.HandoverOffered:
			now.offered = leadID(v.To)
			for lead := range b.placed[id] {
				if b.unoffered[lead][id].Handover == v.HandoverId {
					delete(b.unoffered[lead], id)
				}
			}
		case *pb.LedgerPersonChanged:
			delete(b.ofPerson[was.person], id)
			put(b.ofPerson, v.PersonId, id)
			now.person = v.PersonId
		}
		b.timers(id, event)
		if now != was {
			b.ledgers[id] = now
			for _, l := range was.leads() {
				delete(b.ofLead[l], id)
			}
			for _, l := range now.leads() {
				put(b.ofLead, l, id)
			}
		}
	}
	return err
}

// leadID is the id of a party that can be a lead, "" for any other.
func leadID(p *Party) string {
	if p.GetKind() != pb.PartyKind_PARTY_KIND_PERSON_IN_ROLE {
		return ""
	}
	return p.Id
}

func put(index map[string]map[string]bool, key, id string) {
	if key == "" {
		return
	}
	if index[key] == nil {
		index[key] = make(map[string]bool)
	}
	index[key][id] = true
}

// pathwaysOf lists the pathways under a key of an index, in order.
func (b *board) pathwaysOf(index map[string]map[string]bool, key string) []string {
	b.Lock()
	defer b.Unlock()
	found := make([]string, 0, len(index[key]))
	for id := range index[key] {
		found = append(found, id)
	}
	slices.Sort(found)
	return found
}

// placesOf lists the leads of whom a pathway has a place or should have one.
func (b *board) placesOf(pathway string) (leads []string) {
	b.Lock()
	defer b.Unlock()
	for id := range b.placed[pathway] {
		leads = append(leads, id)
	}
	for _, id := range b.ledgers[pathway].leads() {
		if id != "" && !slices.Contains(leads, id) {
			leads = append(leads, id)
		}
	}
	slices.Sort(leads)
	return leads
}

// named is a lead or a neighbourhood with its id.
type named[T any] struct {
	id    string
	value T
}

// list returns what matches, in the order of ids, after an id, and the position
// that the answer holds everything up to.
func list[T any](b *board, all map[string]T, after string, match func(T) bool) ([]named[T], es.Position) {
	b.Lock()
	defer b.Unlock()
	var found []named[T]
	for id, v := range all {
		if id > after && match(v) {
			found = append(found, named[T]{id, v})
		}
	}
	slices.SortFunc(found, func(x, y named[T]) int { return cmp.Compare(x.id, y.id) })
	return found, b.At()
}

// serving is the neighbourhood that serves a practice: the preferred one if it
// does, else the first by id; "" when none does or the practice is not known.
func (b *board) serving(practice, preferred string) string {
	if practice == "" {
		return ""
	}
	found, _ := list(b, b.neighbourhoods, "", func(n Neighbourhood) bool { return n.Serves(practice) })
	for _, n := range found {
		if n.id == preferred {
			return n.id
		}
	}
	if len(found) == 0 {
		return ""
	}
	return found[0].id
}

// candidates are the leads of a neighbourhood who could take a pathway now: at work, with a
// free place; those who speak one of the languages first, then those with most
// room, then by id. None for no neighbourhood.
func (b *board) candidates(neighbourhood string, languages []string) (ids []string) {
	if neighbourhood == "" {
		return nil
	}
	found, _ := list(b, b.leads, "", func(l Lead) bool {
		return l.State == pb.LeadState_LEAD_STATE_ACTIVE && slices.Contains(l.Neighbourhoods, neighbourhood) && len(l.Places) < int(l.Capacity)
	})
	speaks := func(l Lead) int {
		if slices.ContainsFunc(languages, func(x string) bool { return slices.Contains(l.Languages, x) }) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(found, func(x, y named[Lead]) int {
		return cmp.Or(cmp.Compare(speaks(y.value), speaks(x.value)), cmp.Compare(int(y.value.Capacity)-len(y.value.Places), int(x.value.Capacity)-len(x.value.Places)))
	})
	for _, l := range found {
		ids = append(ids, l.id)
	}
	return ids
}

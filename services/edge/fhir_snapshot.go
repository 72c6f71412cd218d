package edge

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	pathwayv1 "waymark/proto/waymark/pathway/v1"
	personv1 "waymark/proto/waymark/person/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/edge/fhir"
	"waymark/services/kit/es"
)

// snapshot is what the services say of one person, pathway or session at one
// position of the log, 0 for now. It asks each of them once, and only when what it
// says is needed; nil where they have nothing.
type snapshot struct {
	s     *fhirServer
	ctx   context.Context
	owner string
	at    es.Position
	base  string // of absolute URLs
	seen  es.Position
	index error // what could not be read of the index

	aPerson      asked[*personv1.PersonReply]
	aView        asked[*pathwayv1.Pathway]
	aPlan        asked[*planv1.Record]
	someReferral asked[[]*referralv1.Referral]
	appointments asked[*appointmentv1.ListAppointmentsResponse]
	aSession     asked[*appointmentv1.Session]
}

// asked is an answer that is asked for once.
type asked[T any] struct {
	done bool
	is   T
	err  error
}

func (a *asked[T]) get(ask func() (T, error)) (T, error) {
	if !a.done {
		a.is, a.err = ask()
		a.done = true
		if status.Code(a.err) == codes.NotFound {
			a.err = nil // nothing was recorded there yet
		}
	}
	return a.is, a.err
}

// note notes that the index could not be read.
func (x *snapshot) note(err error) { x.index = cmp.Or(x.index, err) }

// saw notes up to where an answer went.
func (x *snapshot) saw(position uint64) { x.seen = max(x.seen, es.Position(position)) }

func (x *snapshot) person() (*personv1.PersonReply, error) {
	return x.aPerson.get(func() (*personv1.PersonReply, error) {
		id, err := x.s.records.person(x.owner)
		if err != nil {
			return nil, err
		}
		id = cmp.Or(id, x.owner)
		reply, err := x.s.persons.GetPerson(x.ctx, &personv1.GetPersonRequest{PersonId: id, AsOfPosition: uint64(x.at)})
		x.saw(reply.GetReceipt().GetPosition())
		return reply, err
	})
}

func (x *snapshot) view() (*pathwayv1.Pathway, error) {
	return x.aView.get(func() (*pathwayv1.Pathway, error) {
		req := &pathwayv1.GetPathwayRequest{PathwayId: x.owner}
		if x.at > 0 {
			req.AsOf = &pathwayv1.AsOf{Moment: &pathwayv1.AsOf_Position{Position: uint64(x.at)}}
		}
		reply, err := x.s.views.GetPathway(x.ctx, req)
		x.saw(reply.GetPathway().GetLastPosition())
		return reply.GetPathway(), err
	})
}

func (x *snapshot) plan() (*planv1.Record, error) {
	return x.aPlan.get(func() (*planv1.Record, error) {
		reply, err := x.s.plans.GetPlan(x.ctx, &planv1.GetPlanRequest{PathwayId: x.owner, AsOfPosition: uint64(x.at)})
		x.saw(reply.GetReceipt().GetPosition())
		return reply.GetRecord(), err
	})
}

func (x *snapshot) referrals() ([]*referralv1.Referral, error) {
	return x.someReferral.get(func() ([]*referralv1.Referral, error) {
		reply, err := x.s.referrals.ListReferrals(x.ctx, &referralv1.ListReferralsRequest{PathwayId: x.owner, AsOfPosition: uint64(x.at)})
		x.saw(reply.GetReadAt().GetPosition())
		return reply.GetReferrals(), err
	})
}

func (x *snapshot) booked() (*appointmentv1.ListAppointmentsResponse, error) {
	return x.appointments.get(func() (*appointmentv1.ListAppointmentsResponse, error) {
		reply, err := x.s.appointments.ListAppointments(x.ctx, &appointmentv1.ListAppointmentsRequest{PathwayId: x.owner, AsOfPosition: uint64(x.at)})
		x.saw(reply.GetReadAt().GetPosition())
		return reply, err
	})
}

func (x *snapshot) session() (*appointmentv1.Session, error) {
	return x.aSession.get(func() (*appointmentv1.Session, error) {
		reply, err := x.s.sessions.GetSession(x.ctx, &appointmentv1.GetSessionRequest{SessionId: x.owner, AsOfPosition: uint64(x.at)})
		x.saw(reply.GetReadAt().GetPosition())
		return reply.GetSession(), err
	})
}

// patient is the reference to whose pathway this is. One who was merged since has
// a Patient that says into whom.
func (x *snapshot) patient() *fhir.Reference {
	id, err := x.s.records.person(x.owner)
	x.note(err)
	return to("Patient", id)
}

// make returns the resources of a kind that the owner has at the moment, with their versions.
func (s *fhirServer) make(ctx context.Context, k *fhirKind, owner, base string, m asOf) ([]fhir.Resource, error) {
	x := &snapshot{s: s, ctx: ctx, owner: owner, base: base}
	if !m.isNow() {
		last, ok, err := s.records.newest(k.streams, owner, m, !k.each)
		if err != nil || !ok {
			return nil, err
		}
		x.at = last.position
	}
	made, err := k.make(x)
	if err = cmp.Or(err, x.index); err != nil || len(made) == 0 {
		return nil, err
	}
	if x.at == 0 {
		if err := s.records.Wait(ctx, x.seen); err != nil {
			return nil, err
		}
	}
	last, ok, err := s.records.newest(k.streams, owner, asOf{position: max(x.at, x.seen)}, false)
	if err != nil || !ok {
		return nil, err
	}
	for _, r := range made {
		stampResource(r, last)
	}
	return made, nil
}

// stampResource gives a resource its version, unless it has one.
func stampResource(r fhir.Resource, at stamp) {
	meta := fhir.MetaOf(r)
	if meta == nil {
		meta = &fhir.Meta{}
	}
	if meta.VersionId == "" {
		meta.VersionId, meta.LastUpdated = version(at.position), stampText(at.time())
	}
	fhir.SetHead(r, fhir.ID(r), meta)
}

func stampText(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

package person

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/kit/run"
)

// service is the gRPC face: it parses, looks up what a decision needs, runs the
// command and replies. Requests reach it validated by the rules of the contract.
type service struct {
	personv1.UnimplementedPersonServiceServer
	people     *es.Streams[state]
	identities *es.Streams[identity]
	key        []byte
	clock      func() time.Time
	slog       *slog.Logger
	queue      *queue
}

// New makes the person service.
func New(deps run.Deps) (run.Part, error) {
	s, err := newService(deps)
	if err != nil {
		return run.Part{}, err
	}
	return run.Part{
		Name:       "person",
		Register:   func(r grpc.ServiceRegistrar) { personv1.RegisterPersonServiceServer(r, s) },
		React:      s.react,
		Categories: []string{"person"},
		Run:        s.queue.Run,
	}, nil
}

func newService(deps run.Deps) (*service, error) {
	if len(deps.Key) < 32 {
		return nil, errors.New("person: Deps.Key needs 32 bytes, the same for the life of the log")
	}
	s := &service{
		people:     es.NewStreams(deps.Log, decider(), es.Options{Key: deps.Key, Jitter: deps.Jitter, Cache: deps.Folds}),
		identities: es.NewStreams(deps.Log, identityDecider(), es.Options{Key: deps.Key, Jitter: deps.Jitter, Cache: deps.Folds}),
		key:        deps.Key,
		clock:      deps.Clock,
		slog:       deps.Slog,
		queue:      newQueue(deps.Log),
	}
	s.queue.Keep(deps.Dir)
	return s, nil
}

// RegisterPerson claims the number, then registers whoever holds the claim. A
// person without a number is registered at once.
func (s *service) RegisterPerson(ctx context.Context, req *personv1.RegisterPersonRequest) (*personv1.PersonReply, error) {
	number, err := parseNumber("nhs_number", req.NhsNumber)
	if err != nil {
		return nil, err
	}
	if err := s.sane(req.Source); err != nil {
		return nil, err
	}
	cmd := register{
		PersonID: derive(req.Command, "person"), RecordID: derive(req.Command, "nhs_number"),
		Number: number, Status: req.NhsNumberStatus,
		Demographics: req.Demographics, Local: req.LocalIdentifiers, Source: req.Source, Today: s.today(),
	}
	if !number.IsZero() {
		// Where this command has registered already, Do must see the repeat: with
		// another number in it, a claim would bind that number to the wrong person.
		own, err := s.people.Load(ctx, cmd.PersonID)
		if err != nil {
			return nil, err
		}
		if own.Value.ID == "" {
			if _, err := cmd.Decide(own.Value); err != nil {
				return nil, err // before it leaves a claim behind
			}
			if cmd.PersonID, err = s.claim(ctx, number, req, cmd.PersonID); err != nil {
				return nil, err
			}
		}
	}
	st, err := s.people.Do(ctx, cmd.PersonID, req, cmd.Decide)
	if err != nil || st.Value.Merges.Into == "" {
		return reply(st, err)
	}
	return reply(s.resolve(ctx, st.Value.ID))
}

func (s *service) UpdateDemographics(ctx context.Context, req *personv1.UpdateDemographicsRequest) (*personv1.PersonReply, error) {
	if err := s.sane(req.Source); err != nil {
		return nil, err
	}
	return s.do(ctx, req.PersonId, req, updateDemographics{
		Demographics: req.Demographics, Local: req.LocalIdentifiers, Source: req.Source, Today: s.today(),
	})
}

func (s *service) RecordTraceResult(ctx context.Context, req *personv1.RecordTraceResultRequest) (*personv1.PersonReply, error) {
	number, err := parseNumber("nhs_number", req.NhsNumber)
	if err != nil {
		return nil, err
	}
	if err := s.sane(req.Source); err != nil {
		return nil, err
	}
	return s.doClaiming(ctx, req.PersonId, req, number, func(holder string) decision {
		return recordTrace{
			RecordID: derive(req.Command, "nhs_number"), Status: req.NhsNumberStatus, Number: number, Holder: holder,
			Demographics: req.Demographics, Source: req.Source, Today: s.today(),
		}
	})
}

func (s *service) ChangeIdentifier(ctx context.Context, req *personv1.ChangeIdentifierRequest) (*personv1.PersonReply, error) {
	number, err := parseNumber("superseding_nhs_number", req.GetSupersedingNhsNumber())
	if err != nil {
		return nil, err
	}
	if err := s.sane(req.Source); err != nil {
		return nil, err
	}
	done, err := s.doClaiming(ctx, req.PersonId, req, number, func(holder string) decision {
		return changeIdentifier{
			RecordID: derive(req.Command, "nhs_number"), Superseding: number, Holder: holder,
			Invalidated: req.GetNhsNumberInvalidated(), InError: req.GetNhsNumberRecordedInError(), Local: req.GetLocal(), Source: req.Source,
		}
	})
	if err == nil && req.GetNhsNumberRecordedInError() {
		err = s.release(ctx, causeOf(req.Command), strings.ToLower(req.PersonId))
	}
	if err != nil {
		return nil, err
	}
	return done, nil
}

func (s *service) SetRestriction(ctx context.Context, req *personv1.SetRestrictionRequest) (*personv1.PersonReply, error) {
	return s.do(ctx, req.PersonId, req, setRestriction{Code: req.Code})
}

func (s *service) LiftRestriction(ctx context.Context, req *personv1.LiftRestrictionRequest) (*personv1.PersonReply, error) {
	return s.do(ctx, req.PersonId, req, liftRestriction{})
}

func (s *service) RecordNeeds(ctx context.Context, req *personv1.RecordNeedsRequest) (*personv1.PersonReply, error) {
	ids := make([]string, len(req.Communication)+len(req.Adjustments))
	for i := range ids {
		ids[i] = derive(req.Command, "need/"+strconv.Itoa(i))
	}
	return s.do(ctx, req.PersonId, req, recordNeeds{
		Communication: req.Communication, Adjustments: req.Adjustments, IDs: ids,
		ReviewDue: date(req.ReviewDue), Consent: req.Consent, Today: s.today(),
	})
}

func (s *service) ReviewNeeds(ctx context.Context, req *personv1.ReviewNeedsRequest) (*personv1.PersonReply, error) {
	ended := make([]string, len(req.EndedNeedIds))
	for i, id := range req.EndedNeedIds {
		ended[i] = strings.ToLower(id)
	}
	return s.do(ctx, req.PersonId, req, reviewNeeds{
		On: date(req.ReviewedOn), Next: date(req.NextReview), Ended: ended, Consent: req.Consent, Today: s.today(),
	})
}

func (s *service) RecordProxy(ctx context.Context, req *personv1.RecordProxyRequest) (*personv1.PersonReply, error) {
	return s.do(ctx, req.PersonId, req, recordProxy{ID: derive(req.Command, "proxy"), Proxy: req.Proxy})
}

func (s *service) EndProxy(ctx context.Context, req *personv1.EndProxyRequest) (*personv1.PersonReply, error) {
	return s.do(ctx, req.PersonId, req, endProxy{ID: strings.ToLower(req.ProxyId), On: date(req.EndedOn)})
}

func (s *service) NoteDeath(ctx context.Context, req *personv1.NoteDeathRequest) (*personv1.PersonReply, error) {
	return s.do(ctx, req.PersonId, req, noteDeath{Status: req.Status, On: date(req.DiedOn), Today: s.today()})
}

func (s *service) NoteMove(ctx context.Context, req *personv1.NoteMoveRequest) (*personv1.PersonReply, error) {
	if err := s.sane(req.Source); err != nil {
		return nil, err
	}
	return s.do(ctx, req.PersonId, req, noteMove{Practice: req.Practice, Area: req.Area, Source: req.Source})
}

func (s *service) NoteLeftEngland(ctx context.Context, req *personv1.NoteLeftEnglandRequest) (*personv1.PersonReply, error) {
	return s.do(ctx, req.PersonId, req, noteLeftEngland{Reason: req.Reason, On: date(req.LeftOn), Today: s.today()})
}

func (s *service) MergePersons(ctx context.Context, req *personv1.MergePersonsRequest) (*personv1.MergeReply, error) {
	surviving, merged := strings.ToLower(req.SurvivingPersonId), strings.ToLower(req.MergedPersonId)
	survivor, err := s.people.Load(ctx, surviving)
	if err != nil {
		return nil, err
	}
	id := derive(req.Command, "merge")
	st, err := s.people.Do(ctx, merged, req, mergePersons{
		MergeID: id, Surviving: surviving, Merged: merged,
		Survivor: survivor.Value, OpenLedgers: req.OpenLedgers, RequestedBy: users(req.Command),
	}.Decide)
	if err != nil {
		return nil, err
	}
	return s.merged(ctx, req.Command, st, id)
}

func (s *service) ApproveMerge(ctx context.Context, req *personv1.ApproveMergeRequest) (*personv1.MergeReply, error) {
	id, merged := strings.ToLower(req.MergeId), strings.ToLower(req.MergedPersonId)
	before, err := s.people.Load(ctx, merged)
	if err != nil {
		return nil, err
	}
	cmd := approveMerge{MergeID: id, By: users(req.Command)}
	if held := before.Value.Merges.get(id); held.ID != "" {
		survivor, err := s.people.Load(ctx, held.Surviving)
		if err != nil {
			return nil, err
		}
		cmd.Survivor = survivor.Value
	}
	st, err := s.people.Do(ctx, merged, req, cmd.Decide)
	if err != nil {
		return nil, err
	}
	return s.merged(ctx, req.Command, st, id)
}

func (s *service) RejectMerge(ctx context.Context, req *personv1.RejectMergeRequest) (*personv1.MergeReply, error) {
	id := strings.ToLower(req.MergeId)
	st, err := s.people.Do(ctx, strings.ToLower(req.MergedPersonId), req, rejectMerge{MergeID: id}.Decide)
	return mergeReply(st, id, err)
}

func (s *service) UnmergePersons(ctx context.Context, req *personv1.UnmergePersonsRequest) (*personv1.MergeReply, error) {
	id := strings.ToLower(req.MergeId)
	st, err := s.people.Do(ctx, strings.ToLower(req.MergedPersonId), req, unmergePersons{MergeID: id}.Decide)
	if err != nil {
		return nil, err
	}
	one := st.Value.Merges.get(id)
	if _, err := s.reverse(ctx, causeOf(req.Command), one.Surviving, one, one.Reversal); err != nil {
		return nil, err
	}
	return mergeReply(st, id, nil)
}

func (s *service) LinkPersons(ctx context.Context, req *personv1.LinkPersonsRequest) (*personv1.PersonReply, error) {
	person, other := strings.ToLower(req.PersonId), strings.ToLower(req.OtherPersonId)
	linked, err := s.people.Load(ctx, other)
	if err != nil {
		return nil, err
	}
	st, err := s.people.Do(ctx, person, req, linkPersons{LinkID: derive(req.Command, "link"), Person: person, Other: other, Linked: linked.Value}.Decide)
	if err != nil {
		return nil, err
	}
	return reply(st, s.mirror(ctx, causeOf(req.Command), other, st.Value.Links.with(other)...))
}

func (s *service) UnlinkPersons(ctx context.Context, req *personv1.UnlinkPersonsRequest) (*personv1.PersonReply, error) {
	person, other := strings.ToLower(req.PersonId), strings.ToLower(req.OtherPersonId)
	st, err := s.people.Do(ctx, person, req, unlinkPersons{Other: other}.Decide)
	if err != nil {
		return nil, err
	}
	return reply(st, s.mirror(ctx, causeOf(req.Command), other, st.Value.Links.ended(other)...))
}

// GetPerson reads the log itself, which is never behind a receipt.
func (s *service) GetPerson(ctx context.Context, req *personv1.GetPersonRequest) (*personv1.PersonReply, error) {
	now, err := s.resolve(ctx, strings.ToLower(req.PersonId))
	if err != nil || req.AsOfPosition == 0 {
		return reply(now, err)
	}
	then, err := s.people.LoadAt(ctx, strings.ToLower(req.PersonId), es.Position(req.AsOfPosition))
	if err == nil && then.Value.ID == "" {
		err = fault.NotFound("person.unknown", "the person was not registered then")
	}
	out, err := reply(then, err)
	if err != nil {
		return nil, err
	}
	withhold(out.Person, now.Value.view())
	return out, nil
}

// withhold takes from an earlier view of a person what nobody may see today.
func withhold(then, now *personv1.Person) {
	if now.Restricted {
		then.Restricted, then.Restriction = true, now.Restriction
		then.Address, then.Telecoms, then.Practice, then.Area = nil, nil, nil, nil
	}
	for _, n := range now.NhsNumbers {
		if n.State != personv1.NhsNumberState_NHS_NUMBER_STATE_ENTERED_IN_ERROR {
			continue
		}
		for i, earlier := range then.NhsNumbers {
			if earlier.RecordId != n.RecordId {
				continue
			}
			if then.NhsNumber == earlier.NhsNumber {
				then.NhsNumber = ""
			}
			then.NhsNumbers[i] = n
		}
	}
}

// FindPerson reads the log itself, which is never behind a receipt.
func (s *service) FindPerson(ctx context.Context, req *personv1.FindPersonRequest) (*personv1.PersonReply, error) {
	number, err := nhs.ParseNumber(req.NhsNumber)
	if err != nil {
		return nil, fault.Invalid("person.nhs_number.invalid", "nhs_number", nhs.ErrNumber.Error())
	}
	return reply(s.find(ctx, number))
}

func (s *service) CheckIdentity(ctx context.Context, req *personv1.CheckIdentityRequest) (*personv1.CheckIdentityReply, error) {
	number, err := parseNumber("nhs_number", req.NhsNumber)
	if err != nil {
		return nil, err
	}
	st, err := s.resolve(ctx, strings.ToLower(req.PersonId))
	if err != nil {
		return nil, err
	}
	out := &personv1.CheckIdentityReply{PersonId: st.Value.ID}
	if !number.IsZero() {
		holder, err := s.find(ctx, number)
		if err != nil && !fault.IsAnswer(err) {
			return nil, err
		}
		out.NhsNumberAgrees = err == nil && holder.Value.ID == st.Value.ID
	}
	born, family := st.Value.Demographics.agree(req.BirthDate, req.FamilyName)
	out.BirthDateAgrees, out.FamilyNameAgrees = born == same, family == same
	if !twoOfThree(out.NhsNumberAgrees, out.BirthDateAgrees, out.FamilyNameAgrees) {
		return nil, errMismatch()
	}
	return out, nil
}

func (s *service) ListReviews(ctx context.Context, req *personv1.ListReviewsRequest) (*personv1.ListReviewsReply, error) {
	var after es.Position
	if req.PageToken != "" {
		n, err := strconv.ParseUint(req.PageToken, 36, 64)
		if err != nil {
			return nil, fault.Invalid("person.page_token.invalid", "page_token", "must be next_page_token of a reply")
		}
		after = es.Position(n)
	}
	if err := s.queue.Wait(ctx, es.Position(req.MinPosition)); err != nil {
		return nil, err
	}
	size := int(req.PageSize)
	if size == 0 {
		size = 50
	}
	return s.queue.list(req.Kind, after, min(size, 500)), nil
}

// do runs a command that one person's stream decides.
func (s *service) do(ctx context.Context, personID string, req es.Request, cmd decision) (*personv1.PersonReply, error) {
	return reply(s.people.Do(ctx, strings.ToLower(personID), req, cmd.Decide))
}

// doClaiming runs a command that may need an NHS number claimed for the person
// first. It decides before it claims, so that a refusal leaves no claim behind.
func (s *service) doClaiming(ctx context.Context, personID string, req es.Request, number nhs.Number, cmd func(holder string) decision) (*personv1.PersonReply, error) {
	personID = strings.ToLower(personID)
	st, err := s.people.Do(ctx, personID, req, cmd("").Decide)
	if errors.Is(err, errUnclaimed) {
		var holder string
		if holder, err = s.claim(ctx, number, req, personID); err == nil {
			st, err = s.people.Do(ctx, personID, req, cmd(holder).Decide)
		}
	}
	return reply(st, err)
}

// claim claims number for a person and returns who holds it, who may be another.
func (s *service) claim(ctx context.Context, number nhs.Number, req es.Request, personID string) (string, error) {
	own := proto.Clone(req).(es.Request)
	own.GetCommand().CommandId = derive(req.GetCommand(), "claim")
	st, err := s.identities.Do(ctx, identityID(s.key, number), own, claim{PersonID: personID}.Decide)
	return st.Value.PersonID, err
}

// release gives back the numbers that were recorded for a person by mistake. The
// reaction to the event does the same, in case the call does not get here.
func (s *service) release(ctx context.Context, because cause, personID string) error {
	st, err := s.people.Load(ctx, personID)
	if err != nil {
		return err
	}
	for _, h := range st.Value.Numbers.History {
		if h.State != personv1.NhsNumberState_NHS_NUMBER_STATE_ENTERED_IN_ERROR || st.Value.Numbers.holds(h.Number) {
			continue
		}
		step := &personv1.ChangeIdentifierRequest{Command: because.command("release", h.RecordID), PersonId: personID}
		if _, err := s.identities.Do(ctx, identityID(s.key, h.Number), step, release{PersonID: personID}.Decide); err != nil {
			return err
		}
	}
	return nil
}

// find returns the person who holds or held a number, or who survived them.
func (s *service) find(ctx context.Context, number nhs.Number) (es.State[state], error) {
	claimed, err := s.identities.Load(ctx, identityID(s.key, number))
	if err != nil {
		return es.State[state]{}, err
	}
	unknown := fault.NotFound("person.unknown", "no person holds this NHS number: register the person first")
	if claimed.Value.PersonID == "" {
		return es.State[state]{}, unknown
	}
	st, err := s.people.Load(ctx, claimed.Value.PersonID)
	switch {
	case err != nil:
		return st, err
	case !st.Value.Numbers.holds(number): // a registration or a change that was not completed yet
		return st, unknown
	}
	return s.resolve(ctx, st.Value.ID)
}

// mostMerges bounds how many merges in a row a query follows.
const mostMerges = 100

// resolve returns the person, or the one into whom they were merged. A merge
// counts from the survivor's answer.
func (s *service) resolve(ctx context.Context, id string) (es.State[state], error) {
	st, err := s.people.Load(ctx, id)
	for range mostMerges {
		if err != nil {
			return st, err
		}
		if st.Value.ID == "" {
			return st, fault.NotFound("person.unknown", "no person has this id: register the person first")
		}
		into := st.Value.Merges.get(st.Value.Merges.Into)
		if into.ID == "" {
			return st, nil
		}
		var survivor es.State[state]
		survivor, err = s.people.Load(ctx, into.Surviving)
		if err == nil && survivor.Value.Merges.get(into.ID).State != personv1.MergeState_MERGE_STATE_MERGED {
			return st, nil
		}
		st = survivor
	}
	return st, fmt.Errorf("person: more than %d merges in a row", mostMerges)
}

// sane refuses a source whose clock runs ahead: its next messages, and all the
// right ones, would count as outdated.
func (s *service) sane(source *personv1.Source) error {
	const tolerance = time.Hour
	if source.GetSentAt().AsTime().After(s.clock().Add(tolerance)) {
		return fault.Invalid("person.source.future", "source.sent_at", "must not be in the future")
	}
	return nil
}

func (s *service) today() nhs.Date { return nhs.DateOf(s.clock()) }

// date parses a field that the contract has validated; empty is no date.
func date(text string) nhs.Date {
	d, _ := nhs.ParseDate(text)
	return d
}

// derive makes an id that a repeat of the command makes again.
func derive(cmd *metav1.Command, name string) string {
	id, _ := uuid.Parse(cmd.GetCommandId()) // validated by the contract, and again by es
	return uuid.NewSHA1(id, []byte(name)).String()
}

// users are the people behind a command: who acts and for whom.
func users(cmd *metav1.Command) []string {
	a := cmd.GetActor()
	if a.GetOnBehalfOf() == "" {
		return []string{a.GetUser()}
	}
	return []string{a.GetUser(), a.GetOnBehalfOf()}
}

func reply(st es.State[state], err error) (*personv1.PersonReply, error) {
	if err != nil {
		return nil, err
	}
	return &personv1.PersonReply{Person: st.Value.view(), Receipt: st.Receipt()}, nil
}

func mergeReply(st es.State[state], mergeID string, err error) (*personv1.MergeReply, error) {
	if err != nil {
		return nil, err
	}
	return &personv1.MergeReply{Person: st.Value.view(), Receipt: st.Receipt(), Merge: st.Value.Merges.get(mergeID).view()}, nil
}

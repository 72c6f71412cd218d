package referral

import (
	"encoding/base32"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// Referrals is the fold of a referral stream: every referral and every offer of
// services on one pathway, oldest first. Messages in it are shared and never
// changed; their owner and FHIR statuses are filled in by Message.
type Referrals struct {
	referrals []*pb.Referral
	offers    []*pb.ServiceOffer
}

// row is what BaRS and we say of a state (BaRS Core 1.5.0).
type row struct {
	serviceRequest string // ServiceRequest.status
	task           string // Task.status, "" for none
	message        string // message by which the state travels
	owner          pb.OwnerSide
}

// states is the BaRS table. The owner is who must act; a rejected referral and
// one that was not attended are back with the sender, whose they stay until the
// sender cancels or replaces them.
var states = map[pb.ReferralState]row{
	draft:          {"draft", "", "", nobody},
	sent:           {"active", "requested", "servicerequest-request, reason new", sender},
	received:       {"active", "received", "synchronous 200", receiver},
	accepted:       {"active", "accepted", "servicerequest-response", receiver},
	rejected:       {"revoked", "rejected", "servicerequest-response with rejected-reasons-bars", sender},
	inProgress:     {"active", "in-progress", "servicerequest-response, reason update", receiver},
	onHold:         {"on-hold", "on-hold", "", receiver},
	cancelled:      {"revoked", "cancelled", "servicerequest-request, reason update, after a GET", nobody},
	enteredInError: {"entered-in-error", "cancelled", "servicerequest-request, reason update, after a GET", nobody},
	completed:      {"completed", "completed", "servicerequest-response", nobody},
	notAttended:    {"revoked", "failed", "servicerequest-response, reason new", sender},
	redirected:     {"revoked", "cancelled", "servicerequest-response, reason update", nobody},
}

// Short names of the contract's states.
const (
	draft          = pb.ReferralState_REFERRAL_STATE_DRAFT
	sent           = pb.ReferralState_REFERRAL_STATE_SENT
	received       = pb.ReferralState_REFERRAL_STATE_RECEIVED
	accepted       = pb.ReferralState_REFERRAL_STATE_ACCEPTED
	rejected       = pb.ReferralState_REFERRAL_STATE_REJECTED
	inProgress     = pb.ReferralState_REFERRAL_STATE_IN_PROGRESS
	onHold         = pb.ReferralState_REFERRAL_STATE_ON_HOLD
	cancelled      = pb.ReferralState_REFERRAL_STATE_CANCELLED
	enteredInError = pb.ReferralState_REFERRAL_STATE_ENTERED_IN_ERROR
	completed      = pb.ReferralState_REFERRAL_STATE_COMPLETED
	notAttended    = pb.ReferralState_REFERRAL_STATE_NOT_ATTENDED
	redirected     = pb.ReferralState_REFERRAL_STATE_REDIRECTED

	nobody   = pb.OwnerSide_OWNER_SIDE_UNSPECIFIED
	sender   = pb.OwnerSide_OWNER_SIDE_SENDER
	receiver = pb.OwnerSide_OWNER_SIDE_RECEIVER
)

// kinds holds what differs between kinds of referral. The use cases are local
// codes: BaRS has none for cancer care.
var kinds = map[pb.ReferralKind]struct {
	useCase      string
	snomed       string // default reason code
	needsConsent bool   // nothing is sent without recorded consent
	programme    bool   // enrols into a programme
}{
	pb.ReferralKind_REFERRAL_KIND_SUSPECTED_CANCER:        {useCase: "waymark-usc"},
	pb.ReferralKind_REFERRAL_KIND_CONSULTANT_UPGRADE:      {useCase: "waymark-upgrade"},
	pb.ReferralKind_REFERRAL_KIND_INTER_PROVIDER_TRANSFER: {useCase: "waymark-ipt"},
	pb.ReferralKind_REFERRAL_KIND_ALLIED_HEALTH:           {useCase: "waymark-ahp"},
	pb.ReferralKind_REFERRAL_KIND_PSYCHOLOGY:              {useCase: "waymark-psychology"},
	pb.ReferralKind_REFERRAL_KIND_SOCIAL_PRESCRIBING:      {useCase: "waymark-social-prescribing", snomed: "871731000000106"},
	pb.ReferralKind_REFERRAL_KIND_CHARITY:                 {useCase: "waymark-charity", needsConsent: true},
	pb.ReferralKind_REFERRAL_KIND_PREHABILITATION:         {useCase: "waymark-prehab", programme: true},
	pb.ReferralKind_REFERRAL_KIND_PALLIATIVE_CARE:         {useCase: "waymark-palliative"},
	pb.ReferralKind_REFERRAL_KIND_CARE_LEAD:               {useCase: "waymark-care-lead"},
	pb.ReferralKind_REFERRAL_KIND_SUPPORT_PROGRAMME:       {useCase: "waymark-programme", programme: true},
}

// respondWithin is when silence becomes the sender's business, unless the sender
// says otherwise. No national value exists.
const respondWithin = 48 * time.Hour

// referralDecider folds streams "referral-<pathway id>".
func referralDecider() es.Decider[Referrals] {
	return es.Decider[Referrals]{Category: "referral", Evolve: EvolveReferrals}
}

// EvolveReferrals applies one event.
func EvolveReferrals(s Referrals, event proto.Message) Referrals {
	switch e := event.(type) {
	case *pb.ReferralDrafted:
		s.referrals = append(slices.Clip(s.referrals), &pb.Referral{ReferralId: e.ReferralId, HumanId: e.HumanId, Content: e.Content, State: draft, Version: 1})
		return s
	case *pb.ReferralSent:
		return s.change(e, func(r *pb.Referral) {
			r.State, r.SentAt, r.RespondBy, r.TraceStatus = sent, e.SentAt, e.RespondBy, e.TraceStatus
		})
	case *pb.ReferralReceived:
		return s.change(e, func(r *pb.Referral) {
			r.State, r.ReceiverReference, r.Unacknowledged = received, e.ReceiverReference, false
		})
	case *pb.ReferralAccepted:
		return s.change(e, func(r *pb.Referral) { r.State, r.Unacknowledged = accepted, false })
	case *pb.ReferralRejected:
		return s.change(e, func(r *pb.Referral) {
			r.State, r.RejectionReason, r.Unacknowledged = rejected, e.RejectionReason, false
		})
	case *pb.ReferralRedirected:
		return s.change(e, func(r *pb.Referral) {
			r.State, r.ReplacedBy, r.PatientToldBy, r.Unacknowledged = redirected, e.OnwardReferralId, e.PatientToldBy, false
		})
	case *pb.ReferralBegun:
		return s.change(e, func(r *pb.Referral) { r.State = inProgress })
	case *pb.ReferralHeld:
		return s.change(e, func(r *pb.Referral) { r.State = onHold })
	case *pb.ReferralResumed:
		return s.change(e, func(r *pb.Referral) { r.State = inProgress })
	case *pb.ReferralCancelled:
		return s.change(e, func(r *pb.Referral) {
			r.State, r.CancelReason, r.PatientToldBy, r.ReplacedBy = cancelled, e.CancelReason, e.PatientToldBy, e.ReplacedBy
			if e.CancelReason == pb.CancelReason_CANCEL_REASON_ENTERED_IN_ERROR {
				r.State = enteredInError
			}
		})
	case *pb.ReferralCompleted:
		return s.change(e, func(r *pb.Referral) { r.State, r.Completion = completed, e.Completion })
	case *pb.ReferralNotAttended:
		return s.change(e, func(r *pb.Referral) { r.State = notAttended })
	case *pb.ReferralUnacknowledged:
		return s.change(e, func(r *pb.Referral) { r.Unacknowledged = true })
	case *pb.ProgrammeOffered:
		return s.change(e, func(r *pb.Referral) {
			r.Enrolment = &pb.Enrolment{State: pb.EnrolmentState_ENROLMENT_STATE_OFFERED, Programme: e.Programme, StartsOn: e.StartsOn}
		})
	case *pb.ProgrammeAccepted:
		return s.change(e, func(r *pb.Referral) { r.Enrolment.State = pb.EnrolmentState_ENROLMENT_STATE_ACCEPTED })
	case *pb.ProgrammeDeclined:
		return s.change(e, func(r *pb.Referral) { r.Enrolment.State = pb.EnrolmentState_ENROLMENT_STATE_DECLINED })
	case *pb.ProgrammeAttended:
		return s.change(e, func(r *pb.Referral) {
			r.Enrolment.State = pb.EnrolmentState_ENROLMENT_STATE_ATTENDING
			r.Enrolment.AttendedOn = append(r.Enrolment.AttendedOn, e.On)
		})
	case *pb.ProgrammeCompleted:
		return s.change(e, func(r *pb.Referral) { r.Enrolment.State = pb.EnrolmentState_ENROLMENT_STATE_COMPLETED })
	case *pb.ProgrammeDroppedOut:
		return s.change(e, func(r *pb.Referral) { r.Enrolment.State = pb.EnrolmentState_ENROLMENT_STATE_DROPPED_OUT })
	case *pb.ServicesOffered:
		state := pb.OfferState_OFFER_STATE_OPEN
		if len(e.Services) == 0 {
			state = pb.OfferState_OFFER_STATE_NOTHING_FOUND
		}
		s.offers = append(slices.Clip(s.offers), &pb.ServiceOffer{OfferId: e.OfferId, State: state, Services: e.Services, Basis: e.Basis})
		return s
	case *pb.OfferAccepted:
		return s.changeOffer(e.OfferId, func(o *pb.ServiceOffer) {
			o.State, o.AcceptedServiceId, o.Consent, o.ReferralId = pb.OfferState_OFFER_STATE_ACCEPTED, e.ServiceId, e.Consent, e.ReferralId
		})
	case *pb.OfferDeclined:
		return s.changeOffer(e.OfferId, func(o *pb.ServiceOffer) { o.State = pb.OfferState_OFFER_STATE_DECLINED })
	default:
		panic(es.Unhandled(event))
	}
}

// change replaces the referral that e names by a changed copy.
func (s Referrals) change(e interface{ GetReferralId() string }, edit func(*pb.Referral)) Referrals {
	if i := s.index(e.GetReferralId()); i >= 0 {
		r := proto.CloneOf(s.referrals[i])
		edit(r)
		r.Version++
		s.referrals = slices.Clone(s.referrals)
		s.referrals[i] = r
	}
	return s
}

func (s Referrals) index(id string) int {
	return slices.IndexFunc(s.referrals, func(r *pb.Referral) bool { return sameID(r.ReferralId, id) })
}

// Referral returns one referral, nil when there is none with the id.
func (s Referrals) Referral(id string) *pb.Referral {
	if i := s.index(id); i >= 0 {
		return s.referrals[i]
	}
	return nil
}

// Message returns a referral as the contract shows it, nil for nil.
func Message(r *pb.Referral, pathwayID string) *pb.Referral {
	if r == nil {
		return nil
	}
	r = proto.CloneOf(r)
	state := states[r.State]
	r.PathwayId, r.ServiceRequestStatus, r.TaskStatus, r.Owner = pathwayID, state.serviceRequest, state.task, owner(r.Content, r.State)
	return r
}

// owner is who must act on a referral in a state, nil for nobody.
func owner(c *pb.ReferralContent, state pb.ReferralState) *pb.Owner {
	switch side := states[state].owner; side {
	case sender:
		return &pb.Owner{Side: side, Organisation: c.GetRequester().GetOrganisation()}
	case receiver:
		return &pb.Owner{Side: side, Organisation: c.GetTarget().GetOrganisation(), ServiceId: c.GetTarget().GetServiceId()}
	}
	return nil
}

// at returns a referral that stands in one of the states, at the version seen
// (0 for nobody looked).
func (s Referrals) at(id string, seen int64, in ...pb.ReferralState) (*pb.Referral, error) {
	r := s.Referral(id)
	switch {
	case r == nil:
		return nil, errNoReferral
	case seen != 0 && seen != r.Version:
		return nil, fault.Refused("referral.stale", "the referral has changed since it was read: read it again and decide anew")
	case !slices.Contains(in, r.State):
		return nil, fault.Refused("referral.not_active", "the referral is "+states[r.State].describe()+": this step is not open")
	}
	return r, nil
}

func (r row) describe() string {
	if r.task == "" {
		return r.serviceRequest
	}
	return r.task
}

// DraftReferral writes a referral down.
type DraftReferral struct {
	*pb.DraftReferralRequest
	CommandID uuid.UUID
	Today     nhs.Date // in England
}

// Decide refuses referral.exists, referral.contact_rank and a consent that was
// not yet given.
func (c DraftReferral) Decide(s Referrals) ([]proto.Message, error) {
	id := c.ReferralId
	if id == "" {
		id = referralID(c.CommandID)
	}
	if s.Referral(id) != nil {
		return nil, fault.Exists("referral.exists", "the referral is there already")
	}
	if err := ranked(c.Content.Contacts, "content.contacts"); err != nil {
		return nil, err
	}
	if err := past(c.Content.ProtoReflect(), c.Today, "content"); err != nil {
		return nil, err
	}
	if id := c.Content.Replaces; id != "" && s.Referral(id) == nil {
		return nil, fault.NotFound("referral.not_found", "the referral to be replaced is not on this pathway")
	}
	return events(drafted(id, c.Content))
}

// drafted fills in what the kind says, where the sender says nothing.
func drafted(id string, content *pb.ReferralContent) *pb.ReferralDrafted {
	content = proto.CloneOf(content)
	kind := kinds[content.Kind]
	content.UseCase, content.ReasonCode = or(content.UseCase, kind.useCase), or(content.ReasonCode, kind.snomed)
	return &pb.ReferralDrafted{ReferralId: id, HumanId: humanID(id), Content: content}
}

// referralID is the id of the referral that a command drafts.
func referralID(command uuid.UUID) string {
	return uuid.NewSHA1(command, []byte("referral")).String()
}

// humanID is what people read out to each other: eight letters and digits without
// I, L, O and U. It helps to find a referral; it does not identify one.
func humanID(id string) string {
	u, err := uuid.Parse(id)
	if err != nil {
		return ""
	}
	sum := uuid.NewSHA1(u, []byte("human"))
	text := base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").EncodeToString(sum[:5])
	return "R-" + text[:4] + "-" + text[4:]
}

// ranked wants unique ranks and exactly one 1, among contacts and among the
// methods of each.
func ranked(contacts []*pb.Contact, path string) error {
	if len(contacts) == 0 {
		return nil
	}
	bad := func(where, what string) error {
		return fault.Invalid("referral.contact_rank", where, what+" need unique ranks and exactly one rank 1")
	}
	var ranks []uint32
	for _, c := range contacts {
		ranks = append(ranks, c.Rank)
		var methods []uint32
		for _, m := range c.Methods {
			methods = append(methods, m.Rank)
		}
		if !oneFirst(methods) {
			return bad(path+".methods", "the methods of a contact")
		}
	}
	if !oneFirst(ranks) {
		return bad(path, "contacts")
	}
	return nil
}

func oneFirst(ranks []uint32) bool {
	slices.Sort(ranks)
	return len(slices.Compact(slices.Clone(ranks))) == len(ranks) && len(ranks) > 0 && ranks[0] == 1
}

// SendReferral sends a draft.
type SendReferral struct {
	*pb.SendReferralRequest
	Now     time.Time
	Service *pb.Service // the target in the directory; nil when it names none
}

// Decide refuses referral.no_target_endpoint, referral.nhs_number_status,
// referral.no_consent and a draft that lacks what sending needs. The referral
// that this one replaces is cancelled before it is sent.
func (c SendReferral) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.at(c.ReferralId, c.SeenVersion, draft)
	if err != nil {
		return nil, err
	}
	send, err := sending(r.ReferralId, r.Content, c.Service, c.NhsNumberStatus, c.Now)
	if err != nil {
		return nil, err
	}
	if c.RespondBy != nil {
		if c.RespondBy.AsTime().Before(c.Now) {
			return nil, fault.Invalid("referral.respond_by", "respond_by", "must lie ahead")
		}
		send.RespondBy = c.RespondBy
	}
	var out []proto.Message
	if first := s.Referral(r.Content.Replaces); first != nil && !terminal(first.State) {
		out = append(out, &pb.ReferralCancelled{ReferralId: first.ReferralId, CancelReason: pb.CancelReason_CANCEL_REASON_REPLACED,
			PatientToldBy: first.Content.Requester.Organisation, ReplacedBy: r.ReferralId})
	}
	return append(out, send), nil
}

// terminal reports whether nothing more can happen to a referral.
func terminal(state pb.ReferralState) bool {
	return state != draft && states[state].owner == nobody
}

// sending checks what a referral needs to leave.
func sending(id string, c *pb.ReferralContent, service *pb.Service, trace string, now time.Time) (*pb.ReferralSent, error) {
	t := c.Target
	endpoint := or(t.GetEndpoint(), service.GetDetails().GetEndpoint())
	byWire := t.GetChannel() != pb.Channel_CHANNEL_MANUAL
	needsConsent := kinds[c.Kind].needsConsent || service.GetDetails().GetKind() == pb.ServiceKind_SERVICE_KIND_CHARITY
	switch {
	case t == nil:
		return nil, fault.Refused("referral.no_target_endpoint", "the referral names nobody to go to: draft it with a target")
	case t.ServiceId != "" && service == nil:
		return nil, fault.Refused("referral.no_target_endpoint", "the directory has no such service")
	case service.GetRetired():
		return nil, fault.Refused("referral.no_target_endpoint", "the service was retired from the directory")
	case byWire && endpoint == "":
		return nil, fault.Refused("referral.no_target_endpoint", "neither the referral nor the directory has an endpoint: add one, or send by hand")
	case t.Channel == pb.Channel_CHANNEL_BARS && trace != "01" && trace != "02",
		t.Channel == pb.Channel_CHANNEL_ERS && trace != "01":
		return nil, fault.Refused("referral.nhs_number_status", "trace the NHS number first: BaRS takes status 01 and 02, e-RS 01 only")
	case needsConsent && c.Consent == nil:
		return nil, fault.Refused("referral.no_consent", "nothing goes to a charity without the patient's recorded consent")
	case len(c.Contacts) == 0:
		return nil, fault.Refused("referral.contact_rank", "the referral names nobody to contact: one contact of rank 1 is needed")
	}
	if !byWire {
		endpoint = ""
	}
	return &pb.ReferralSent{ReferralId: id, SentAt: timestamppb.New(now), RespondBy: timestamppb.New(now.Add(respondWithin)),
		Endpoint: endpoint, TraceStatus: trace, Owner: owner(c, sent)}, nil
}

// AcknowledgeReceipt makes the receiver the one who must act.
type AcknowledgeReceipt struct{ *pb.AcknowledgeReceiptRequest }

// Decide refuses a referral that is not on its way.
func (c AcknowledgeReceipt) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.at(c.ReferralId, 0, sent)
	if err != nil {
		return nil, err
	}
	return events(&pb.ReferralReceived{ReferralId: r.ReferralId, ReceiverReference: c.ReceiverReference, Owner: owner(r.Content, received)})
}

// AcceptReferral takes a referral on; it implies receipt.
type AcceptReferral struct{ *pb.AcceptReferralRequest }

// Decide refuses a referral that is not with the receiver to decide.
func (c AcceptReferral) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.at(c.ReferralId, c.SeenVersion, sent, received)
	if err != nil {
		return nil, err
	}
	return events(&pb.ReferralAccepted{ReferralId: r.ReferralId, Owner: owner(r.Content, accepted)})
}

// RejectReferral gives a referral back to its sender.
type RejectReferral struct{ *pb.RejectReferralRequest }

// Decide refuses a referral that is not with the receiver to decide.
func (c RejectReferral) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.at(c.ReferralId, c.SeenVersion, sent, received)
	if err != nil {
		return nil, err
	}
	return events(&pb.ReferralRejected{ReferralId: r.ReferralId, RejectionReason: c.RejectionReason, Note: c.Note, Owner: owner(r.Content, rejected)})
}

// RedirectReferral sends a referral on to another service, in one append, so that
// nobody holds it in between.
type RedirectReferral struct {
	*pb.RedirectReferralRequest
	CommandID uuid.UUID
	Now       time.Time
	Service   *pb.Service // the new target in the directory; nil when it names none
}

// Decide refuses what SendReferral refuses of the onward referral.
func (c RedirectReferral) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.at(c.ReferralId, c.SeenVersion, sent, received, accepted)
	if err != nil {
		return nil, err
	}
	id := or(c.OnwardReferralId, referralID(c.CommandID))
	if s.Referral(id) != nil {
		return nil, fault.Exists("referral.exists", "the onward referral is there already")
	}
	content := proto.CloneOf(r.Content)
	content.Target, content.Replaces = c.Target, r.ReferralId
	send, err := sending(id, content, c.Service, r.TraceStatus, c.Now)
	if err != nil {
		return nil, err
	}
	return events(
		&pb.ReferralRedirected{ReferralId: r.ReferralId, OnwardReferralId: id, Target: c.Target, Note: c.Note, PatientToldBy: r.Content.Requester.Organisation},
		drafted(id, content), send)
}

// BeginReferral records that the work has begun.
type BeginReferral struct{ *pb.BeginReferralRequest }

// Decide refuses a referral that was not accepted.
func (c BeginReferral) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.at(c.ReferralId, 0, accepted)
	if err != nil {
		return nil, err
	}
	return events(&pb.ReferralBegun{ReferralId: r.ReferralId})
}

// HoldReferral lets the work rest.
type HoldReferral struct{ *pb.HoldReferralRequest }

// Decide refuses a referral that nobody works on.
func (c HoldReferral) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.at(c.ReferralId, 0, accepted, inProgress)
	if err != nil {
		return nil, err
	}
	return events(&pb.ReferralHeld{ReferralId: r.ReferralId, Note: c.Note})
}

// ResumeReferral takes the work up again.
type ResumeReferral struct{ *pb.ResumeReferralRequest }

// Decide refuses a referral that is not on hold.
func (c ResumeReferral) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.at(c.ReferralId, 0, onHold)
	if err != nil {
		return nil, err
	}
	return events(&pb.ReferralResumed{ReferralId: r.ReferralId})
}

// CancelReferral takes a referral back. The sender tells the patient.
type CancelReferral struct{ *pb.CancelReferralRequest }

// Decide refuses a referral that has ended.
func (c CancelReferral) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.at(c.ReferralId, c.SeenVersion, draft, sent, received, accepted, rejected, inProgress, onHold, notAttended)
	if err != nil {
		return nil, err
	}
	return events(&pb.ReferralCancelled{ReferralId: r.ReferralId, CancelReason: c.CancelReason, Note: c.Note,
		PatientToldBy: r.Content.Requester.Organisation})
}

// CompleteReferral ends a referral well.
type CompleteReferral struct{ *pb.CompleteReferralRequest }

// Decide refuses a referral that nobody works on, and one whose programme is
// still under way.
func (c CompleteReferral) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.at(c.ReferralId, c.SeenVersion, accepted, inProgress)
	if err != nil {
		return nil, err
	}
	if r.Enrolment != nil {
		return nil, fault.Refused("referral.programme_open", "the patient is enrolled: complete the programme, or record that they dropped out")
	}
	return events(&pb.ReferralCompleted{ReferralId: r.ReferralId, Completion: pb.Completion_COMPLETION_DONE, Note: c.Note})
}

// RecordNotAttended gives a referral back to the sender: the patient did not come.
type RecordNotAttended struct {
	*pb.RecordNotAttendedRequest
	Today nhs.Date // in England
}

// Decide refuses a referral that nobody works on and a date in the future.
func (c RecordNotAttended) Decide(s Referrals) ([]proto.Message, error) {
	r, err := s.at(c.ReferralId, 0, accepted, inProgress)
	if err != nil {
		return nil, err
	}
	if err := happened(c.On, c.Today); err != nil {
		return nil, err
	}
	return events(&pb.ReferralNotAttended{ReferralId: r.ReferralId, On: c.On, Owner: owner(r.Content, notAttended)})
}

// RecordNoResponse records that nobody answered in time.
type RecordNoResponse struct {
	*pb.RecordNoResponseRequest
	Now time.Time
}

// Decide records nothing before the due time, and nothing when somebody has
// answered, so that it may be asked for at any time and more than once.
func (c RecordNoResponse) Decide(s Referrals) ([]proto.Message, error) {
	r := s.Referral(c.ReferralId)
	switch {
	case r == nil:
		return nil, errNoReferral
	case r.State != sent || r.Unacknowledged || c.Now.Before(r.RespondBy.AsTime()):
		return nil, nil
	}
	return events(&pb.ReferralUnacknowledged{ReferralId: r.ReferralId, Due: r.RespondBy, Owner: owner(r.Content, sent)})
}

// happened refuses a date after today in the field "on".
func happened(on string, today nhs.Date) error {
	if on > today.String() {
		return fault.Invalid("cwt.date.in_future", "on", "has not happened yet: it is after today")
	}
	return nil
}

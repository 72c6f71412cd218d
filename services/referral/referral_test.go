package referral

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/estest"
)

// now is the clock of tests.
var now = time.Date(2026, 6, 1, 9, 0, 0, 0, time.UTC)

const (
	refID = "4f3a5a0e-5f0e-4b63-8d0b-0a2a6b1f5c01"
	newID = "4f3a5a0e-5f0e-4b63-8d0b-0a2a6b1f5c02"
	svcID = "4f3a5a0e-5f0e-4b63-8d0b-0a2a6b1f5c03"
)

func content(edit ...func(*pb.ReferralContent)) *pb.ReferralContent {
	c := &pb.ReferralContent{
		Kind:      pb.ReferralKind_REFERRAL_KIND_ALLIED_HEALTH,
		Requester: &pb.Practitioner{User: "U1", RoleCode: "R0600", Organisation: "RJ1"},
		Target:    &pb.Target{Organisation: "RJ2", Endpoint: "https://rj2.example/bars", Channel: pb.Channel_CHANNEL_BARS},
		Priority:  pb.ReferralPriority_REFERRAL_PRIORITY_ROUTINE,
		Contacts:  []*pb.Contact{contact(1)},
	}
	for _, e := range edit {
		e(c)
	}
	return c
}

func contact(rank uint32, methods ...uint32) *pb.Contact {
	if methods == nil {
		methods = []uint32{1}
	}
	c := &pb.Contact{Rank: rank, Kind: pb.ContactKind_CONTACT_KIND_PATIENT}
	for _, m := range methods {
		c.Methods = append(c.Methods, &pb.ContactMethod{Rank: m, System: pb.ContactSystem_CONTACT_SYSTEM_PHONE, Value: "07700 900000"})
	}
	return c
}

func kind(k pb.ReferralKind) func(*pb.ReferralContent) {
	return func(c *pb.ReferralContent) { c.Kind = k }
}

func replaces(c *pb.ReferralContent) { c.Replaces = refID }

var consent = &pb.Consent{On: "2026-05-30", Method: pb.ConsentMethod_CONSENT_METHOD_SPOKEN, RecordedBy: &pb.Practitioner{User: "U1", Organisation: "RJ1"}}

// to gives the events that bring a referral into a state.
func to(state pb.ReferralState, id string, edit ...func(*pb.ReferralContent)) []proto.Message {
	c := content(edit...)
	out := []proto.Message{drafted(id, c)}
	step := func(e proto.Message) { out = append(out, e) }
	send := &pb.ReferralSent{ReferralId: id, SentAt: timestamppb.New(now), RespondBy: timestamppb.New(now.Add(respondWithin)),
		Endpoint: c.Target.GetEndpoint(), TraceStatus: "01", Owner: owner(c, sent)}
	switch state {
	case draft:
		return out
	case sent:
		step(send)
	case received:
		step(send)
		step(&pb.ReferralReceived{ReferralId: id})
	case rejected:
		step(send)
		step(&pb.ReferralRejected{ReferralId: id, RejectionReason: "22"})
	case cancelled, enteredInError:
		step(send)
		reason := pb.CancelReason_CANCEL_REASON_NO_LONGER_NEEDED
		if state == enteredInError {
			reason = pb.CancelReason_CANCEL_REASON_ENTERED_IN_ERROR
		}
		step(&pb.ReferralCancelled{ReferralId: id, CancelReason: reason})
	case redirected:
		step(send)
		step(&pb.ReferralRedirected{ReferralId: id})
	default:
		step(send)
		step(&pb.ReferralAccepted{ReferralId: id})
		switch state {
		case inProgress:
			step(&pb.ReferralBegun{ReferralId: id})
		case onHold:
			step(&pb.ReferralHeld{ReferralId: id})
		case completed:
			step(&pb.ReferralCompleted{ReferralId: id, Completion: pb.Completion_COMPLETION_DONE})
		case notAttended:
			step(&pb.ReferralNotAttended{ReferralId: id, On: "2026-05-30"})
		}
	}
	return out
}

func given(events ...proto.Message) estest.Scenario[Referrals] {
	return estest.Given(referralDecider(), events...)
}

// TestStates is the BaRS table of the domain reference (BaRS Core 1.5.0).
func TestStates(t *testing.T) {
	t.Parallel()
	want := map[pb.ReferralState][3]string{ // ServiceRequest.status, Task.status, who must act
		draft: {"draft", "", ""}, sent: {"active", "requested", "RJ1"}, received: {"active", "received", "RJ2"},
		accepted: {"active", "accepted", "RJ2"}, rejected: {"revoked", "rejected", "RJ1"}, inProgress: {"active", "in-progress", "RJ2"},
		onHold: {"on-hold", "on-hold", "RJ2"}, cancelled: {"revoked", "cancelled", ""}, enteredInError: {"entered-in-error", "cancelled", ""},
		completed: {"completed", "completed", ""}, notAttended: {"revoked", "failed", "RJ1"}, redirected: {"revoked", "cancelled", ""},
	}
	for n, name := range pb.ReferralState_name {
		state := pb.ReferralState(n)
		if n == 0 {
			continue
		}
		r := Message(given(to(state, refID)...).State(t).Referral(refID), "p")
		got := [3]string{r.ServiceRequestStatus, r.TaskStatus, r.Owner.GetOrganisation()}
		if r.State != state || got != want[state] {
			t.Errorf("%s: %v %v, want %v", name, r.State, got, want[state])
		}
		if r.HumanId == "" || r.Version != int64(len(to(state, refID))) {
			t.Errorf("%s: human id %q, version %d", name, r.HumanId, r.Version)
		}
	}
	if len(states) != len(want) {
		t.Errorf("%d states in the table, want %d", len(states), len(want))
	}
	for n, name := range pb.ReferralKind_name {
		if _, ok := kinds[pb.ReferralKind(n)]; !ok && n != 0 {
			t.Errorf("%s is in no table", name)
		}
	}
}

// step is a command with the states that take it.
type step struct {
	name   string
	decide func(Referrals) ([]proto.Message, error)
	from   []pb.ReferralState
	want   []proto.Message
}

func steps() []step {
	rj1 := &pb.Owner{Side: sender, Organisation: "RJ1"}
	rj2 := &pb.Owner{Side: receiver, Organisation: "RJ2"}
	sentAt, due := timestamppb.New(now), timestamppb.New(now.Add(48*time.Hour))
	target := &pb.Target{Organisation: "RJ3", Endpoint: "https://rj3.example/bars", Channel: pb.Channel_CHANNEL_BARS}
	onward := content(func(c *pb.ReferralContent) { c.Target, c.Replaces = target, refID })
	return []step{
		{"send", SendReferral{&pb.SendReferralRequest{ReferralId: refID, NhsNumberStatus: "01"}, now, nil}.Decide, []pb.ReferralState{draft},
			[]proto.Message{&pb.ReferralSent{ReferralId: refID, SentAt: sentAt, RespondBy: due, Endpoint: "https://rj2.example/bars", TraceStatus: "01", Owner: rj1}}},
		{"acknowledge", AcknowledgeReceipt{&pb.AcknowledgeReceiptRequest{ReferralId: refID, ReceiverReference: "X1"}}.Decide, []pb.ReferralState{sent},
			[]proto.Message{&pb.ReferralReceived{ReferralId: refID, ReceiverReference: "X1", Owner: rj2}}},
		{"accept", AcceptReferral{&pb.AcceptReferralRequest{ReferralId: refID}}.Decide, []pb.ReferralState{sent, received},
			[]proto.Message{&pb.ReferralAccepted{ReferralId: refID, Owner: rj2}}},
		{"reject", RejectReferral{&pb.RejectReferralRequest{ReferralId: refID, RejectionReason: "22", Note: "full"}}.Decide, []pb.ReferralState{sent, received},
			[]proto.Message{&pb.ReferralRejected{ReferralId: refID, RejectionReason: "22", Note: "full", Owner: rj1}}},
		{"redirect", RedirectReferral{&pb.RedirectReferralRequest{ReferralId: refID, OnwardReferralId: newID, Target: target}, cmd(1), now, nil}.Decide, []pb.ReferralState{sent, received, accepted},
			[]proto.Message{
				&pb.ReferralRedirected{ReferralId: refID, OnwardReferralId: newID, Target: target, PatientToldBy: "RJ1"},
				drafted(newID, onward),
				&pb.ReferralSent{ReferralId: newID, SentAt: sentAt, RespondBy: due, Endpoint: "https://rj3.example/bars", TraceStatus: "01", Owner: rj1}}},
		{"begin", BeginReferral{&pb.BeginReferralRequest{ReferralId: refID}}.Decide, []pb.ReferralState{accepted},
			[]proto.Message{&pb.ReferralBegun{ReferralId: refID}}},
		{"hold", HoldReferral{&pb.HoldReferralRequest{ReferralId: refID, Note: "unwell"}}.Decide, []pb.ReferralState{accepted, inProgress},
			[]proto.Message{&pb.ReferralHeld{ReferralId: refID, Note: "unwell"}}},
		{"resume", ResumeReferral{&pb.ResumeReferralRequest{ReferralId: refID}}.Decide, []pb.ReferralState{onHold},
			[]proto.Message{&pb.ReferralResumed{ReferralId: refID}}},
		{"cancel", CancelReferral{&pb.CancelReferralRequest{ReferralId: refID, CancelReason: pb.CancelReason_CANCEL_REASON_PATIENT_CHOICE}}.Decide,
			[]pb.ReferralState{draft, sent, received, accepted, rejected, inProgress, onHold, notAttended},
			[]proto.Message{&pb.ReferralCancelled{ReferralId: refID, CancelReason: pb.CancelReason_CANCEL_REASON_PATIENT_CHOICE, PatientToldBy: "RJ1"}}},
		{"complete", CompleteReferral{&pb.CompleteReferralRequest{ReferralId: refID, Note: "done"}}.Decide, []pb.ReferralState{accepted, inProgress},
			[]proto.Message{&pb.ReferralCompleted{ReferralId: refID, Completion: pb.Completion_COMPLETION_DONE, Note: "done"}}},
		{"not attended", RecordNotAttended{&pb.RecordNotAttendedRequest{ReferralId: refID, On: "2026-05-30"}, someday}.Decide, []pb.ReferralState{accepted, inProgress},
			[]proto.Message{&pb.ReferralNotAttended{ReferralId: refID, On: "2026-05-30", Owner: rj1}}},
	}
}

// TestSteps runs every step from every state.
func TestSteps(t *testing.T) {
	t.Parallel()
	tried := 0
	for _, s := range steps() {
		open := map[pb.ReferralState]bool{}
		for _, state := range s.from {
			open[state] = true
		}
		for state := range states {
			tried++
			t.Run(s.name+" from "+strings.ToLower(state.String()[15:]), func(t *testing.T) {
				when := given(to(state, refID)...).When(s.decide)
				if open[state] {
					when.Then(t, s.want...)
				} else {
					when.ThenRefused(t, "referral.not_active")
				}
			})
		}
		given().When(s.decide).ThenRefused(t, "referral.not_found")
	}
	t.Logf("%d steps from states tried", tried)
}

func TestDraft(t *testing.T) {
	t.Parallel()
	draftOf := func(c *pb.ReferralContent, id string) func(Referrals) ([]proto.Message, error) {
		return DraftReferral{&pb.DraftReferralRequest{ReferralId: id, Content: c}, cmd(1), someday}.Decide
	}
	given().When(draftOf(content(), refID)).Then(t, drafted(refID, content()))
	given().When(draftOf(content(), "")).Then(t, drafted(referralID(cmd(1)), content()))
	given(to(draft, refID)...).When(draftOf(content(), refID)).ThenRefused(t, "referral.exists")
	given().When(draftOf(content(replaces), newID)).ThenRefused(t, "referral.not_found")
	tomorrow := content(func(c *pb.ReferralContent) { c.Consent = proto.CloneOf(consent); c.Consent.On = "2027-01-01" })
	given().When(draftOf(tomorrow, refID)).ThenRefused(t, "cwt.date.in_future")
	for name, contacts := range map[string][]*pb.Contact{
		"no first contact":  {contact(2)},
		"two first":         {contact(1), contact(1)},
		"a rank twice":      {contact(1), contact(2), contact(2)},
		"no first method":   {contact(1, 2)},
		"a method's twice":  {contact(1, 1, 2, 2)},
		"two first methods": {contact(1, 1, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			given().When(draftOf(content(func(c *pb.ReferralContent) { c.Contacts = contacts }), refID)).ThenRefused(t, "referral.contact_rank")
		})
	}
	given().When(draftOf(content(func(c *pb.ReferralContent) { c.Contacts = []*pb.Contact{contact(3, 2, 1), contact(1)} }), refID)).
		Then(t, drafted(refID, content(func(c *pb.ReferralContent) { c.Contacts = []*pb.Contact{contact(3, 2, 1), contact(1)} })))
	social := drafted(refID, content(kind(pb.ReferralKind_REFERRAL_KIND_SOCIAL_PRESCRIBING)))
	if social.Content.ReasonCode != "871731000000106" || social.Content.UseCase == "" {
		t.Errorf("social prescribing drafted as %v", social.Content)
	}
}

func TestSendRefusals(t *testing.T) {
	t.Parallel()
	byService := func(c *pb.ReferralContent) { c.Target = &pb.Target{ServiceId: svcID, Channel: pb.Channel_CHANNEL_BARS} }
	charity := &pb.Service{ServiceId: svcID, Details: &pb.ServiceDetails{Kind: pb.ServiceKind_SERVICE_KIND_CHARITY, Name: "Hope", Endpoint: "https://hope.example"}}
	retired := proto.CloneOf(charity)
	retired.Retired = true
	channel := func(ch pb.Channel) func(*pb.ReferralContent) {
		return func(c *pb.ReferralContent) { c.Target = proto.CloneOf(c.Target); c.Target.Channel = ch }
	}
	for _, c := range []struct {
		name    string
		edit    func(*pb.ReferralContent)
		service *pb.Service
		trace   string
		code    string // "" for sent
	}{
		{"nobody to go to", func(c *pb.ReferralContent) { c.Target = nil }, nil, "01", "referral.no_target_endpoint"},
		{"no endpoint", func(c *pb.ReferralContent) { c.Target.Endpoint = "" }, nil, "01", "referral.no_target_endpoint"},
		{"unknown service", byService, nil, "01", "referral.no_target_endpoint"},
		{"retired service", byService, retired, "01", "referral.no_target_endpoint"},
		{"by hand needs none", func(c *pb.ReferralContent) {
			c.Target = &pb.Target{Organisation: "RJ2", Channel: pb.Channel_CHANNEL_MANUAL}
		}, nil, "03", ""},
		{"number not traced", channel(pb.Channel_CHANNEL_BARS), nil, "03", "referral.nhs_number_status"},
		{"BaRS takes 02", channel(pb.Channel_CHANNEL_BARS), nil, "02", ""},
		{"e-RS does not take 02", channel(pb.Channel_CHANNEL_ERS), nil, "02", "referral.nhs_number_status"},
		{"e-RS takes 01", channel(pb.Channel_CHANNEL_ERS), nil, "01", ""},
		{"charity without consent", kind(pb.ReferralKind_REFERRAL_KIND_CHARITY), nil, "01", "referral.no_consent"},
		{"any kind to a charity without consent", byService, charity, "01", "referral.no_consent"},
		{"charity with consent", func(c *pb.ReferralContent) { byService(c); c.Consent = consent }, charity, "01", ""},
		{"no contact", func(c *pb.ReferralContent) { c.Contacts = nil }, nil, "01", "referral.contact_rank"},
	} {
		t.Run(c.name, func(t *testing.T) {
			send := SendReferral{&pb.SendReferralRequest{ReferralId: refID, NhsNumberStatus: c.trace}, now, c.service}
			s := given(to(draft, refID, c.edit)...).When(send.Decide)
			if c.code != "" {
				s.ThenRefused(t, c.code)
			} else if got := s.State(t).Referral(refID).State; got != sent {
				t.Errorf("state %v", got)
			}
		})
	}
	late := SendReferral{&pb.SendReferralRequest{ReferralId: refID, NhsNumberStatus: "01", RespondBy: timestamppb.New(now.Add(-time.Hour))}, now, nil}
	given(to(draft, refID)...).When(late.Decide).ThenRefused(t, "referral.respond_by")
}

func TestStale(t *testing.T) {
	t.Parallel()
	for name, decide := range map[string]func(Referrals) ([]proto.Message, error){
		"send":     SendReferral{&pb.SendReferralRequest{ReferralId: refID, SeenVersion: 7}, now, nil}.Decide,
		"accept":   AcceptReferral{&pb.AcceptReferralRequest{ReferralId: refID, SeenVersion: 1}}.Decide,
		"reject":   RejectReferral{&pb.RejectReferralRequest{ReferralId: refID, SeenVersion: 1}}.Decide,
		"redirect": RedirectReferral{&pb.RedirectReferralRequest{ReferralId: refID, SeenVersion: 1}, cmd(1), now, nil}.Decide,
		"cancel":   CancelReferral{&pb.CancelReferralRequest{ReferralId: refID, SeenVersion: 1}}.Decide,
		"complete": CompleteReferral{&pb.CompleteReferralRequest{ReferralId: refID, SeenVersion: 1}}.Decide,
	} {
		t.Run(name, func(t *testing.T) { given(to(received, refID)...).When(decide).ThenRefused(t, "referral.stale") })
	}
	given(to(received, refID)...).When(AcceptReferral{&pb.AcceptReferralRequest{ReferralId: refID, SeenVersion: 3}}.Decide).
		Then(t, &pb.ReferralAccepted{ReferralId: refID, Owner: &pb.Owner{Side: receiver, Organisation: "RJ2"}})
}

// TestReferAgain: the first referral is cancelled before the second is sent.
func TestReferAgain(t *testing.T) {
	t.Parallel()
	send := SendReferral{&pb.SendReferralRequest{ReferralId: newID, NhsNumberStatus: "01"}, now, nil}.Decide
	for _, first := range []pb.ReferralState{sent, received, accepted, rejected, notAttended, onHold} {
		s := given(to(first, refID)...).And(to(draft, newID, replaces)...).When(send)
		s.Then(t,
			&pb.ReferralCancelled{ReferralId: refID, CancelReason: pb.CancelReason_CANCEL_REASON_REPLACED, PatientToldBy: "RJ1", ReplacedBy: newID},
			to(sent, newID)[1])
		if got := s.State(t).Referral(refID); got.ReplacedBy != newID || Message(got, "").Owner != nil {
			t.Errorf("the first is %v", got)
		}
	}
	given(to(completed, refID)...).And(to(draft, newID, replaces)...).When(send).Then(t, to(sent, newID)[1])
}

func TestNoResponse(t *testing.T) {
	t.Parallel()
	at := func(when time.Time) func(Referrals) ([]proto.Message, error) {
		return RecordNoResponse{&pb.RecordNoResponseRequest{ReferralId: refID}, when}.Decide
	}
	due := now.Add(respondWithin)
	given(to(sent, refID)...).When(at(due.Add(-time.Second))).ThenNothing(t)
	late := given(to(sent, refID)...).When(at(due))
	late.Then(t, &pb.ReferralUnacknowledged{ReferralId: refID, Due: timestamppb.New(due), Owner: &pb.Owner{Side: sender, Organisation: "RJ1"}})
	late.When(at(due.Add(time.Hour))).ThenNothing(t)
	given(to(received, refID)...).When(at(due)).ThenNothing(t)
	given().When(at(due)).ThenRefused(t, "referral.not_found")
	answered := late.When(AcceptReferral{&pb.AcceptReferralRequest{ReferralId: refID}}.Decide).State(t).Referral(refID)
	if answered.Unacknowledged {
		t.Error("an accepted referral still counts as unacknowledged")
	}
}

func TestProgramme(t *testing.T) {
	t.Parallel()
	programme := kind(pb.ReferralKind_REFERRAL_KIND_SUPPORT_PROGRAMME)
	in := func(events ...proto.Message) estest.Scenario[Referrals] {
		return given(to(accepted, refID, programme)...).And(events...)
	}
	offer := OfferProgramme{&pb.OfferProgrammeRequest{ReferralId: refID, Programme: "HOPE course", StartsOn: "2027-02-01"}}.Decide
	accept := AcceptProgramme{&pb.AcceptProgrammeRequest{ReferralId: refID}}.Decide
	decline := DeclineProgramme{&pb.DeclineProgrammeRequest{ReferralId: refID, Note: "no"}}.Decide
	attend := RecordProgrammeAttendance{&pb.RecordProgrammeAttendanceRequest{ReferralId: refID, On: "2026-06-01"}, someday}.Decide
	complete := CompleteProgramme{&pb.CompleteProgrammeRequest{ReferralId: refID, On: "2026-06-29"}, someday}.Decide
	drop := DropOutOfProgramme{&pb.DropOutOfProgrammeRequest{ReferralId: refID, On: "2026-06-08", Note: "work"}, someday}.Decide
	offeredE := &pb.ProgrammeOffered{ReferralId: refID, Programme: "HOPE course", StartsOn: "2027-02-01"}
	acceptedE := &pb.ProgrammeAccepted{ReferralId: refID}
	attendedE := &pb.ProgrammeAttended{ReferralId: refID, On: "2026-06-01"}
	done := func(c pb.Completion) *pb.ReferralCompleted {
		return &pb.ReferralCompleted{ReferralId: refID, Completion: c}
	}

	in().When(offer).Then(t, offeredE)
	in(offeredE).When(accept).Then(t, acceptedE)
	in(offeredE).When(decline).Then(t, &pb.ProgrammeDeclined{ReferralId: refID, Note: "no"}, done(pb.Completion_COMPLETION_DECLINED))
	in(offeredE, acceptedE).When(attend).Then(t, attendedE)
	in(offeredE, acceptedE, attendedE).When(complete).Then(t, &pb.ProgrammeCompleted{ReferralId: refID, On: "2026-06-29"}, done(pb.Completion_COMPLETION_DONE))
	in(offeredE, acceptedE, attendedE).When(drop).Then(t, &pb.ProgrammeDroppedOut{ReferralId: refID, On: "2026-06-08", Note: "work"}, done(pb.Completion_COMPLETION_DROPPED_OUT))

	for name, c := range map[string]struct {
		given  []proto.Message
		decide func(Referrals) ([]proto.Message, error)
	}{
		"offered twice":             {[]proto.Message{offeredE}, offer},
		"accepted unoffered":        {nil, accept},
		"declined after accepting":  {[]proto.Message{offeredE, acceptedE}, decline},
		"attended before accepting": {[]proto.Message{offeredE}, attend},
		"completed unattended":      {[]proto.Message{offeredE, acceptedE}, complete},
		"dropped out unaccepted":    {[]proto.Message{offeredE}, drop},
	} {
		t.Run(name, func(t *testing.T) { in(c.given...).When(c.decide).ThenRefused(t, "referral.programme_state") })
	}
	given(to(accepted, refID)...).When(offer).ThenRefused(t, "referral.programme_none")
	given(to(sent, refID, programme)...).When(offer).ThenRefused(t, "referral.not_active")
	in(offeredE).When(CompleteReferral{&pb.CompleteReferralRequest{ReferralId: refID}}.Decide).ThenRefused(t, "referral.programme_open")
	early := date("2026-05-01")
	for _, decide := range []func(Referrals) ([]proto.Message, error){
		RecordProgrammeAttendance{&pb.RecordProgrammeAttendanceRequest{ReferralId: refID, On: "2026-06-01"}, early}.Decide,
		CompleteProgramme{&pb.CompleteProgrammeRequest{ReferralId: refID, On: "2026-06-01"}, early}.Decide,
		DropOutOfProgramme{&pb.DropOutOfProgrammeRequest{ReferralId: refID, On: "2026-06-01"}, early}.Decide,
		RecordNotAttended{&pb.RecordNotAttendedRequest{ReferralId: refID, On: "2026-06-01"}, early}.Decide,
	} {
		in(offeredE, acceptedE, attendedE).When(decide).ThenRefused(t, "cwt.date.in_future")
	}
}

func TestOffers(t *testing.T) {
	t.Parallel()
	hope := &pb.Service{ServiceId: svcID, Details: &pb.ServiceDetails{Kind: pb.ServiceKind_SERVICE_KIND_CHARITY, Name: "Hope"}}
	basis := &pb.OfferBasis{TumourGroup: "03", ByArea: true}
	offer := func(services ...*pb.Service) func(Referrals) ([]proto.Message, error) {
		return OfferServices{CommandID: cmd(5), Services: services, Basis: basis}.Decide
	}
	id := offerID(cmd(5))
	made := &pb.ServicesOffered{OfferId: id, Services: []*pb.OfferedService{{ServiceId: svcID, Name: "Hope"}}, Basis: basis}
	given().When(offer(hope)).Then(t, made)
	given(made).When(offer(hope)).ThenNothing(t)
	given(made).When(OfferServices{CommandID: cmd(6), Services: []*pb.Service{hope}, Basis: basis}.Decide).ThenRefused(t, "referral.offer.open")
	nothing := given().When(offer())
	nothing.Then(t, &pb.ServicesOffered{OfferId: id, Basis: basis})
	if got := nothing.State(t).Offer(id).State; got != pb.OfferState_OFFER_STATE_NOTHING_FOUND {
		t.Error(got)
	}

	take := func(service *pb.Service, edit ...func(*pb.AcceptOfferRequest)) func(Referrals) ([]proto.Message, error) {
		r := &pb.AcceptOfferRequest{OfferId: id, ServiceId: svcID, Consent: consent, Contacts: []*pb.Contact{contact(1)}}
		for _, e := range edit {
			e(r)
		}
		return AcceptOffer{r, cmd(7), someday, service}.Decide
	}
	chosen := given(made).When(take(hope))
	state := chosen.State(t)
	r := state.Referral(referralID(cmd(7)))
	if o := state.Offer(id); o.State != pb.OfferState_OFFER_STATE_ACCEPTED || o.ReferralId != r.GetReferralId() || !proto.Equal(o.Consent, consent) {
		t.Errorf("offer %v", o)
	}
	if r.State != draft || r.Content.Kind != pb.ReferralKind_REFERRAL_KIND_CHARITY || !proto.Equal(r.Content.Consent, consent) || r.Content.Target.ServiceId != svcID {
		t.Errorf("referral %v", r)
	}
	send := SendReferral{&pb.SendReferralRequest{ReferralId: r.ReferralId, NhsNumberStatus: "03"}, now, hope}
	if got := chosen.When(send.Decide).State(t).Referral(r.ReferralId).State; got != sent {
		t.Errorf("the charity's referral is %v", got)
	}

	decline := DeclineOffer{&pb.DeclineOfferRequest{OfferId: id}}.Decide
	declined := given(made).When(decline)
	declined.Then(t, &pb.OfferDeclined{OfferId: id})
	retired := proto.CloneOf(hope)
	retired.Retired = true
	declined.When(take(hope)).ThenRefused(t, "referral.offer.not_open")
	chosen.When(decline).ThenRefused(t, "referral.offer.not_open")
	given().When(decline).ThenRefused(t, "referral.offer.not_found")
	given(made).When(take(nil)).ThenRefused(t, "referral.offer.service")
	given(made).When(take(retired)).ThenRefused(t, "referral.offer.service")
	given(made).When(take(hope, func(r *pb.AcceptOfferRequest) { r.ServiceId = newID })).ThenRefused(t, "referral.offer.service")
	given(made).When(take(hope, func(r *pb.AcceptOfferRequest) { r.Contacts = []*pb.Contact{contact(2)} })).ThenRefused(t, "referral.contact_rank")
	given(made).When(take(hope, func(r *pb.AcceptOfferRequest) { r.Consent = proto.CloneOf(consent); r.Consent.On = "2027-01-01" })).ThenRefused(t, "cwt.date.in_future")
	for kind, want := range map[pb.ServiceKind]pb.ReferralKind{
		pb.ServiceKind_SERVICE_KIND_SUPPORT_PROGRAMME: pb.ReferralKind_REFERRAL_KIND_SUPPORT_PROGRAMME,
		pb.ServiceKind_SERVICE_KIND_COMMUNITY:         pb.ReferralKind_REFERRAL_KIND_SOCIAL_PRESCRIBING,
	} {
		if got := referralKind(&pb.ServiceDetails{Kind: kind}); got != want {
			t.Errorf("%v takes %v", kind, got)
		}
	}
}

func TestReferralEvents(t *testing.T) {
	estest.EvolvesAll(t, pb.File_waymark_referral_v1_events_proto, referralDecider())
	estest.StoredExamples(t, "testdata/events", pb.File_waymark_referral_v1_events_proto, referralDecider())
}

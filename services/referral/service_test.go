package referral

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	pb "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/bus"
	"waymark/services/kit/es"
	"waymark/services/kit/estest"
	"waymark/services/kit/fault"
	"waymark/services/kit/run"
	"waymark/services/kit/runtest"
)

// people answers as the person service.
type people struct {
	personv1.UnimplementedPersonServiceServer
	answer func() (*personv1.PersonReply, error)
}

func (p *people) GetPerson(context.Context, *personv1.GetPersonRequest) (*personv1.PersonReply, error) {
	return p.answer()
}

// speaking is a person who needs a language and lives in an area.
func speaking(language, area string) func() (*personv1.PersonReply, error) {
	return func() (*personv1.PersonReply, error) {
		p := &personv1.Person{Needs: &personv1.Needs{Communication: []*personv1.CommunicationNeedRecord{{Need: &personv1.CommunicationNeed{Language: language}}}}}
		if area != "" {
			p.Area = &area
		}
		return &personv1.PersonReply{Person: p}, nil
	}
}

// house is the service behind a real connection, with its log.
type house struct {
	*runtest.House
	log *estest.Log
}

func open(t *testing.T, log *estest.Log, person *people) *house {
	t.Helper()
	persons := run.Part{Name: "person", Register: func(r grpc.ServiceRegistrar) { personv1.RegisterPersonServiceServer(r, person) }}
	return &house{runtest.Serve(t, log, func() time.Time { return now }, New, persons), log}
}

func methods() []protoreflect.MethodDescriptor {
	return runtest.Methods(pb.File_waymark_referral_v1_pathway_proto, pb.File_waymark_referral_v1_referral_proto, pb.File_waymark_referral_v1_directory_proto)
}

const pathID = "a2f7a4a0-1f0e-4b63-8d0b-0a2a6b1f5c10"

// header is a command header; each n is another command.
func header(n int) *metav1.Command {
	return &metav1.Command{CommandId: uuid.NewSHA1(uuid.NameSpaceDNS, fmt.Append(nil, n)).String(),
		Actor: &metav1.Actor{User: "U1", RoleCode: "R0600", Organisation: "RJ1"}}
}

// journey is a request to every RPC, in an order in which each is taken.
func journey(h *house) (requests []proto.Message) {
	n := 0
	id := func() *metav1.Command { n++; return header(n) }
	factOf := func(event string) string {
		p := h.Must(&pb.GetPathwayRequest{PathwayId: pathID}).(*pb.GetPathwayResponse).Pathway
		for _, f := range p.Facts {
			if f.Event == event {
				return f.FactId
			}
		}
		h.T.Fatalf("no %s among the facts", event)
		return ""
	}
	do := func(req proto.Message) proto.Message {
		requests = append(requests, req)
		return h.Must(req)
	}
	upgraded := strings.Replace(pathID, "a2f7", "b2f7", 1)
	out := strings.Replace(pathID, "a2f7", "c2f7", 1)

	do(&pb.StartPathwayRequest{Command: id(), PathwayId: pathID, PersonId: personID, Facts: startFacts()})
	do(&pb.RecordFirstAppointmentMissedRequest{Command: id(), PathwayId: pathID, Facts: &pb.FirstAppointmentMissedFacts{On: "2026-03-09", Attendance: "3", RebookedOn: "2026-03-10"}})
	do(&pb.RecordFirstSeenRequest{Command: id(), PathwayId: pathID, Facts: seen("2026-03-12")})
	do(&pb.SetFirstSeenAdjustmentRequest{Command: id(), PathwayId: pathID, Facts: &pb.FirstSeenAdjustmentFacts{Days: 8, Reason: "3"}})
	do(&pb.CommunicateDiagnosisRequest{Command: id(), PathwayId: pathID, Facts: diagnosis("2026-03-20")})
	do(&pb.RecordDecisionToTreatRequest{Command: id(), PathwayId: pathID, Facts: decided("2026-03-21")})
	do(&pb.OfferTreatmentRequest{Command: id(), PathwayId: pathID, Facts: offered("2026-03-22", "2026-04-01")})
	do(&pb.DeclineReasonableOfferRequest{Command: id(), PathwayId: pathID, Facts: &pb.OfferDeclinedFacts{OfferFactId: factOf("TreatmentOffered"), On: "2026-03-23", AvailableFrom: "2026-04-05"}})
	do(&pb.SetTreatmentAdjustmentRequest{Command: id(), PathwayId: pathID, Facts: &pb.TreatmentAdjustmentFacts{Days: 4, Reason: "8", Setting: pb.TreatmentSetting_TREATMENT_SETTING_DAY_CASE}})
	do(&pb.TransferToTreatingProviderRequest{Command: id(), PathwayId: pathID, Facts: &pb.TransferFacts{On: "2026-03-24", TreatingProvider: "RJ2"}})
	do(&pb.StartTreatmentRequest{Command: id(), PathwayId: pathID, Facts: treat("2026-04-10", "01")})
	do(&pb.EndTreatmentPeriodRequest{Command: id(), PathwayId: pathID, Facts: ended("2026-04-20")})
	do(&pb.StartFollowUpRequest{Command: id(), PathwayId: pathID, Facts: &pb.FollowUpFacts{On: "2026-04-25", Arrangement: pb.FollowUpArrangement_FOLLOW_UP_ARRANGEMENT_CLINIC}})
	do(&pb.SetEcadRequest{Command: id(), PathwayId: pathID, Facts: &pb.EcadFacts{On: "2026-07-01", Organisation: "RJ1"}})
	do(&pb.CorrectClockRequest{Command: id(), PathwayId: pathID, WrongFactId: factOf("FirstSeen"), Reason: "typed wrong",
		Replacement: &pb.Replacement{Facts: &pb.Replacement_FirstSeen{FirstSeen: seen("2026-03-11")}}})
	do(&pb.GetPathwayRequest{PathwayId: pathID})

	do(&pb.StartPathwayRequest{Command: id(), PathwayId: upgraded, PersonId: personID, Facts: startFacts(routine)})
	do(&pb.UpgradeByConsultantRequest{Command: id(), PathwayId: upgraded, Facts: &pb.UpgradeFacts{On: "2026-03-10", Organisation: "RJ1"}})
	do(&pb.ExcludeFromFasterDiagnosisRequest{Command: id(), PathwayId: upgraded, Facts: &pb.ExclusionFacts{On: "2026-03-20", Reason: "02"}})
	do(&pb.ReroutePathwayRequest{Command: id(), PathwayId: upgraded, Facts: &pb.RerouteFacts{On: "2026-03-22",
		Onward: []*pb.Onward{{ReferralType: "05", ResponsibleTeam: &pb.Team{Organisation: "RJ1", Name: "Upper GI"}}}}})
	do(&pb.StartPathwayRequest{Command: id(), PathwayId: out, PersonId: personID, Facts: startFacts()})
	do(&pb.CommunicateCancerRuledOutRequest{Command: id(), PathwayId: out, Facts: ruledOut("2026-03-20")})
	do(&pb.ClosePathwayRequest{Command: id(), PathwayId: out, Facts: closing("2026-03-21", pb.CloseReason_CLOSE_REASON_CANCER_RULED_OUT)})

	hope := &pb.ServiceDetails{Kind: pb.ServiceKind_SERVICE_KIND_CHARITY, Name: "Hope", TumourGroups: []string{"03"}, Endpoint: "https://hope.example"}
	do(&pb.RegisterServiceRequest{Command: id(), ServiceId: svcID, Details: hope})
	amended := do(&pb.AmendServiceRequest{Command: id(), ServiceId: svcID, Details: hope, SeenVersion: 1}).(*pb.ServiceReply)
	do(&pb.GetServiceRequest{ServiceId: svcID})
	do(&pb.SearchServicesRequest{TumourGroup: "03", MinPosition: amended.Receipt.Position})

	ref := func(edit ...func(*pb.ReferralContent)) string {
		return do(&pb.DraftReferralRequest{Command: id(), PathwayId: pathID, Content: content(edit...)}).(*pb.ReferralReply).Referral.ReferralId
	}
	send := func(r string) {
		do(&pb.SendReferralRequest{Command: id(), PathwayId: pathID, ReferralId: r, NhsNumberStatus: "01"})
	}
	accept := func(r string) { do(&pb.AcceptReferralRequest{Command: id(), PathwayId: pathID, ReferralId: r}) }
	one := ref()
	send(one)
	do(&pb.RecordNoResponseRequest{Command: id(), PathwayId: pathID, ReferralId: one})
	do(&pb.AcknowledgeReceiptRequest{Command: id(), PathwayId: pathID, ReferralId: one})
	accept(one)
	do(&pb.BeginReferralRequest{Command: id(), PathwayId: pathID, ReferralId: one})
	do(&pb.HoldReferralRequest{Command: id(), PathwayId: pathID, ReferralId: one, Note: "unwell"})
	do(&pb.ResumeReferralRequest{Command: id(), PathwayId: pathID, ReferralId: one})
	do(&pb.CompleteReferralRequest{Command: id(), PathwayId: pathID, ReferralId: one})
	two := ref()
	send(two)
	do(&pb.RejectReferralRequest{Command: id(), PathwayId: pathID, ReferralId: two, RejectionReason: "22"})
	do(&pb.CancelReferralRequest{Command: id(), PathwayId: pathID, ReferralId: two, SeenVersion: 3, CancelReason: pb.CancelReason_CANCEL_REASON_NO_LONGER_NEEDED})
	three := ref()
	send(three)
	do(&pb.RedirectReferralRequest{Command: id(), PathwayId: pathID, ReferralId: three, Target: content().Target})
	four := ref()
	send(four)
	accept(four)
	do(&pb.RecordNotAttendedRequest{Command: id(), PathwayId: pathID, ReferralId: four, On: "2026-05-30"})
	do(&pb.GetReferralRequest{PathwayId: pathID, ReferralId: four})

	enrol := func() string {
		r := ref(kind(pb.ReferralKind_REFERRAL_KIND_SUPPORT_PROGRAMME))
		send(r)
		accept(r)
		do(&pb.OfferProgrammeRequest{Command: id(), PathwayId: pathID, ReferralId: r, Programme: "HOPE course", StartsOn: "2026-07-01"})
		return r
	}
	do(&pb.DeclineProgrammeRequest{Command: id(), PathwayId: pathID, ReferralId: enrol()})
	for _, end := range []func(r string) proto.Message{
		func(r string) proto.Message {
			return &pb.CompleteProgrammeRequest{Command: id(), PathwayId: pathID, ReferralId: r, On: "2026-05-31"}
		},
		func(r string) proto.Message {
			return &pb.DropOutOfProgrammeRequest{Command: id(), PathwayId: pathID, ReferralId: r, On: "2026-05-31"}
		},
	} {
		r := enrol()
		do(&pb.AcceptProgrammeRequest{Command: id(), PathwayId: pathID, ReferralId: r})
		do(&pb.RecordProgrammeAttendanceRequest{Command: id(), PathwayId: pathID, ReferralId: r, On: "2026-05-30"})
		do(end(r))
	}

	offer := func() string {
		reply := do(&pb.OfferServicesRequest{Command: id(), PathwayId: pathID, TumourGroup: "03"}).(*pb.OfferReply)
		return reply.Offer.OfferId
	}
	do(&pb.DeclineOfferRequest{Command: id(), PathwayId: pathID, OfferId: offer()})
	do(&pb.AcceptOfferRequest{Command: id(), PathwayId: pathID, OfferId: offer(), ServiceId: svcID, Consent: consent, Contacts: []*pb.Contact{contact(1)}})
	do(&pb.ListReferralsRequest{PathwayId: pathID})
	do(&pb.RetireServiceRequest{Command: id(), ServiceId: svcID, Reason: "closed"})
	return requests
}

// TestEveryRPC sends a request to each RPC over a real connection, then each
// again: the same id answers the same and records nothing; with another body it
// is refused.
func TestEveryRPC(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewAuditedLog(t), &people{answer: speaking("", "")})
	requests := journey(h)

	called := map[protoreflect.FullName]bool{}
	for _, req := range requests {
		called[runtest.MethodOf(t, req).FullName()] = true
	}
	for _, m := range methods() {
		if !called[m.FullName()] {
			t.Errorf("%s was never called", m.FullName())
		}
	}

	before := len(h.log.Events())
	repeats := 0
	for _, req := range requests {
		if _, ok := req.(es.Request); !ok {
			continue
		}
		repeats++
		first, again := h.Must(req), h.Must(req)
		if !proto.Equal(first, again) {
			t.Errorf("%s repeated:\n %v\nthen\n %v", runtest.Name(req), first, again)
		}
		if _, ok := req.(*pb.RecordNoResponseRequest); ok {
			continue // recorded nothing, so there is nothing to repeat
		}
		other := proto.Clone(req).(es.Request)
		other.GetCommand().Reason = "another body"
		_, err := h.Call(other)
		if status.Code(err) != codes.InvalidArgument || fault.CodeOf(err) != "command.id_reused" {
			t.Errorf("%s with another body: %v", runtest.Name(req), err)
		}
	}
	if after := len(h.log.Events()); after != before {
		t.Errorf("repeats recorded %d events", after-before)
	}
	t.Logf("%d RPCs called by %d requests, %d commands repeated, %d events", len(called), len(requests), repeats, before)
}

// TestBadInput: an empty request is refused by every RPC with a field named, and
// so are wrong codes, ids, dates and overlong texts.
func TestBadInput(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), &people{})
	empty := 0
	for _, m := range methods() {
		if m.Name() == "SearchServices" {
			continue // finds everything
		}
		mt, err := protoregistry.GlobalTypes.FindMessageByName(m.Input().FullName())
		if err != nil {
			t.Fatal(err)
		}
		if h.BadField(mt.New().Interface()) != "" {
			empty++
		}
	}
	start := func(edit func(*pb.StartPathwayRequest)) *pb.StartPathwayRequest {
		r := &pb.StartPathwayRequest{Command: header(1), PersonId: personID, Facts: startFacts()}
		edit(r)
		return r
	}
	for want, req := range map[string]proto.Message{
		"person_id":                   start(func(r *pb.StartPathwayRequest) { r.PersonId = "9990000018" }),
		"pathway_id":                  start(func(r *pb.StartPathwayRequest) { r.PathwayId = "1" }),
		"facts.received_on":           start(func(r *pb.StartPathwayRequest) { r.Facts.ReceivedOn = "2026-02-29" }),
		"facts.priority":              start(func(r *pb.StartPathwayRequest) { r.Facts.Priority = "4" }),
		"facts.referral_type":         start(func(r *pb.StartPathwayRequest) { r.Facts.ReferralType = "18" }),
		"facts.source":                start(func(r *pb.StartPathwayRequest) { r.Facts.Source = "3" }),
		"facts.responsible_team.name": start(func(r *pb.StartPathwayRequest) { r.Facts.ResponsibleTeam.Name = strings.Repeat("x", 121) }),
		"command.actor":               start(func(r *pb.StartPathwayRequest) { r.Command.Actor = nil }),
		"content.reason": &pb.DraftReferralRequest{Command: header(1), PathwayId: pathID,
			Content: content(func(c *pb.ReferralContent) { c.Reason = strings.Repeat("x", 4001) })},
		"page_token":       &pb.SearchServicesRequest{PageToken: "bm90IG91cnM"},
		"page_size":        &pb.SearchServicesRequest{PageSize: -1},
		"rejection_reason": &pb.RejectReferralRequest{Command: header(1), PathwayId: pathID, ReferralId: refID, RejectionReason: "20"},
	} {
		if got := h.BadField(req); got != want {
			t.Errorf("the field named is %q, want %q", got, want)
		}
	}
	t.Logf("%d empty requests refused", empty)
}

func TestStatusCodes(t *testing.T) {
	t.Parallel()
	h := open(t, estest.NewLog(), &people{})
	h.Must(&pb.StartPathwayRequest{Command: header(1), PathwayId: pathID, PersonId: personID, Facts: startFacts()})
	for _, c := range []struct {
		req  proto.Message
		code codes.Code
		is   string
	}{
		{&pb.StartPathwayRequest{Command: header(2), PathwayId: strings.ToUpper(pathID), PersonId: personID, Facts: startFacts()}, codes.AlreadyExists, "pathway.exists"},
		{&pb.GetPathwayRequest{PathwayId: refID}, codes.NotFound, "pathway.not_found"},
		{&pb.RecordFirstSeenRequest{Command: header(3), PathwayId: refID, Facts: seen("2026-03-10")}, codes.NotFound, "pathway.not_found"},
		{&pb.RecordFirstSeenRequest{Command: header(3), PathwayId: pathID, Facts: seen("2026-06-02")}, codes.InvalidArgument, "cwt.date.in_future"},
		{&pb.RecordFirstSeenRequest{Command: header(3), PathwayId: pathID, Facts: seen("2026-03-01")}, codes.FailedPrecondition, "cwt.order.end_before_start"},
		{&pb.DraftReferralRequest{Command: header(3), PathwayId: refID, Content: content()}, codes.NotFound, "pathway.not_found"},
		{&pb.GetReferralRequest{PathwayId: pathID, ReferralId: refID}, codes.NotFound, "referral.not_found"},
		{&pb.ListReferralsRequest{PathwayId: refID}, codes.NotFound, "pathway.not_found"},
		{&pb.OfferServicesRequest{Command: header(3), PathwayId: refID, TumourGroup: "03"}, codes.NotFound, "pathway.not_found"},
		{&pb.GetServiceRequest{ServiceId: refID}, codes.NotFound, "service.not_found"},
		{&pb.AmendServiceRequest{Command: header(3), ServiceId: refID, SeenVersion: 1, Details: &pb.ServiceDetails{Kind: 2, Name: "x"}}, codes.NotFound, "service.not_found"},
	} {
		_, err := h.Call(c.req)
		if status.Code(err) != c.code || fault.CodeOf(err) != c.is {
			t.Errorf("%s: %v, want %v %s", runtest.Name(c.req), err, c.code, c.is)
		}
	}
	// "Today" is England's: at 23:30 UTC in summer it is tomorrow's date there.
	s := newService(run.Deps{Log: h.log, Key: runtest.Key, Clock: func() time.Time { return time.Date(2026, 6, 30, 23, 30, 0, 0, time.UTC) }})
	if got := s.today().String(); got != "2026-07-01" {
		t.Errorf("today is %s", got)
	}
}

// heard gives the bus's view of every event of a type in the log.
func heard(t *testing.T, log *estest.Log, of proto.Message) (out []bus.Event) {
	t.Helper()
	for _, e := range log.Events() {
		if e.Type != string(of.ProtoReflect().Descriptor().FullName()) {
			continue
		}
		m, err := es.Decode(e)
		if err != nil {
			t.Fatal(err)
		}
		_, id, _ := strings.Cut(e.Stream, "-")
		out = append(out, bus.Event{ID: e.ID, Category: "pathway", StreamID: id, Revision: e.Revision, Position: e.Position, Message: m, Tenant: "RJ1", CorrelationID: "c1"})
	}
	if len(out) == 0 {
		t.Fatalf("nobody recorded a %s", runtest.Name(of))
	}
	return out
}

func charity(n int, name string, groups, areas, languages []string) *pb.RegisterServiceRequest {
	return &pb.RegisterServiceRequest{Command: header(1000 + n), Details: &pb.ServiceDetails{Kind: pb.ServiceKind_SERVICE_KIND_CHARITY,
		Name: name, TumourGroups: groups, Areas: areas, Languages: languages}}
}

// TestDiagnosisOffersCharities: a diagnosis leads to one offer of what suits the
// patient, however often it is heard and whatever fails on the way.
func TestDiagnosisOffersCharities(t *testing.T) {
	t.Parallel()
	refusal := fault.NotFound("person.not_found", "there is no such person")
	for _, c := range []struct {
		name   string
		person func() (*personv1.PersonReply, error)
		want   []string
		basis  *pb.OfferBasis
	}{
		{"by language and area", speaking("ur", "E08000003"), []string{"Roshni"}, &pb.OfferBasis{TumourGroup: "03", ByLanguage: true, ByArea: true}},
		{"nobody speaks the language", speaking("cy", "E08000003"), []string{"Lungs United", "Roshni"}, &pb.OfferBasis{TumourGroup: "03", ByArea: true}},
		{"area withheld", speaking("", ""), []string{"Bristol Breathe", "Lungs United", "Roshni"}, &pb.OfferBasis{TumourGroup: "03"}},
		{"lookup refused", func() (*personv1.PersonReply, error) { return nil, refusal }, []string{"Bristol Breathe", "Lungs United", "Roshni"},
			&pb.OfferBasis{TumourGroup: "03", LookupRefused: "person.not_found"}},
		{"death reported", func() (*personv1.PersonReply, error) {
			return &personv1.PersonReply{Person: &personv1.Person{MessagesStopped: true}}, nil
		}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			log := estest.NewLog()
			person := &people{answer: c.person}
			h := open(t, log, person)
			h.Must(charity(1, "Lungs United", []string{"03"}, nil, nil))
			h.Must(charity(2, "Roshni", nil, []string{"E08000003"}, []string{"ur", "en"}))
			h.Must(charity(3, "Bristol Breathe", []string{"03"}, []string{"E06000023"}, nil))
			last := h.Must(charity(4, "Breast Friends", []string{"01"}, nil, nil)).(*pb.ServiceReply)
			h.Must(&pb.SearchServicesRequest{MinPosition: last.Receipt.Position})
			h.Must(&pb.StartPathwayRequest{Command: header(1), PathwayId: pathID, PersonId: personID, Facts: startFacts()})
			h.Must(&pb.CommunicateDiagnosisRequest{Command: header(2), PathwayId: pathID, Facts: diagnosis("2026-03-20")})
			e := heard(t, log, &pb.DiagnosisCommunicated{})[0]

			// The person service is down, then the answer to the append is lost: both are tried again.
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			person.answer = func() (*personv1.PersonReply, error) { return nil, status.Error(codes.Internal, "down") }
			if err := h.Part.React(ctx, e); err == nil {
				t.Error("a fault was taken for an answer")
			}
			person.answer = c.person
			log.SetFaults(estest.Faults{Lost: 0.4, Refused: 0.2})
			for i := 0; i < 50; i++ {
				if h.Part.React(ctx, e) == nil {
					break
				}
			}
			log.SetFaults(estest.Faults{})
			for range 3 { // and is heard again, also by a process that has just started
				if err := h.Part.React(ctx, e); err != nil {
					t.Fatal(err)
				}
			}
			h.Must(charity(5, "Late Lungs", []string{"03"}, nil, nil)) // what comes later changes nothing
			if err := open(t, log, person).Part.React(ctx, e); err != nil {
				t.Fatal(err)
			}

			offers := h.Must(&pb.ListReferralsRequest{PathwayId: pathID}).(*pb.ListReferralsResponse).Offers
			if c.want == nil {
				if len(offers) != 0 {
					t.Fatalf("offers %v", offers)
				}
				return
			}
			if len(offers) != 1 {
				t.Fatalf("%d offers, want 1", len(offers))
			}
			var names []string
			for _, s := range offers[0].Services {
				names = append(names, s.Name)
			}
			if strings.Join(names, ", ") != strings.Join(c.want, ", ") || !proto.Equal(offers[0].Basis, c.basis) {
				t.Errorf("offered %v by %v", names, offers[0].Basis)
			}
			for _, e := range log.Events() {
				if strings.HasSuffix(e.Type, "ReferralSent") || strings.HasSuffix(e.Type, "ReferralDrafted") {
					t.Errorf("%s without anybody's consent", e.Type)
				}
			}
		})
	}
}

// TestReroutingStartsOnwardPathways with the start date and the link, once.
func TestReroutingStartsOnwardPathways(t *testing.T) {
	t.Parallel()
	log := estest.NewAuditedLog(t)
	h := open(t, log, &people{})
	h.Must(&pb.StartPathwayRequest{Command: header(1), PathwayId: pathID, PersonId: personID, Facts: startFacts(func(f *pb.StartFacts) {
		f.ReferralType, f.PathwayIdentifier, f.PathwayIdentifierIssuer = "17", "RJ15644312231", "RJ1"
	})})
	h.Must(&pb.RecordFirstSeenRequest{Command: header(2), PathwayId: pathID, Facts: seen("2026-03-10")})
	h.Must(&pb.SetFirstSeenAdjustmentRequest{Command: header(3), PathwayId: pathID, Facts: &pb.FirstSeenAdjustmentFacts{Days: 3, Reason: "3"}})
	team := &pb.Team{Organisation: "RJ1", Name: "Upper GI"}
	h.Must(&pb.ReroutePathwayRequest{Command: header(4), PathwayId: pathID, Facts: &pb.RerouteFacts{On: "2026-03-12",
		Onward: []*pb.Onward{{ReferralType: "05", ResponsibleTeam: team}, {ReferralType: "04", ResponsibleTeam: team}}}})
	e := heard(t, log, &pb.PathwayRerouted{})[0]
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	log.SetFaults(estest.Faults{Lost: 0.5, Refused: 0.3})
	for i := 0; i < 50; i++ {
		if h.Part.React(ctx, e) == nil {
			break
		}
	}
	log.SetFaults(estest.Faults{})
	for range 3 {
		if err := h.Part.React(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	onward := h.Must(&pb.GetPathwayRequest{PathwayId: pathID}).(*pb.GetPathwayResponse).Pathway.ReroutedTo
	for _, o := range onward {
		p := h.Must(&pb.GetPathwayRequest{PathwayId: o.PathwayId}).(*pb.GetPathwayResponse).Pathway
		if p.Start.ReceivedOn != received0 || p.ReroutedFrom != pathID || p.PersonId != personID || p.Route != pb.Route_ROUTE_USC ||
			p.FirstSeen.GetOn() != "2026-03-10" || p.FirstSeenAdjustment.GetDays() != 3 || p.Start.PathwayIdentifier != "RJ15644312231" {
			t.Errorf("the onward pathway is %v", p)
		}
	}
	if n := len(heard(t, log, &pb.PathwayStarted{})); n != 3 {
		t.Errorf("%d pathways started, want 3", n)
	}
}

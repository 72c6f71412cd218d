package cohort

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	careleadv1 "waymark/proto/waymark/carelead/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	planv1 "waymark/proto/waymark/plan/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/nhs"
	"waymark/services/waitingtimes"
)

// Known is what the answers to earlier steps of a journey have told.
type Known struct {
	Today   nhs.Date
	Attempt int // at an NHS number

	Person       *personv1.Person
	Plan         *planv1.Record
	Ledger       *careleadv1.Ledger
	Offered      bool              // services of the directory, or that there are none
	Appointments map[string]string // ids, by those of the contacts
	// Approved reports whether an organisation has approved a protocol of surveillance.
	Approved func(protocol, organisation string) bool

	pathway string
}

// Learn keeps what a reply says that later steps need.
func (k *Known) Learn(step Step, reply proto.Message) {
	switch r := reply.(type) {
	case *personv1.PersonReply:
		k.Person = r.Person
	case *planv1.PlanReply:
		k.Plan = r.Record
	case *careleadv1.LedgerReply:
		k.Ledger = r.Ledger
	case *appointmentv1.AppointmentReply:
		if step.Contact != "" {
			k.Appointments[step.Contact] = r.Appointment.GetAppointmentId()
		}
	}
}

// Turn forgets the plan and the ledger of another pathway than the one whose steps
// follow.
func (k *Known) Turn(pathway string) {
	if k.pathway != pathway {
		k.pathway, k.Plan, k.Ledger, k.Offered = pathway, nil, nil, false
	}
}

// Step is one command of a journey. Steps are sent in order, each when the one
// before it is answered.
type Step struct {
	Name string
	At   Place
	// Request makes the command; nil where the step only waits, or there is nothing to send.
	Request func(*Known) proto.Message
	// Ready, where set, is what must be so before it is sent: services do some things
	// on their own when they hear of others. Pathway is whose plan and ledger are read.
	Ready   func(*Known) bool
	Pathway string
	// Again, where set, says that the answer was somebody else's: another attempt is
	// made. Refused with Taken means the same.
	Again func(*Known) bool
	Taken string
	// Contact is the contact that an appointment is of.
	Contact string
	// Daily marks a command that depends on the day of its import. Where it was taken
	// on another day, its id is known with another request, and that is the answer.
	Daily bool
	// Optional marks a step that the rest of the journey does not stand on.
	Optional bool
}

// Actor of all commands: the import. Who must have acted in person is named as the
// one on whose behalf it acts.
const Actor = "waymark/import"

// far is the end of what has none in the source.
const far = "2099-12-31"

// noPhone is given where a telephone number is needed and the source has none: one
// that is kept for drama, and belongs to nobody.
const noPhone = "020 7946 0000"

// writer makes the steps of one journey.
type writer struct {
	j     *Journey
	c     *Course
	path  string
	day   string // of the newest step of the chain
	chain []dated
}

type dated struct {
	on string
	Step
}

// Steps are the commands of a journey: the person, each course in the order of
// its days, then a death.
func Steps(j *Journey) (steps []Step) {
	if len(j.Courses) == 0 {
		return nil
	}
	w := &writer{j: j, c: j.Courses[0], day: j.Courses[0].Received}
	w.register()
	for _, s := range w.chain {
		steps = append(steps, s.Step)
	}
	var ends []Step
	for _, c := range j.Courses {
		w := &writer{j: j, c: c, path: PathwayID(j, c), day: c.Received}
		w.course()
		v := &writer{j: j, c: c, path: w.path, day: c.Received}
		v.contacts()
		all := append(w.chain, v.chain...)
		slices.SortStableFunc(all, func(a, b dated) int { return strings.Compare(a.on, b.on) })
		for _, s := range all {
			steps = append(steps, s.Step)
		}
		e := &writer{j: j, c: c, path: w.path, day: w.day}
		e.end()
		for _, s := range e.chain {
			ends = append(ends, s.Step)
		}
	}
	if j.Died != "" {
		w := &writer{j: j, c: j.Courses[0], day: j.Died}
		w.add("death", j.Died, func(k *Known, command *metav1.Command) proto.Message {
			return &personv1.NoteDeathRequest{Command: command, PersonId: k.Person.GetPersonId(), Status: "2", DiedOn: j.Died}
		})
		steps = append(steps, w.chain[0].Step)
	}
	return append(steps, ends...)
}

// PathwayID is the pathway of a course.
func PathwayID(j *Journey, c *Course) string { return ID(j.Source, j.ID, "pathway", c.ID) }

// add adds a step that happened on a day; a step of the chain never comes before
// the one it stands on.
func (w *writer) add(name, on string, request func(*Known, *metav1.Command) proto.Message) *Step {
	w.day = max(w.day, on)
	at := when(cmp.Or(on, w.day))
	id := w.c.ID + "/" + name
	w.chain = append(w.chain, dated{w.day, Step{Name: name, At: w.j.At, Pathway: w.path, Request: func(k *Known) proto.Message {
		command := &metav1.Command{
			CommandId: ID(w.j.Source, w.j.ID, id), CorrelationId: w.j.Source + ":" + w.j.ID,
			Actor: &metav1.Actor{User: Actor, Organisation: w.c.Team.Code},
		}
		if !at.IsZero() {
			command.OccurredAt = timestamppb.New(at)
		}
		return request(k, command)
	}}})
	return &w.chain[len(w.chain)-1].Step
}

func when(on string) time.Time {
	d, err := nhs.ParseDate(on)
	if err != nil {
		return time.Time{}
	}
	return d.Start()
}

func (w *writer) register() {
	j, home := w.j, w.c.Team.Code
	local := &personv1.LocalIdentifier{Assigner: home, Value: j.ID}
	s := w.add("person", "", func(k *Known, command *metav1.Command) proto.Message {
		command.OccurredAt = nil
		command.CommandId = ID(command.CommandId, fmt.Sprint(k.Attempt))
		facts := &personv1.Demographics{Name: &personv1.PersonName{Family: j.Family, Given: j.Given, Prefix: j.Prefix}, BirthDate: j.Born, Practice: j.Practice.Code}
		if len(j.Address) > 0 {
			facts.Address = &personv1.Address{Lines: j.Address}
		}
		return &personv1.RegisterPersonRequest{Command: command, NhsNumber: Number(j.Source, j.ID, k.Attempt), NhsNumberStatus: "02",
			LocalIdentifiers: []*personv1.LocalIdentifier{local}, Demographics: facts,
			Source: &personv1.Source{Kind: personv1.SourceKind_SOURCE_KIND_LOCAL, System: j.Source + "/import", MessageId: j.ID, SentAt: timestamppb.New(j.Sent)}}
	})
	s.Again = func(k *Known) bool {
		return !slices.ContainsFunc(k.Person.GetLocalIdentifiers(), func(l *personv1.LocalIdentifier) bool {
			return l.Assigner == local.Assigner && l.Value == local.Value
		})
	}
	s.Taken = "person.identity.mismatch"
}

// course is what is recorded of the clocks, the plan and the handover.
func (w *writer) course() {
	c, path, org := w.c, w.path, w.c.Team.Code
	w.add("start", c.Received, func(k *Known, command *metav1.Command) proto.Message {
		return &referralv1.StartPathwayRequest{Command: command, PathwayId: path, PersonId: k.Person.GetPersonId(), Facts: &referralv1.StartFacts{
			ReceivedOn: c.Received, Priority: "3", ReferralType: c.Site.Group, Source: c.Source,
			ResponsibleTeam: &referralv1.Team{Organisation: org, Code: strings.ToUpper(strings.ReplaceAll(c.Site.Name, " ", "-")), Name: c.Team.Name}}}
	})
	if c.Seen != "" {
		w.add("seen", c.Seen, func(_ *Known, command *metav1.Command) proto.Message {
			return &referralv1.RecordFirstSeenRequest{Command: command, PathwayId: path, Facts: &referralv1.FirstSeenFacts{On: c.Seen, Organisation: org}}
		})
	}
	if c.RuledOut != "" {
		w.add("ruled-out", c.RuledOut, func(_ *Known, command *metav1.Command) proto.Message {
			return &referralv1.CommunicateCancerRuledOutRequest{Command: command, PathwayId: path,
				Facts: &referralv1.RuledOutFacts{Told: told(c.RuledOut, org), EndReason: "02"}}
		})
		return
	}
	if c.Told == "" {
		return
	}
	w.add("plan", c.Told, func(k *Known, command *metav1.Command) proto.Message {
		d := &planv1.Diagnosis{Icd10: c.Site.ICD10, Morphology: c.Finding, Stage: c.Stage, DiagnosedOn: c.Told, ToldOn: c.Told}
		if d.Stage == "" {
			d.Stage, d.UnstagedReason = "unstaged", "the source has no stage"
		}
		return &planv1.OpenPlanRequest{Command: command, PathwayId: path, PersonId: k.Person.GetPersonId(), Diagnosis: d,
			TreatingOrganisation: org, TreatingTeam: c.Team.Name}
	})
	w.add("told", c.Told, func(_ *Known, command *metav1.Command) proto.Message {
		return &referralv1.CommunicateDiagnosisRequest{Command: command, PathwayId: path,
			Facts: &referralv1.DiagnosisFacts{Told: told(c.Told, org), TumourGroup: c.Site.Group, Icd10: c.Site.ICD10}}
	})
	w.assessment()
	if c.Plan {
		w.publish()
	}
	for i, t := range c.Treatment {
		w.treatment(i, t)
	}
	// Nothing is offered once the pathway is closed or the patient has died: that must
	// not depend on who is quicker.
	w.add("offered", "", func(*Known, *metav1.Command) proto.Message { return nil }).Ready = func(k *Known) bool { return k.Offered }
}

func told(on, org string) *referralv1.Told {
	return &referralv1.Told{On: on, Method: referralv1.OutcomeMethod_OUTCOME_METHOD_FACE_TO_FACE, Organisation: org}
}

// inForce reports whether a clock had a rule on a day: then the plan service asks
// for what it times.
func inForce(clock, on string) bool {
	d, err := nhs.ParseDate(on)
	if err != nil {
		return false
	}
	_, _, err = waitingtimes.Due(clock, d)
	return err == nil
}

func assessmentAt(k *Known, point string) string {
	for _, a := range k.Plan.GetAssessments() {
		if a.Point == point {
			return a.AssessmentId
		}
	}
	return ""
}

// assessment is the one at diagnosis: as the source has it, or not offered.
func (w *writer) assessment() {
	const point, nurse = "01", "01"
	c, path := w.c, w.path
	asked := inForce("hna_dx", c.Told)
	if c.Needs == nil {
		if asked {
			w.notOffered(point, c.Told)
		}
		return
	}
	on := max(c.Needs.On, c.Told)
	w.add("needs-offer", on, func(k *Known, command *metav1.Command) proto.Message {
		id := ""
		if asked {
			id = assessmentAt(k, point)
		}
		return &planv1.OfferAssessmentRequest{Command: command, PathwayId: path, AssessmentId: id, Point: point, StaffRole: nurse, On: on, OfferedStatus: "03", Expires: far}
	}).Ready = func(k *Known) bool { return !asked || assessmentAt(k, point) != "" }
	w.add("needs-start", on, func(k *Known, command *metav1.Command) proto.Message {
		return &planv1.StartAssessmentRequest{Command: command, PathwayId: path, AssessmentId: assessmentAt(k, point), On: on}
	})
	w.add("needs-submit", on, func(k *Known, command *metav1.Command) proto.Message {
		r := &planv1.SubmitAssessmentRequest{Command: command, PathwayId: path, AssessmentId: assessmentAt(k, point), On: on, Author: "patient"}
		for _, x := range c.Needs.Concerns {
			r.Concerns = append(r.Concerns, &planv1.ConcernInput{Code: x.Code, Score: x.Score})
		}
		return r
	})
	w.add("needs-discuss", on, func(k *Known, command *metav1.Command) proto.Message {
		return &planv1.DiscussAssessmentRequest{Command: command, PathwayId: path, AssessmentId: assessmentAt(k, point), On: on, StaffRole: nurse}
	})
	offered := "03"
	if len(c.Needs.Concerns) == 0 {
		offered = "06"
	}
	w.add("needs-close", on, func(k *Known, command *metav1.Command) proto.Message {
		return &planv1.CloseAssessmentRequest{Command: command, PathwayId: path, AssessmentId: assessmentAt(k, point), On: on, PlanOfferedStatus: offered}
	})
	if len(c.Needs.Concerns) == 0 {
		return
	}
	w.add("needs-adopt", on, func(k *Known, command *metav1.Command) proto.Message {
		return &planv1.AdoptFromAssessmentRequest{Command: command, PathwayId: path, AssessmentId: assessmentAt(k, point)}
	})
	for _, x := range c.Needs.Concerns {
		concern := func(k *Known) string {
			for _, of := range k.Plan.GetPlan().GetConcerns() {
				if of.Code == x.Code {
					return of.ConcernId
				}
			}
			return ""
		}
		w.add("concern-discuss/"+x.Code, on, func(k *Known, command *metav1.Command) proto.Message {
			return &planv1.DiscussConcernRequest{Command: command, PathwayId: path, ConcernId: concern(k), On: on}
		})
		w.add("concern-decide/"+x.Code, on, func(k *Known, command *metav1.Command) proto.Message {
			return &planv1.DecideConcernRequest{Command: command, PathwayId: path, ConcernId: concern(k), Decision: planv1.ConcernDecision_CONCERN_DECISION_WATCH}
		})
	}
}

func (w *writer) notOffered(point, on string) {
	path := w.path
	on = min(plus(on, 31), w.last())
	w.add("needs-none/"+point, on, func(k *Known, command *metav1.Command) proto.Message {
		return &planv1.RecordAssessmentNotOfferedRequest{Command: command, PathwayId: path, AssessmentId: assessmentAt(k, point), Reason: "the source records no assessment", On: on}
	}).Ready = func(k *Known) bool { return assessmentAt(k, point) != "" }
}

// last is the last day on which something can have happened.
func (w *writer) last() string {
	if w.j.Died != "" {
		return min(w.j.Died, w.j.AsOf)
	}
	return w.j.AsOf
}

func plus(on string, days int) string {
	d, err := nhs.ParseDate(on)
	if err != nil {
		return on
	}
	return d.AddDays(days).String()
}

// publish agrees and publishes the plan when treatment is decided upon.
func (w *writer) publish() {
	c, path := w.c, w.path
	on := w.day
	if len(c.Treatment) > 0 {
		on = max(on, c.Treatment[0].Decided)
	}
	w.add("plan-agree", on, func(_ *Known, command *metav1.Command) proto.Message {
		return &planv1.RecordPatientAgreementRequest{Command: command, PathwayId: path, Agreed: true, On: on, AgreedBy: "patient"}
	})
	w.add("plan-publish", on, func(k *Known, command *metav1.Command) proto.Message {
		review, _ := nhs.ParseDate(on)
		for !review.After(k.Today) { // every half year
			review = waitingtimes.AddMonths(review, 6)
		}
		return &planv1.PublishPlanRequest{Command: command, PathwayId: path, ReviewDue: review.String(), SharedWithPatient: true}
	}).Daily = true
}

func (w *writer) treatment(i int, t Treatment) {
	c, path, org := w.c, w.path, w.c.Team.Code
	n := fmt.Sprint("/", i+1)
	w.add("decide"+n, t.Decided, func(_ *Known, command *metav1.Command) proto.Message {
		return &referralv1.RecordDecisionToTreatRequest{Command: command, PathwayId: path, Facts: &referralv1.DecisionToTreatFacts{On: t.Decided, Organisation: org}}
	})
	if t.Started == "" {
		return
	}
	event := "01"
	if i > 0 {
		event = "02"
	}
	w.add("treat"+n, t.Started, func(_ *Known, command *metav1.Command) proto.Message {
		return &referralv1.StartTreatmentRequest{Command: command, PathwayId: path,
			Facts: &referralv1.TreatmentFacts{On: t.Started, EventType: event, Modality: t.Modality, Setting: t.Setting, Organisation: org}}
	})
	if t.Ended == "" {
		return
	}
	w.add("treated"+n, t.Ended, func(_ *Known, command *metav1.Command) proto.Message {
		return &referralv1.EndTreatmentPeriodRequest{Command: command, PathwayId: path, Facts: &referralv1.TreatmentEndFacts{On: t.Ended, LastPeriod: t.Last, Organisation: org}}
	})
	summary := inForce("eots_target", t.Ended)
	if summary {
		w.summary(i, t)
	}
	if !t.Last {
		return
	}
	if inForce("hna_eot", t.Ended) {
		w.notOffered("04", t.Ended)
	}
	w.add("follow-up", t.Ended, func(_ *Known, command *metav1.Command) proto.Message {
		return &referralv1.StartFollowUpRequest{Command: command, PathwayId: path, Facts: &referralv1.FollowUpFacts{On: t.Ended, Arrangement: c.Arrangement}}
	})
	w.surveillance(t)
	w.handover(summary)
}

// summary writes, approves and issues the summary of a period of treatment.
func (w *writer) summary(i int, t Treatment) {
	c, path := w.c, w.path
	of := func(k *Known) *planv1.Summary {
		for _, s := range k.Plan.GetSummaries() {
			if s.Period.GetEndedOn() == t.Ended {
				return s
			}
		}
		return nil
	}
	clinician := user(w.j.Source, "clinician/"+c.Team.Code)
	n := fmt.Sprint("/", i+1)
	on := min(plus(t.Ended, 28), w.last())
	w.add("summary-draft"+n, on, func(k *Known, command *metav1.Command) proto.Message {
		return &planv1.DraftSummaryRequest{Command: command, PathwayId: path, SummaryId: of(k).GetSummaryId(), Content: w.content(i)}
	}).Ready = func(k *Known) bool { return of(k) != nil }
	w.add("summary-ready"+n, on, func(k *Known, command *metav1.Command) proto.Message {
		return &planv1.MarkSummaryReadyRequest{Command: command, PathwayId: path, SummaryId: of(k).GetSummaryId()}
	})
	w.add("summary-approve"+n, on, func(k *Known, command *metav1.Command) proto.Message {
		command.Actor.OnBehalfOf, command.Actor.RoleCode = clinician, "R0050"
		return &planv1.ApproveSummaryRequest{Command: command, PathwayId: path, SummaryId: of(k).GetSummaryId(), ApproverRegistration: clinician[3:10], SeenVersion: 1}
	})
	to := []planv1.RecipientKind{planv1.RecipientKind_RECIPIENT_KIND_PATIENT, planv1.RecipientKind_RECIPIENT_KIND_GP, planv1.RecipientKind_RECIPIENT_KIND_LEAD_OR_TEAM}
	w.add("summary-issue"+n, on, func(k *Known, command *metav1.Command) proto.Message {
		return &planv1.IssueSummaryRequest{Command: command, PathwayId: path, SummaryId: of(k).GetSummaryId(), On: on, Recipients: to}
	})
	for _, r := range to {
		w.add(fmt.Sprint("summary-arrived", n, "/", int32(r)), on, func(k *Known, command *metav1.Command) proto.Message {
			return &planv1.RecordDeliveryRequest{Command: command, PathwayId: path, SummaryId: of(k).GetSummaryId(), Version: 1, Recipient: r, Delivered: true}
		})
	}
}

// modalities in words, for those that sources have.
var modalities = map[string]string{"01": "Surgery", "02": "Chemotherapy", "03": "Hormone treatment", "04": "Chemoradiotherapy", "05": "Radiotherapy", "06": "Brachytherapy",
	"07": "Specialist palliative care", "08": "Active monitoring", "15": "Immunotherapy"}

// content is the summary of the period that ends with treatment i.
func (w *writer) content(i int) *planv1.SummaryContent {
	c := w.c
	first := i
	for first > 0 && c.Treatment[first-1].Ended == "" {
		first--
	}
	end := c.Treatment[i].Ended
	out := &planv1.SummaryContent{DiagnosedOn: c.Told, Staging: cmp.Or(c.Stage, "not staged in the source"), Intent: planv1.TreatmentIntent_TREATMENT_INTENT_CURATIVE,
		ToxicitiesAndLateEffects: "Not recorded in the source", RedFlagSymptoms: "New or lasting symptoms near the site", ReAccessContact: c.Team.Name,
		OtherReferrals: "Not recorded in the source", OngoingManagement: "As agreed in the plan", StratifiedPathway: "Clinic", GpActions: "Code the diagnosis and the treatment",
		Support: "Care lead", Responsible: c.Team.Name, PlainLanguage: "This part of your treatment has ended.", Language: "en", Format: "letter"}
	if c.Arrangement == referralv1.FollowUpArrangement_FOLLOW_UP_ARRANGEMENT_PATIENT_INITIATED {
		out.StratifiedPathway = "Patient initiated"
	}
	var words []string
	for _, t := range c.Treatment[first : i+1] {
		words = append(words, cmp.Or(modalities[t.Modality], "Treatment")+" from "+t.Started)
		if t.Modality == "07" {
			out.Intent = planv1.TreatmentIntent_TREATMENT_INTENT_PALLIATIVE
		}
		out.Periods = append(out.Periods, &planv1.TreatmentPeriod{Modality: t.Modality, StartedOn: t.Started, EndedOn: end, Last: c.Treatment[i].Last})
	}
	out.Treatment = strings.Join(words, "; ")
	return out
}

// surveillance starts by the protocol of the site where the organisation has
// approved one; else it says why there is none.
func (w *writer) surveillance(t Treatment) {
	c, path := w.c, w.path
	w.add("surveillance", t.Ended, func(k *Known, command *metav1.Command) proto.Message {
		if c.Site.Protocol != "" && k.Approved(c.Site.Protocol, c.Team.Code) {
			return &planv1.StartSurveillanceRequest{Command: command, PathwayId: path, Protocol: c.Site.Protocol, Organisation: c.Team.Code, TumourGroup: c.Site.Group,
				Anchor: t.Ended, AnchorEvent: "end of treatment", RiskGroup: "standard", ReAccessPhone: noPhone}
		}
		return &planv1.RecordSurveillanceNotNeededRequest{Command: command, PathwayId: path, Reason: "the organisation has approved no protocol for this cancer: followed up in clinic"}
	})
}

// handover passes the pathway to the lead near home, as far as the journey has come.
func (w *writer) handover(summary bool) {
	c, path, lead := w.c, w.path, w.j.Lead
	if c.Handover == NoHandover || lead == nil {
		return
	}
	w.add("handover-prepare", "", func(_ *Known, command *metav1.Command) proto.Message {
		r := &careleadv1.PrepareHandoverRequest{Command: command, PathwayId: path, Kind: careleadv1.HandoverKind_HANDOVER_KIND_TO_LEAD, PatientInformed: true, ConsentToShare: true}
		if !summary || !c.Plan {
			r.OverrideReason, r.OverrideSecondPerson = "treated before summaries were due", user(w.j.Source, "clinician/"+c.Team.Code)
		}
		return r
	}).Ready = func(k *Known) bool { return k.Ledger != nil }
	if c.Handover == Prepared {
		return
	}
	versions := func(k *Known) (summary, plan int64) {
		for _, s := range k.Plan.GetSummaries() {
			if s.Version > 0 {
				summary = s.Version
			}
		}
		return summary, k.Plan.GetPlan().GetVersion()
	}
	w.add("handover-offer", "", func(k *Known, command *metav1.Command) proto.Message {
		r := &careleadv1.OfferHandoverRequest{Command: command, PathwayId: path, Kind: careleadv1.HandoverKind_HANDOVER_KIND_TO_LEAD, LeadId: lead.ID, NeighbourhoodId: w.j.Home.ID}
		r.SummaryVersion, r.PlanVersion = versions(k)
		return r
	})
	if c.Handover == Offered {
		return
	}
	as := func(command *metav1.Command) *metav1.Command {
		command.Actor.Organisation, command.Actor.OnBehalfOf = lead.Organisation, lead.User
		return command
	}
	w.add("handover-seen", "", func(k *Known, command *metav1.Command) proto.Message {
		return &careleadv1.AcknowledgeOfferRequest{Command: as(command), PathwayId: path, HandoverId: k.Ledger.GetHandover().GetHandoverId()}
	})
	w.add("handover-accept", "", func(k *Known, command *metav1.Command) proto.Message {
		r := &careleadv1.AcceptHandoverRequest{Command: as(command), PathwayId: path, HandoverId: k.Ledger.GetHandover().GetHandoverId()}
		r.SummaryVersion, r.PlanVersion = k.Ledger.GetHandover().GetSummaryVersion(), k.Ledger.GetHandover().GetPlanVersion()
		return r
	})
	if c.Contacted != "" {
		w.add("handover-contact", c.Contacted, func(_ *Known, command *metav1.Command) proto.Message {
			return &careleadv1.RecordFirstContactRequest{Command: as(command), PathwayId: path, Made: true, On: c.Contacted, Medium: "TELEPHONE"}
		})
	}
}

// end closes the pathway and its plan.
func (w *writer) end() {
	c, path := w.c, w.path
	on, why, outcome := c.Closed, c.Reason, "completed"
	if w.j.Died != "" && on == "" {
		on, why, outcome = w.j.Died, referralv1.CloseReason_CLOSE_REASON_DIED, "revoked"
	}
	if on == "" {
		return
	}
	w.add("close", on, func(_ *Known, command *metav1.Command) proto.Message {
		return &referralv1.ClosePathwayRequest{Command: command, PathwayId: path, Facts: &referralv1.CloseFacts{On: on, Reason: why}}
	})
	if c.Told != "" {
		w.add("plan-close", on, func(_ *Known, command *metav1.Command) proto.Message {
			return &planv1.ClosePlanRequest{Command: command, PathwayId: path, Outcome: outcome, Reason: map[string]string{"completed": "follow-up is complete", "revoked": "the patient died"}[outcome]}
		})
	}
}

// contacts books each appointment, the next one before the outcome of this, so
// that none ends without what follows.
func (w *writer) contacts() {
	var booked []Contact
	for _, x := range w.c.Contacts {
		if x.Stay {
			w.stay(x)
			continue
		}
		booked = append(booked, x)
	}
	slices.SortStableFunc(booked, func(a, b Contact) int { return a.Start.Compare(b.Start) })
	w.day = w.c.Received
	for i, x := range booked {
		if i == 0 {
			w.book(x, false)
		}
		next := ""
		if i+1 < len(booked) {
			next = booked[i+1].ID
			w.book(booked[i+1], booked[i+1].Start.Before(x.End))
		}
		w.attend(x, next)
	}
}

func day(t time.Time) string { return nhs.DateOf(t).String() }

func (w *writer) book(x Contact, overlaps bool) {
	path := w.path
	medium := appointmentv1.Medium_MEDIUM_FACE_TO_FACE
	if x.Remote {
		medium = appointmentv1.Medium_MEDIUM_TELEPHONE
	}
	s := w.add("book/"+x.ID, "", func(_ *Known, command *metav1.Command) proto.Message {
		r := &appointmentv1.BookAppointmentRequest{Command: command, PathwayId: path, Purpose: x.Purpose, PasSystem: w.j.Source, PasId: x.ID,
			Place: &appointmentv1.Place{Place: &appointmentv1.Place_External{External: &appointmentv1.ExternalBooking{
				Start: x.Start.UTC().Format(time.RFC3339), End: x.End.UTC().Format(time.RFC3339), Medium: medium, Site: x.At.Code}}}}
		if overlaps {
			r.OverlapOverrideReason = "as the source has it"
		}
		return r
	})
	s.Contact, s.Optional = x.ID, true
}

func (w *writer) attend(x Contact, next string) {
	on := day(x.Start)
	if on > w.last() {
		return
	}
	path := w.path
	s := w.add("attend/"+x.ID, on, func(k *Known, command *metav1.Command) proto.Message {
		command.OccurredAt = timestamppb.New(x.Start)
		id := k.Appointments[x.ID]
		if id == "" {
			return nil // not booked, and said so
		}
		r := &appointmentv1.RecordOutcomeRequest{Command: command, PathwayId: path, AppointmentId: id, AttendanceCode: "5", On: on, OutcomeCode: "1"}
		switch {
		case k.Appointments[next] != "":
			r.OutcomeCode, r.NextAppointmentId = "2", k.Appointments[next]
		case x.Next:
			r.OutcomeCode = "3"
		}
		return r
	})
	s.Optional = true
}

func (w *writer) stay(x Contact) {
	path := w.path
	method := "11"
	if x.Emergency {
		method = "21"
	}
	w.add("admit/"+x.ID, day(x.Start), func(_ *Known, command *metav1.Command) proto.Message {
		command.OccurredAt = timestamppb.New(x.Start)
		return &appointmentv1.RecordAdmissionRequest{Command: command, PathwayId: path, VisitId: x.ID, Organisation: x.At.Code, At: x.Start.UTC().Format(time.RFC3339), AdmissionMethod: method, PlannedTreatment: !x.Emergency}
	}).Optional = true
	if day(x.End) > w.last() {
		return
	}
	w.add("discharge/"+x.ID, day(x.End), func(_ *Known, command *metav1.Command) proto.Message {
		command.OccurredAt = timestamppb.New(x.End)
		return &appointmentv1.RecordDischargeRequest{Command: command, PathwayId: path, VisitId: x.ID, At: x.End.UTC().Format(time.RFC3339), DischargeMethod: "1"}
	}).Optional = true
}

// Home is the setting up of a neighbourhood, its pool and a lead, before journeys
// lead there. It is sent once for each that is new.
func (n *Neighbourhood) Steps(source string) []proto.Message {
	person := func(role, name string) *careleadv1.PartyInput {
		return &careleadv1.PartyInput{Kind: careleadv1.PartyKind_PARTY_KIND_PERSON_IN_ROLE, Id: n.ID + "-" + role, Name: name, Organisation: n.Host.Code, SdsUserId: user(source, n.ID+"/"+role)}
	}
	pool := &careleadv1.PartyInput{Kind: careleadv1.PartyKind_PARTY_KIND_FALLBACK_POOL, Id: n.ID + "-pool", Name: n.Name + " duty pool", Organisation: n.Host.Code, Hours: "Mon-Fri 9-17"}
	until, _ := nhs.ParseDate(far)
	return []proto.Message{
		&careleadv1.DefineNeighbourhoodRequest{Command: n.command(source, "define/"+strings.Join(n.Practices, " ")), NeighbourhoodId: n.ID, Name: n.Name, Organisation: n.Host.Code, Practices: n.Practices,
			Manager: person("manager", n.Name+" manager"), AllianceContact: person("alliance", n.Name+" alliance contact")},
		&careleadv1.AcceptFallbackRequest{Command: n.command(source, "pool"), NeighbourhoodId: n.ID, Pool: pool, Until: timestamppb.New(until.Start()), OutOfHoursMessage: "Call 111"},
	}
}

// Serve makes a neighbourhood serve these practices.
func (n *Neighbourhood) Serve(source string, practices []string) proto.Message {
	return &careleadv1.ChangePracticesRequest{Command: n.command(source, "serve/"+strings.Join(practices, " ")), NeighbourhoodId: n.ID, Practices: practices}
}

func (n *Neighbourhood) command(source, step string) *metav1.Command {
	return &metav1.Command{CommandId: ID(source, "neighbourhood", n.ID, step), Actor: &metav1.Actor{User: Actor, Organisation: n.Host.Code}}
}

// Steps invites a lead and lets them be offered pathways.
func (l *Lead) Steps(source, neighbourhood string) []proto.Message {
	command := func(step string) *metav1.Command {
		return &metav1.Command{CommandId: ID(source, "lead", l.ID, step), Actor: &metav1.Actor{User: Actor, Organisation: l.Organisation}}
	}
	return []proto.Message{
		&careleadv1.RegisterLeadRequest{Command: command("register"), LeadId: l.ID, NeighbourhoodIds: []string{neighbourhood}, Languages: []string{"en"}, Capacity: l.Capacity,
			Party: &careleadv1.PartyInput{Kind: careleadv1.PartyKind_PARTY_KIND_PERSON_IN_ROLE, Id: l.ID, Name: l.Name, Organisation: l.Organisation, SdsUserId: l.User, RoleCode: "R9801"}},
		&careleadv1.ActivateLeadRequest{Command: command("activate"), LeadId: l.ID},
	}
}

package edge

import (
	"cmp"
	"html"
	"slices"
	"strconv"
	"strings"

	planv1 "waymark/proto/waymark/plan/v1"
	"waymark/services/edge/fhir"
	"waymark/services/kit/es"
)

// carePlans makes a CarePlan of each plan of a pathway. A section that is
// withheld today is in no version of it.
func carePlans(x *snapshot) (all []fhir.Resource, err error) {
	r, err := x.plan()
	if err != nil {
		return nil, err
	}
	for _, p := range plansOf(r) {
		out := &fhir.CarePlan{
			ID: p.PlanId, Identifier: []fhir.Identifier{*own("plan-id", p.PlanId)}, Status: word(p.State, "PLAN_STATE"), Intent: "plan", Subject: x.patient(),
			Category: []fhir.CodeableConcept{*codeable(snomedCT, "736252007", "Cancer care plan")}, Title: "Personalised Cancer Plan",
			CareTeam: []fhir.Reference{*to("CareTeam", x.owner)}, SupportingInfo: []fhir.Reference{*to("EpisodeOfCare", x.owner)},
		}
		if p.KeyWorker != "" {
			out.Author = practitioner(p.KeyWorker)
		}
		if p.TreatingOrganisation != "" {
			out.Contributor = []fhir.Reference{*orgRef(p.TreatingOrganisation)}
			out.Contributor[0].Display = p.TreatingTeam
		}
		if p.FollowsPlanId != "" {
			out.Replaces = []fhir.Reference{*to("CarePlan", p.FollowsPlanId)}
		}
		if p.Diagnosis != nil {
			out.Addresses = append(out.Addresses, *to("Condition", x.owner))
			out.Period = period(p.Diagnosis.DiagnosedOn, "")
		}
		for _, c := range p.Concerns {
			out.Addresses = append(out.Addresses, *to("Condition", c.ConcernId))
		}
		for _, g := range p.Goals {
			out.Goal = append(out.Goal, *to("Goal", g.GoalId))
		}
		for _, a := range p.Actions {
			detail := &fhir.CarePlanActivityDetail{Kind: "Task", Status: word(a.Status, "ACTION_STATUS"), Description: a.Description}
			if a.Due != "" {
				detail.Scheduled = &fhir.Period{End: a.Due}
			}
			if a.GoalId != "" {
				detail.Goal = []fhir.Reference{*to("Goal", a.GoalId)}
			}
			for _, c := range a.ConcernIds {
				detail.ReasonReference = append(detail.ReasonReference, *to("Condition", c))
			}
			switch {
			case a.Assignee != "":
				detail.Performer = []fhir.Reference{*practitioner(a.Assignee)}
			case a.Organisation != "":
				detail.Performer = []fhir.Reference{*orgRef(a.Organisation)}
			}
			if role := cmp.Or(a.AssigneeRole, a.RequiredRole); role != "" {
				detail.Extension = append(detail.Extension, ownExtension("role", codeable(ukCodes+"SDSJobRoleName", role, "")))
			}
			detail.Extension = append(detail.Extension, ownExtension("actionId", fhir.String(a.ActionId)))
			out.Activity = append(out.Activity, fhir.CarePlanActivity{Detail: detail})
		}
		for _, s := range p.Sections {
			if s.WithheldReason == "" && strings.TrimSpace(s.Text) != "" {
				out.Note = append(out.Note, fhir.Annotation{Text: s.Text, Extension: []fhir.Extension{ownExtension("section", fhir.Code(s.Code))}})
			}
		}
		if p.Version > 0 {
			out.Extension = append(out.Extension, ownExtension("planVersion", fhir.PositiveInt(p.Version)))
		}
		if p.ReviewDue != "" {
			out.Extension = append(out.Extension, ownExtension("reviewDue", fhir.Date(p.ReviewDue)))
		}
		if p.Agreement != 0 {
			e := ownExtension("patientAgreement", nil)
			e.Extension = []fhir.Extension{{URL: "agreement", Value: fhir.Code(word(p.Agreement, "AGREEMENT"))}}
			if p.AgreementOn != "" {
				e.Extension = append(e.Extension, fhir.Extension{URL: "on", Value: fhir.Date(p.AgreementOn)})
			}
			out.Extension = append(out.Extension, e)
		}
		all = append(all, out)
	}
	return all, nil
}

// plansOf lists the plans of a record, oldest first.
func plansOf(r *planv1.Record) []*planv1.Plan {
	plans := slices.Clone(r.GetEarlierPlans())
	if r.GetPlan() != nil {
		plans = append(plans, r.Plan)
	}
	return plans
}

func goals(x *snapshot) (all []fhir.Resource, err error) {
	r, err := x.plan()
	if err != nil {
		return nil, err
	}
	for _, p := range plansOf(r) {
		for _, g := range p.Goals {
			out := &fhir.Goal{ID: g.GoalId, Identifier: []fhir.Identifier{*own("goal-id", g.GoalId)}, LifecycleStatus: word(g.Status, "GOAL_STATUS"),
				Description: &fhir.CodeableConcept{Text: g.Description}, Subject: x.patient()}
			if g.TargetOn != "" {
				out.Target = []fhir.GoalTarget{{Due: fhir.Date(g.TargetOn)}}
			}
			for _, c := range g.ConcernIds {
				out.Addresses = append(out.Addresses, *to("Condition", c))
			}
			all = append(all, out)
		}
	}
	return all, nil
}

// conditions makes the diagnosis of a pathway, under the pathway's id, and a
// Condition of each concern.
func conditions(x *snapshot) (all []fhir.Resource, err error) {
	v, err := x.view()
	if err != nil {
		return nil, err
	}
	r, err := x.plan()
	if err != nil {
		return nil, err
	}
	plans := plansOf(r)
	clinical := func(code string) *fhir.CodeableConcept { return codeable(terminology+"condition-clinical", code, "") }
	confirmed := codeable(terminology+"condition-ver-status", "confirmed", "")

	var d *planv1.Diagnosis
	if len(plans) > 0 {
		d = plans[len(plans)-1].Diagnosis
	}
	if v.GetDiagnosis() != nil || d != nil {
		out := &fhir.Condition{ID: x.owner, Identifier: []fhir.Identifier{*own("pathway-id", x.owner)}, ClinicalStatus: clinical("active"), VerificationStatus: confirmed,
			Category: []fhir.CodeableConcept{*codeable(terminology+"condition-category", "encounter-diagnosis", "")}, Code: &fhir.CodeableConcept{}, Subject: x.patient()}
		if code := cmp.Or(d.GetIcd10(), v.GetDiagnosis().GetIcd10()); code != "" {
			out.Code.Coding = append(out.Code.Coding, fhir.Coding{System: icd10, Code: code})
		}
		if m := d.GetMorphology(); m != "" {
			out.Extension = append(out.Extension, ownExtension("morphology", fhir.String(m)))
		}
		if group := v.GetDiagnosis().GetTumourGroup(); group != "" {
			out.Code.Coding = append(out.Code.Coding, fhir.Coding{System: ours + "CodeSystem/tumour-group", Code: group})
		}
		if out.Code.Coding == nil {
			out.Code.Text = "Cancer, not yet coded"
		}
		if on := d.GetDiagnosedOn(); on != "" {
			out.Onset = fhir.DateTime(on)
		}
		if s := d.GetStage(); s != "" {
			out.Stage = []fhir.ConditionStage{{Summary: &fhir.CodeableConcept{Text: s}}}
			if d.UnstagedReason != "" {
				out.Stage[0].Summary.Text += ": " + d.UnstagedReason
			}
		}
		if l := d.GetLaterality(); l != "" {
			out.BodySite = []fhir.CodeableConcept{{Text: l}}
		}
		all = append(all, out)
	}
	for _, p := range plans {
		for _, c := range p.Concerns {
			out := &fhir.Condition{ID: c.ConcernId, Identifier: []fhir.Identifier{*own("concern-id", c.ConcernId)}, ClinicalStatus: clinical("active"), VerificationStatus: confirmed,
				Category: []fhir.CodeableConcept{*codeable(terminology+"condition-category", "problem-list-item", "")}, Code: ownCode("concern", c.Code), Subject: x.patient()}
			out.Code.Coding[0].Display = x.s.concern(x.ctx, c.Code)
			if c.State == planv1.ConcernState_CONCERN_STATE_RESOLVED {
				out.ClinicalStatus = clinical("resolved")
			}
			out.Extension = append(out.Extension, ownExtension("concernState", fhir.Code(word(c.State, "CONCERN_STATE"))), ownExtension("concernScore", fhir.Integer(c.Score)))
			if c.PatientPriority > 0 {
				out.Extension = append(out.Extension, ownExtension("patientPriority", fhir.PositiveInt(c.PatientPriority)))
			}
			if c.AssessmentId != "" {
				out.Evidence = []fhir.ConditionEvidence{{Detail: []fhir.Reference{*to("QuestionnaireResponse", c.AssessmentId)}}}
			}
			all = append(all, out)
		}
	}
	return all, nil
}

// responses makes a QuestionnaireResponse of each assessment that was begun and
// of each response to a questionnaire.
func responses(x *snapshot) (all []fhir.Resource, err error) {
	r, err := x.plan()
	if err != nil {
		return nil, err
	}
	author := func(out *fhir.QuestionnaireResponse, by string) {
		switch by {
		case "patient":
			out.Author, out.Source = x.patient(), x.patient()
		case "proxy":
			out.Author = &fhir.Reference{Type: "RelatedPerson", Display: "a proxy of the patient"}
			out.Source = out.Author
		}
	}
	for _, a := range r.GetAssessments() {
		status := ""
		switch a.State {
		case planv1.AssessmentState_ASSESSMENT_STATE_IN_PROGRESS:
			status = "in-progress"
		case planv1.AssessmentState_ASSESSMENT_STATE_SUBMITTED, planv1.AssessmentState_ASSESSMENT_STATE_DISCUSSED, planv1.AssessmentState_ASSESSMENT_STATE_CLOSED:
			status = "completed"
		default:
			continue
		}
		out := &fhir.QuestionnaireResponse{ID: a.AssessmentId, Identifier: own("assessment-id", a.AssessmentId), Questionnaire: ours + "Questionnaire/holistic-needs-assessment|1",
			Status: status, Subject: x.patient(), Authored: a.SubmittedOn}
		author(out, a.Author)
		out.Extension = append(out.Extension, ownExtension("pointOfPathway", fhir.Code(a.Point)))
		if a.StaffRole != "" {
			out.Extension = append(out.Extension, ownExtension("staffRole", fhir.Code(a.StaffRole)))
		}
		for _, c := range a.Concerns {
			item := fhir.QuestionnaireResponseItem{LinkId: c.Code, Text: x.s.concern(x.ctx, c.Code), Answer: []fhir.QuestionnaireResponseItemAnswer{{Value: fhir.Integer(c.Score)}}}
			if c.PatientPriority > 0 {
				item.Answer[0].Item = []fhir.QuestionnaireResponseItem{{LinkId: c.Code + ".priority", Answer: []fhir.QuestionnaireResponseItemAnswer{{Value: fhir.Integer(c.PatientPriority)}}}}
			}
			out.Item = append(out.Item, item)
		}
		all = append(all, out)
	}
	for _, p := range r.GetResponses() {
		out := &fhir.QuestionnaireResponse{ID: p.ResponseId, Identifier: own("response-id", p.ResponseId), Questionnaire: ours + "Questionnaire/" + p.Instrument + "|" + p.InstrumentVersion,
			Status: "completed", Subject: x.patient(), Authored: p.On}
		author(out, p.Author)
		if p.State == planv1.ResponseState_RESPONSE_STATE_REJECTED {
			out.Status = "stopped" // incomplete or out of range: it was not scored
			out.Extension = append(out.Extension, ownExtension("rejectedReason", fhir.Code(p.ReasonCode)))
		}
		for _, a := range p.Answers {
			out.Item = append(out.Item, fhir.QuestionnaireResponseItem{LinkId: a.Item, Answer: []fhir.QuestionnaireResponseItemAnswer{{Value: fhir.Integer(a.Value)}}})
		}
		for _, s := range p.Scores {
			e := ownExtension("score", nil)
			e.Extension = []fhir.Extension{
				{URL: "scale", Value: fhir.Code(s.Scale)}, {URL: "value", Value: fhir.Decimal(strconv.FormatFloat(s.Value, 'f', -1, 64))},
				{URL: "algorithm", Value: fhir.String(p.Algorithm + " " + p.AlgorithmVersion)},
			}
			out.Extension = append(out.Extension, e)
		}
		all = append(all, out)
	}
	return all, nil
}

// summaryStatus in the words of Composition.status; "" for one that nobody has drafted.
func summaryStatus(s *planv1.Summary) string {
	switch s.State {
	case planv1.SummaryState_SUMMARY_STATE_DRAFTING, planv1.SummaryState_SUMMARY_STATE_READY:
		return "preliminary"
	case planv1.SummaryState_SUMMARY_STATE_APPROVED, planv1.SummaryState_SUMMARY_STATE_ISSUED, planv1.SummaryState_SUMMARY_STATE_ACKNOWLEDGED:
		if s.Version > 1 {
			return "amended"
		}
		return "final"
	case planv1.SummaryState_SUMMARY_STATE_WITHDRAWN:
		return "entered-in-error"
	}
	return ""
}

// summaryType: which term of the NHS refset 1127551000000109 it is, is open; ours until then.
func summaryType() *fhir.CodeableConcept {
	c := ownCode("document-type", "end-of-treatment-summary")
	c.Coding[0].Display, c.Text = "End-of-treatment summary", "Cancer end-of-treatment summary"
	return c
}

func (x *snapshot) composition(s *planv1.Summary, written string) *fhir.Composition {
	c := s.Content
	out := &fhir.Composition{
		ID: s.SummaryId, Identifier: own("summary-id", s.SummaryId), Status: summaryStatus(s), Type: summaryType(), Title: "End-of-treatment summary", Subject: x.patient(),
		Date: cmp.Or(s.IssuedOn, written), Language: "en-GB", Category: []fhir.CodeableConcept{*codeable(snomedCT, "736252007", "Cancer care plan")},
	}
	for _, user := range s.DraftedBy {
		out.Author = append(out.Author, *practitioner(user))
	}
	if out.Author == nil {
		out.Author = []fhir.Reference{{Type: "Practitioner", Display: "not recorded"}}
	}
	if s.ApprovedBy != "" && out.Status != "preliminary" {
		out.Attester = []fhir.CompositionAttester{{Mode: "professional", Party: practitioner(s.ApprovedBy)}}
	}
	if p := s.Period; p != nil {
		out.Event = []fhir.CompositionEvent{{Period: period(p.StartedOn, p.EndedOn)}}
		if p.Modality != "" {
			out.Event[0].Code = []fhir.CodeableConcept{*ownCode("treatment-modality", p.Modality)}
		}
		if out.Event[0].Period == nil && out.Event[0].Code == nil {
			out.Event = nil
		}
	}
	if s.Version > 0 {
		out.Extension = append(out.Extension, ownExtension("summaryVersion", fhir.PositiveInt(s.Version)))
	}
	if n := max(s.DraftVersion, s.Version); n > 1 {
		out.RelatesTo = []fhir.CompositionRelatesTo{{Code: "replaces", Target: own("summary-version", s.SummaryId+"/"+version(es.Position(n-1)))}}
	}
	section := func(code, title, text string) {
		if text = strings.TrimSpace(text); text != "" {
			out.Section = append(out.Section, fhir.CompositionSection{Title: title, Code: ownCode("summary-section", code), Text: narrative(text)})
		}
	}
	section("diagnosed-on", "Date of diagnosis", c.GetDiagnosedOn())
	section("staging", "Staging", c.GetStaging())
	var treatment strings.Builder
	treatment.WriteString(c.GetTreatment())
	for _, p := range c.GetPeriods() {
		treatment.WriteString("\nTreatment " + p.Modality + " from " + cmp.Or(p.StartedOn, "?") + " to " + cmp.Or(p.EndedOn, "?"))
	}
	section("treatment", "Treatment", treatment.String())
	if c.GetIntent() != 0 {
		section("intent", "Intent of treatment", word(c.Intent, "TREATMENT_INTENT"))
	}
	section("toxicities-and-late-effects", "Toxicities and late effects", c.GetToxicitiesAndLateEffects())
	section("red-flag-symptoms", "Symptoms that need attention", c.GetRedFlagSymptoms())
	section("re-access-contact", "How to get back in touch", c.GetReAccessContact())
	section("other-referrals", "Other referrals", c.GetOtherReferrals())
	section("ongoing-management", "Ongoing management", c.GetOngoingManagement())
	section("stratified-pathway", "Follow-up pathway", c.GetStratifiedPathway())
	section("gp-actions", "Actions for the GP", c.GetGpActions())
	section("support", "Support", c.GetSupport())
	section("responsible", "Who is responsible", c.GetResponsible())
	section("plain-language", "In plain language", c.GetPlainLanguage())
	if c.GetLanguage() != "" || c.GetFormat() != "" {
		section("language-and-format", "Language and format", strings.TrimSpace(c.GetLanguage()+" "+c.GetFormat()))
	}
	return out
}

// narrative makes one XHTML div of plain text.
func narrative(text string) *fhir.Narrative {
	paragraphs := strings.Split(html.EscapeString(text), "\n")
	return &fhir.Narrative{Status: "generated", Div: `<div xmlns="http://www.w3.org/1999/xhtml"><p>` + strings.Join(paragraphs, "<br/>") + "</p></div>"}
}

// written is when the stream of the plan had its last event in this snapshot: a
// document that was not issued yet is dated by it.
func (x *snapshot) written(categories ...string) stamp {
	at, _, err := x.s.records.newest(categories, x.owner, asOf{position: max(x.at, x.seen)}, false)
	x.note(err)
	return at
}

func compositions(x *snapshot) (all []fhir.Resource, err error) {
	r, err := x.plan()
	if err != nil {
		return nil, err
	}
	if err := x.s.records.Wait(x.ctx, x.seen); err != nil {
		return nil, err
	}
	for _, s := range r.GetSummaries() {
		if summaryStatus(s) != "" {
			all = append(all, x.composition(s, stampText(x.written("plan").time())))
		}
	}
	return all, nil
}

func documentReferences(x *snapshot) (all []fhir.Resource, err error) {
	r, err := x.plan()
	if err != nil {
		return nil, err
	}
	if err := x.s.records.Wait(x.ctx, x.seen); err != nil {
		return nil, err
	}
	for _, s := range r.GetSummaries() {
		doc := summaryStatus(s)
		if doc == "" {
			continue
		}
		out := &fhir.DocumentReference{
			ID: s.SummaryId, Identifier: []fhir.Identifier{*own("summary-id", s.SummaryId)}, Status: "current", DocStatus: doc, Type: summaryType(), Subject: x.patient(),
			Category: []fhir.CodeableConcept{*codeable(snomedCT, "736252007", "Cancer care plan")}, Date: stampText(x.written("plan").time()),
			Content: []fhir.DocumentReferenceContent{{Attachment: &fhir.Attachment{ContentType: "application/fhir+json", Language: "en-GB", URL: x.base + "/Bundle/" + s.SummaryId, Title: "End-of-treatment summary"}}},
			Context: &fhir.DocumentReferenceContext{Related: []fhir.Reference{*to("EpisodeOfCare", x.owner)}, Period: period(s.Period.GetStartedOn(), s.Period.GetEndedOn())},
		}
		if doc == "entered-in-error" {
			out.Status = doc
		}
		for _, user := range s.DraftedBy {
			out.Author = append(out.Author, *practitioner(user))
		}
		if s.ApprovedBy != "" && doc != "preliminary" {
			out.Authenticator = practitioner(s.ApprovedBy)
		}
		all = append(all, out)
	}
	return all, nil
}

// documents makes the document Bundle of each summary: the Composition, and a
// Patient with no more than is needed to know who it is about.
func documents(x *snapshot) (all []fhir.Resource, err error) {
	made, err := compositions(x)
	if err != nil || len(made) == 0 {
		return nil, err
	}
	reply, err := x.person()
	if err != nil {
		return nil, err
	}
	if err := x.s.records.Wait(x.ctx, x.seen); err != nil {
		return nil, err
	}
	p := reply.GetPerson()
	patient := &fhir.Patient{ID: strings.TrimPrefix(x.patient().Reference, "Patient/"), BirthDate: p.GetBirthDate()}
	if p.GetNhsNumber() != "" {
		patient.Identifier = []fhir.Identifier{{System: nhsID + "nhs-number", Value: p.NhsNumber}}
	}
	if n := p.GetName(); n != nil {
		patient.Name = []fhir.HumanName{{Family: n.Family, Given: n.Given}}
	}
	stamped := x.written("plan", "person")
	for _, r := range made {
		stampResource(r, x.written("plan"))
		id := fhir.ID(r)
		all = append(all, &fhir.Bundle{
			ID: id, Type: "document", Identifier: own("document-id", id+"/"+version(stamped.position)), Timestamp: stampText(stamped.time()),
			Entry: []fhir.BundleEntry{
				{FullUrl: x.base + "/Composition/" + id, Resource: r},
				{FullUrl: x.base + "/Patient/" + patient.ID, Resource: patient},
			},
		})
	}
	return all, nil
}

// communications makes a Communication of each sending of a summary.
func communications(x *snapshot) (all []fhir.Resource, err error) {
	r, err := x.plan()
	if err != nil {
		return nil, err
	}
	for _, s := range r.GetSummaries() {
		for _, d := range s.Deliveries {
			who := word(d.Recipient, "RECIPIENT_KIND")
			out := &fhir.Communication{
				ID: s.SummaryId + "." + who, Identifier: []fhir.Identifier{*own("summary-delivery", s.SummaryId+"/"+who)}, Subject: x.patient(), Sent: s.IssuedOn,
				Category: []fhir.CodeableConcept{*ownCode("communication", "end-of-treatment-summary")}, About: []fhir.Reference{*to("DocumentReference", s.SummaryId)},
				Payload: []fhir.CommunicationPayload{{Content: to("DocumentReference", s.SummaryId)}},
			}
			switch d.Recipient {
			case planv1.RecipientKind_RECIPIENT_KIND_PATIENT:
				out.Recipient = []fhir.Reference{*x.patient()}
			case planv1.RecipientKind_RECIPIENT_KIND_GP:
				out.Recipient = []fhir.Reference{{Type: "Organization", Display: "the GP practice"}} // which one is not said: the person may be restricted
			default:
				out.Recipient = []fhir.Reference{*to("CareTeam", x.owner)}
			}
			switch d.State {
			case planv1.DeliveryState_DELIVERY_STATE_DELIVERED, planv1.DeliveryState_DELIVERY_STATE_ACKNOWLEDGED:
				out.Status = "completed"
			case planv1.DeliveryState_DELIVERY_STATE_FAILED:
				out.Status, out.StatusReason = "not-done", ownCode("delivery", "failed")
			default:
				out.Status = "in-progress"
			}
			out.Extension = append(out.Extension, ownExtension("summaryVersion", fhir.PositiveInt(d.Version)))
			all = append(all, out)
		}
	}
	return all, nil
}

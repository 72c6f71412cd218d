package edge

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	appointmentv1 "waymark/proto/waymark/appointment/v1"
	careleadv1 "waymark/proto/waymark/carelead/v1"
	pathwayv1 "waymark/proto/waymark/pathway/v1"
	personv1 "waymark/proto/waymark/person/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/edge/fhir"
)

// Systems of identifiers and codes. What has no published one is ours.
const (
	nhsID       = "https://fhir.nhs.uk/Id/"
	ukCore      = "https://fhir.hl7.org.uk/StructureDefinition/Extension-UKCore-"
	ukCodes     = "https://fhir.hl7.org.uk/CodeSystem/UKCore-"
	ours        = "https://waymark.example/fhir/" // no domain of anybody: RFC 2606
	snomedCT    = "http://snomed.info/sct"
	icd10       = "http://hl7.org/fhir/sid/icd-10"
	terminology = "http://terminology.hl7.org/CodeSystem/"
)

// localSystem is that of the local identifiers of an organisation.
func localSystem(ods string) string { return ours + "Id/local-patient-identifier/" + ods }

func to(typ, id string) *fhir.Reference { return &fhir.Reference{Reference: typ + "/" + id, Type: typ} }

// orgRef refers to an ODS code; nobody keeps an Organization for it here.
func orgRef(ods string) *fhir.Reference {
	if ods == "" {
		return nil
	}
	return &fhir.Reference{Type: "Organization", Identifier: &fhir.Identifier{System: nhsID + "ods-organization-code", Value: ods}}
}

// party refers to who can be accountable: a person in a role by their SDS ids,
// a team or pool by what it is called here.
func party(p *careleadv1.Party) *fhir.Reference {
	switch {
	case p == nil:
		return nil
	case p.SdsRoleProfileId != "":
		return &fhir.Reference{Type: "PractitionerRole", Identifier: &fhir.Identifier{System: nhsID + "sds-role-profile-id", Value: p.SdsRoleProfileId}, Display: p.Name}
	case p.SdsUserId != "":
		return &fhir.Reference{Type: "PractitionerRole", Identifier: &fhir.Identifier{System: nhsID + "sds-user-id", Value: p.SdsUserId}, Display: p.Name}
	case p.Kind == careleadv1.PartyKind_PARTY_KIND_PERSON_IN_ROLE:
		return &fhir.Reference{Type: "PractitionerRole", Identifier: own("party-id", p.Id), Display: p.Name}
	}
	return &fhir.Reference{Type: "Organization", Identifier: &fhir.Identifier{System: ours + "Id/party-id", Value: p.Id, Assigner: orgRef(p.Organisation)}, Display: p.Name}
}

// practitioner refers to somebody by their SDS user id.
func practitioner(user string) *fhir.Reference {
	return &fhir.Reference{Type: "Practitioner", Identifier: &fhir.Identifier{System: nhsID + "sds-user-id", Value: user}}
}

func own(what, value string) *fhir.Identifier {
	return &fhir.Identifier{System: ours + "Id/" + what, Value: value}
}

func ownCode(set, code string) *fhir.CodeableConcept {
	return codeable(ours+"CodeSystem/"+set, code, "")
}

func codeable(system, code, display string) *fhir.CodeableConcept {
	return &fhir.CodeableConcept{Coding: []fhir.Coding{{System: system, Code: code, Display: display}}}
}

func extension(url string, value fhir.Value) fhir.Extension {
	return fhir.Extension{URL: url, Value: value}
}

func ownExtension(name string, value fhir.Value) fhir.Extension {
	return extension(ours+"StructureDefinition/"+name, value)
}

// word makes a code of an enum's name: HANDOVER_KIND_TO_LEAD of HANDOVER_KIND is to-lead.
func word(enum interface{ String() string }, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(enum.String(), prefix+"_")), "_", "-")
}

func atText(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return stampText(t.AsTime())
}

// period from one time to another, nil when neither is known.
func period(start, end string) *fhir.Period {
	if start == "" && end == "" {
		return nil
	}
	return &fhir.Period{Start: start, End: end}
}

// patients makes the Patient of a person. A restricted one has no address, no
// telecom and no GP, in no version: the person service withholds them.
func patients(x *snapshot) ([]fhir.Resource, error) {
	reply, err := x.person()
	p := reply.GetPerson()
	if err != nil || p == nil {
		return nil, err
	}
	out := &fhir.Patient{ID: x.owner, Active: new(true)}
	if p.PersonId != x.owner { // merged
		out.Active = new(false)
		out.Link = []fhir.PatientLink{{Other: to("Patient", p.PersonId), Type: "replaced-by"}}
		return []fhir.Resource{out}, nil
	}
	if p.Restricted {
		out.Meta = &fhir.Meta{Security: []fhir.Coding{{System: terminology + "v3-Confidentiality", Code: "R", Display: "restricted"}}}
	}
	if p.NhsNumber != "" {
		out.Identifier = append(out.Identifier, fhir.Identifier{
			System: nhsID + "nhs-number", Value: p.NhsNumber,
			Extension: []fhir.Extension{extension(ukCore+"NHSNumberVerificationStatus", codeable(ukCodes+"NHSNumberVerificationStatusEngland", p.NhsNumberStatus, ""))},
		})
	}
	for _, n := range p.NhsNumbers {
		if n.State == personv1.NhsNumberState_NHS_NUMBER_STATE_SUPERSEDED && n.NhsNumber != "" {
			out.Identifier = append(out.Identifier, fhir.Identifier{Use: "old", System: nhsID + "nhs-number", Value: n.NhsNumber})
		}
	}
	for _, l := range p.LocalIdentifiers {
		out.Identifier = append(out.Identifier, fhir.Identifier{System: localSystem(l.Assigner), Value: l.Value, Assigner: orgRef(l.Assigner)})
	}
	if n := p.Name; n != nil {
		name := fhir.HumanName{Use: "official", Family: n.Family, Given: n.Given}
		if n.Prefix != "" {
			name.Prefix = []string{n.Prefix}
		}
		out.Name = []fhir.HumanName{name}
	}
	out.BirthDate = p.BirthDate
	switch {
	case p.Death != "2":
	case p.DiedOn != "":
		out.Deceased = fhir.DateTime(p.DiedOn)
	default:
		out.Deceased = fhir.Boolean(true)
	}
	if p.Death != "" {
		out.Extension = append(out.Extension, fhir.Extension{URL: ukCore + "DeathNotificationStatus", Extension: []fhir.Extension{
			extension("deathNotificationStatus", codeable(ukCodes+"DeathNotificationStatus", p.Death, "")),
		}})
	}
	if p.EthnicCategory != "" {
		out.Extension = append(out.Extension, extension(ukCore+"EthnicCategory", codeable(ukCodes+"EthnicCategoryEngland", p.EthnicCategory, "")))
	}
	if p.ContactPreference != "" {
		out.Extension = append(out.Extension, fhir.Extension{URL: ukCore + "ContactPreference", Extension: []fhir.Extension{
			extension("PreferredContactMethod", codeable(ukCodes+"PreferredContactMethod", p.ContactPreference, "")),
		}})
	}
	for _, t := range p.Telecoms.GetItems() {
		out.Telecom = append(out.Telecom, fhir.ContactPoint{System: t.System, Value: t.Value, Use: t.Use})
	}
	if a := p.Address; a != nil {
		address := fhir.Address{Use: "home", PostalCode: a.Postcode}
		for _, line := range a.Lines {
			if strings.TrimSpace(line) != "" {
				address.Line = append(address.Line, line)
			}
		}
		if address.PostalCode != "" || address.Line != nil {
			out.Address = []fhir.Address{address}
		}
	}
	if p.GetPractice() != "" {
		out.GeneralPractitioner = []fhir.Reference{*orgRef(p.GetPractice())}
	}
	for _, n := range p.Needs.GetCommunication() {
		if l := n.Need.GetLanguage(); l != "" && !slices.ContainsFunc(out.Communication, func(c fhir.PatientCommunication) bool { return c.Language.Coding[0].Code == l }) {
			out.Communication = append(out.Communication, fhir.PatientCommunication{Language: codeable("urn:ietf:bcp:47", l, "")})
		}
	}
	return []fhir.Resource{out}, nil
}

// flags makes a Flag of each need of a person.
func flags(x *snapshot) (all []fhir.Resource, err error) {
	reply, err := x.person()
	p := reply.GetPerson()
	if err != nil || p.GetPersonId() != x.owner {
		return nil, err
	}
	flag := func(id, code, detail string, category *fhir.CodeableConcept) {
		f := &fhir.Flag{ID: id, Identifier: []fhir.Identifier{*own("need-id", id)}, Status: "active", Category: []fhir.CodeableConcept{*category}, Code: codeable(snomedCT, code, ""), Subject: to("Patient", x.owner)}
		f.Code.Text = detail
		all = append(all, f)
	}
	for _, n := range p.Needs.GetCommunication() {
		flag(n.NeedId, n.Need.Code, n.Need.Detail, ownCode("need", "communication"))
	}
	for _, n := range p.Needs.GetAdjustments() {
		flag(n.NeedId, n.Adjustment.Code, n.Adjustment.Detail, ownCode("reasonable-adjustment-category", n.Adjustment.Category))
	}
	return all, nil
}

// accountable is the extension that names the holder and since when; the one
// fact that this system is for has no element of R4 that fits every party.
func accountable(p *careleadv1.Party, since *timestamppb.Timestamp) fhir.Extension {
	e := fhir.Extension{URL: ours + "StructureDefinition/coordinationAccountable", Extension: []fhir.Extension{{URL: "party", Value: party(p)}}}
	if since != nil {
		e.Extension = append(e.Extension, extension("since", fhir.DateTime(atText(since))))
	}
	return e
}

// episodes makes the EpisodeOfCare of a pathway.
func episodes(x *snapshot) ([]fhir.Resource, error) {
	v, err := x.view()
	if err != nil || v == nil || v.Start == nil {
		return nil, err
	}
	out := &fhir.EpisodeOfCare{ID: x.owner, Patient: x.patient(), Status: "active", Identifier: []fhir.Identifier{*own("pathway-id", x.owner)}}
	if id := v.Start.PathwayIdentifier; id != "" {
		out.Identifier = append(out.Identifier, fhir.Identifier{System: nhsID + "PathwayId", Value: id, Assigner: orgRef(v.Start.PathwayIdentifierIssuer)})
	}
	out.Type = []fhir.CodeableConcept{*ownCode("pathway-route", word(v.Route, "ROUTE")), *ownCode("pathway-state", word(v.State, "PATHWAY_STATE"))}
	out.Period = period(v.Start.ReceivedOn, v.Closed.GetOn())
	out.StatusHistory = []fhir.EpisodeOfCareStatusHistory{{Status: "active", Period: out.Period}}
	if v.Closed != nil {
		out.Status = "finished"
		if v.Closed.Reason == referralv1.CloseReason_CLOSE_REASON_ENTERED_IN_ERROR {
			out.Status = "entered-in-error"
		}
		out.StatusHistory = append(out.StatusHistory, fhir.EpisodeOfCareStatusHistory{Status: out.Status, Period: period(v.Closed.On, "")})
	}
	out.ManagingOrganization = orgRef(v.Start.ResponsibleTeam.GetOrganisation())
	out.Team = []fhir.Reference{*to("CareTeam", x.owner)}
	if h := v.Holder; h != nil {
		var since *timestamppb.Timestamp
		if n := len(v.Custody); n > 0 {
			since = v.Custody[n-1].Since
		}
		out.Extension = append(out.Extension, accountable(h, since))
		if h.Kind == careleadv1.PartyKind_PARTY_KIND_PERSON_IN_ROLE {
			out.CareManager = party(h)
		}
	}
	for _, c := range v.Clocks {
		clock := fhir.Extension{URL: ours + "StructureDefinition/waitingTimeClock", Extension: []fhir.Extension{
			extension("clock", fhir.Code(c.Clock)), extension("status", fhir.Code(word(c.Status, "CLOCK_STATUS"))),
		}}
		if p := period(c.StartOn, c.EndOn); p != nil {
			clock.Extension = append(clock.Extension, extension("period", p))
		}
		if c.Days != nil {
			clock.Extension = append(clock.Extension, extension("days", fhir.Integer(*c.Days)))
		}
		// Whether a running clock is late depends on the day of reading, and no event says so: the day after which it is.
		if c.EndOn != "" {
			clock.Extension = append(clock.Extension, extension("breach", fhir.Boolean(c.Breach)))
		} else if c.BreachAfter != "" {
			clock.Extension = append(clock.Extension, extension("breachAfter", fhir.Date(c.BreachAfter)))
		}
		if c.Rule != "" {
			clock.Extension = append(clock.Extension, extension("rule", fhir.String(c.Rule)))
		}
		out.Extension = append(out.Extension, clock)
	}
	if v.Diagnosis != nil {
		out.Diagnosis = []fhir.EpisodeOfCareDiagnosis{{Condition: to("Condition", x.owner)}}
	}
	return []fhir.Resource{out}, nil
}

// careTeams makes the CareTeam of a pathway: who was accountable, in order.
func careTeams(x *snapshot) ([]fhir.Resource, error) {
	v, err := x.view()
	if err != nil || v == nil || v.Start == nil {
		return nil, err
	}
	out := &fhir.CareTeam{ID: x.owner, Identifier: []fhir.Identifier{*own("pathway-id", x.owner)}, Status: "active", Subject: x.patient(), Name: "Accountable for the pathway",
		Period: period(v.Start.ReceivedOn, v.Closed.GetOn())}
	if v.Closed != nil {
		out.Status = "inactive"
	}
	out.ManagingOrganization = []fhir.Reference{*orgRef(cmp.Or(v.Holder.GetOrganisation(), v.Start.ResponsibleTeam.GetOrganisation()))}
	for _, c := range v.Custody {
		one := fhir.CareTeamParticipant{Member: party(c.Holder), Period: period(atText(c.Since), atText(c.Until))}
		if code := c.Holder.GetRoleCode(); code != "" {
			one.Role = []fhir.CodeableConcept{*codeable(ukCodes+"SDSJobRoleName", code, "")}
		}
		if c.Holder.GetKind() == careleadv1.PartyKind_PARTY_KIND_PERSON_IN_ROLE {
			one.Extension = append(one.Extension, ownExtension("organisation", orgRef(c.Holder.Organisation)))
		}
		if c.ActingFor != nil {
			one.Extension = append(one.Extension, ownExtension("actingFor", party(c.ActingFor)))
		}
		if c.Until == nil {
			one.Extension = append(one.Extension, ownExtension("coordinationAccountable", fhir.Boolean(true)))
		}
		out.Participant = append(out.Participant, one)
	}
	return []fhir.Resource{out}, nil
}

// tasks makes the Task of each handover, and the receiver's of each referral.
func tasks(x *snapshot) (all []fhir.Resource, err error) {
	v, err := x.view()
	if err != nil {
		return nil, err
	}
	handovers := slices.Clone(v.GetPastHandovers())
	if v.GetOpenHandover() != nil {
		handovers = append(handovers, v.OpenHandover)
	}
	for _, h := range handovers {
		all = append(all, x.handover(h))
	}
	referrals, err := x.referrals()
	if err != nil {
		return nil, err
	}
	for _, r := range referrals {
		if r.TaskStatus != "" {
			all = append(all, x.referralTask(r))
		}
	}
	return all, nil
}

func (x *snapshot) handover(h *pathwayv1.Handover) *fhir.Task {
	out := &fhir.Task{
		ID: h.HandoverId, Identifier: []fhir.Identifier{*own("handover-id", h.HandoverId)}, Intent: "order", Code: ownCode("task", "accept-care-lead"),
		Focus: to("EpisodeOfCare", x.owner), For: x.patient(), Requester: party(h.From), Owner: party(h.To),
		AuthoredOn:   cmp.Or(atText(h.OfferedAt), atText(h.PreparedAt)),
		LastModified: cmp.Or(atText(h.EndedAt), atText(h.SeenAt), atText(h.OfferedAt), atText(h.PreparedAt)),
	}
	out.Status = map[pathwayv1.HandoverState]string{
		pathwayv1.HandoverState_HANDOVER_STATE_PREPARED: "draft", pathwayv1.HandoverState_HANDOVER_STATE_OFFERED: "requested", pathwayv1.HandoverState_HANDOVER_STATE_SEEN: "received",
		pathwayv1.HandoverState_HANDOVER_STATE_ACCEPTED: "accepted", pathwayv1.HandoverState_HANDOVER_STATE_DECLINED: "rejected", pathwayv1.HandoverState_HANDOVER_STATE_EXPIRED: "failed",
	}[h.State]
	out.Status = cmp.Or(out.Status, "cancelled") // withdrawn, or void
	out.BusinessStatus = ownCode("handover-state", word(h.State, "HANDOVER_STATE"))
	if h.DeclineReason != 0 {
		out.StatusReason = ownCode("handover-decline-reason", word(h.DeclineReason, "DECLINE_REASON"))
	} else if h.VoidReason != 0 {
		out.StatusReason = ownCode("handover-void-reason", word(h.VoidReason, "VOID_REASON"))
	}
	if h.Kind != 0 {
		out.Input = append(out.Input, fhir.TaskInput{Type: ownCode("task-input", "handover-kind"), Value: fhir.Code(word(h.Kind, "HANDOVER_KIND"))})
	}
	for name, n := range map[string]int64{"summary-version": h.SummaryVersion, "plan-version": h.PlanVersion} {
		if n > 0 {
			out.Input = append(out.Input, fhir.TaskInput{Type: ownCode("task-input", name), Value: fhir.PositiveInt(n)})
		}
	}
	slices.SortFunc(out.Input, func(a, b fhir.TaskInput) int { return strings.Compare(a.Type.Coding[0].Code, b.Type.Coding[0].Code) })
	if h.AnswerDue != nil {
		out.Restriction = &fhir.TaskRestriction{Period: period("", atText(h.AnswerDue))}
	}
	if h.EscalationLevel > 0 {
		out.Extension = append(out.Extension, ownExtension("escalationLevel", fhir.PositiveInt(h.EscalationLevel)))
	}
	return out
}

func (x *snapshot) referralTask(r *referralv1.Referral) *fhir.Task {
	out := &fhir.Task{
		ID: r.ReferralId, Identifier: []fhir.Identifier{*own("referral-id", r.ReferralId)}, Intent: "order", Status: r.TaskStatus, Code: codeable("http://hl7.org/fhir/CodeSystem/task-code", "fulfill", ""),
		Focus: to("ServiceRequest", r.ReferralId), For: x.patient(), AuthoredOn: atText(r.SentAt),
		Requester: orgRef(r.Content.GetRequester().GetOrganisation()), Owner: orgRef(r.Content.GetTarget().GetOrganisation()),
	}
	if r.RejectionReason != "" {
		out.StatusReason = codeable("https://fhir.nhs.uk/CodeSystem/rejected-reasons-bars", r.RejectionReason, "")
	}
	if r.RespondBy != nil {
		out.Restriction = &fhir.TaskRestriction{Period: period("", atText(r.RespondBy))}
	}
	return out
}

// serviceRequests makes a ServiceRequest of each referral. Whom to reach about
// it is not in it: see the README.
func serviceRequests(x *snapshot) (all []fhir.Resource, err error) {
	referrals, err := x.referrals()
	if err != nil {
		return nil, err
	}
	for _, r := range referrals {
		c := r.Content
		out := &fhir.ServiceRequest{
			ID: r.ReferralId, Status: cmp.Or(r.ServiceRequestStatus, "draft"), Intent: "order", Subject: x.patient(), AuthoredOn: atText(r.SentAt),
			Identifier: []fhir.Identifier{*own("referral-id", r.ReferralId)}, Priority: word(c.GetPriority(), "REFERRAL_PRIORITY"),
			Category:       []fhir.CodeableConcept{*ownCode("referral-kind", word(c.GetKind(), "REFERRAL_KIND"))},
			SupportingInfo: []fhir.Reference{*to("EpisodeOfCare", x.owner)},
		}
		if out.Priority == "unspecified" {
			out.Priority = ""
		}
		if r.HumanId != "" {
			out.Identifier = append(out.Identifier, *own("referral-number", r.HumanId))
		}
		if c.GetUbrn() != "" {
			out.Identifier = append(out.Identifier, fhir.Identifier{System: nhsID + "UBRN", Value: c.Ubrn})
		}
		if q := c.GetRequester(); q != nil {
			out.Requester = &fhir.Reference{Type: "PractitionerRole", Identifier: &fhir.Identifier{System: nhsID + "sds-user-id", Value: q.User, Assigner: orgRef(q.Organisation)}}
		}
		if o := orgRef(c.GetTarget().GetOrganisation()); o != nil {
			out.Performer = append(out.Performer, *o)
		}
		if id := c.GetTarget().GetDosServiceId(); id != "" {
			out.Performer = append(out.Performer, fhir.Reference{Type: "HealthcareService", Identifier: &fhir.Identifier{System: nhsID + "dos-service-id", Value: id}})
		}
		if id := c.GetTarget().GetServiceId(); id != "" {
			out.Performer = append(out.Performer, fhir.Reference{Type: "HealthcareService", Identifier: own("service-id", id)})
		}
		if c.GetReasonCode() != "" {
			out.ReasonCode = []fhir.CodeableConcept{*codeable(snomedCT, c.ReasonCode, "")}
			out.ReasonCode[0].Text = c.Reason
		} else if c.GetReason() != "" {
			out.ReasonCode = []fhir.CodeableConcept{{Text: c.Reason}}
		}
		if c.GetPriorityReason() != "" {
			out.Note = append(out.Note, fhir.Annotation{Text: c.PriorityReason})
		}
		for i, need := range c.GetRequirements() {
			id := "requirement-" + strconv.Itoa(i+1)
			out.Contained = append(out.Contained, &fhir.Flag{ID: id, Status: "active", Code: codeable(snomedCT, need, ""), Subject: x.patient()})
			out.SupportingInfo = append(out.SupportingInfo, fhir.Reference{Reference: "#" + id})
		}
		for _, a := range c.GetAttachments() {
			out.SupportingInfo = append(out.SupportingInfo, fhir.Reference{Type: "DocumentReference", Identifier: own("document-id", a.DocumentId), Display: a.Title})
		}
		if c.GetUseCase() != "" {
			out.Extension = append(out.Extension, ownExtension("useCase", fhir.Code(c.UseCase)))
		}
		if c.GetReplaces() != "" {
			out.Replaces = []fhir.Reference{*to("ServiceRequest", c.Replaces)}
		}
		all = append(all, out)
	}
	return all, nil
}

// appointments makes an Appointment of each.
func appointments(x *snapshot) (all []fhir.Resource, err error) {
	reply, err := x.booked()
	if err != nil {
		return nil, err
	}
	for _, a := range reply.GetAppointments() {
		all = append(all, x.appointment(a))
	}
	return all, nil
}

func (x *snapshot) appointment(a *appointmentv1.Appointment) *fhir.Appointment {
	out := &fhir.Appointment{
		ID: a.AppointmentId, Identifier: []fhir.Identifier{*own("appointment-id", a.AppointmentId)}, Status: strings.ReplaceAll(word(a.Status, "APPOINTMENT_STATUS"), "_", "-"),
		Description: a.Purpose, Participant: []fhir.AppointmentParticipant{{Actor: x.patient(), Status: "accepted"}},
	}
	if a.PasId != "" {
		out.Identifier = append(out.Identifier, fhir.Identifier{System: ours + "Id/pas-appointment-id/" + a.PasSystem, Value: a.PasId})
	}
	if a.PortalId != "" {
		out.Identifier = append(out.Identifier, *own("portal-appointment-id", a.PortalId))
	}
	if a.ReferralId != "" {
		out.BasedOn = []fhir.Reference{*to("ServiceRequest", a.ReferralId)}
	}
	booking := a.Booking
	if booking == nil && len(a.Earlier) > 0 {
		booking = a.Earlier[len(a.Earlier)-1]
	}
	if f := cmp.Or(booking.GetTreatmentFunction(), a.TreatmentFunction); f != "" {
		out.Specialty = []fhir.CodeableConcept{*codeable(ukCodes+"PracticeSettingCode", f, "")}
	}
	if b := booking; b != nil {
		out.Start, out.End = atText(b.Start), atText(b.End)
		out.MinutesDuration = new(int32(b.End.AsTime().Sub(b.Start.AsTime()).Minutes()))
		if *out.MinutesDuration < 1 {
			out.MinutesDuration = nil
		}
		if b.SlotId != "" {
			out.Slot = []fhir.Reference{*to("Slot", b.SlotId)}
		}
		if m := deliveryChannel(b.Medium); m != "" {
			out.Extension = append(out.Extension, extension(ukCore+"DeliveryChannel", codeable(ukCodes+"DeliveryChannel", m, "")))
		}
		if b.Site != "" {
			out.Participant = append(out.Participant, fhir.AppointmentParticipant{Status: "accepted", Actor: &fhir.Reference{Type: "Location", Identifier: &fhir.Identifier{System: nhsID + "ods-site-code", Value: b.Site}, Display: b.Room}})
		}
		if b.PractitionerRole != "" {
			out.Participant = append(out.Participant, fhir.AppointmentParticipant{Status: "accepted", Actor: &fhir.Reference{Type: "PractitionerRole", Display: b.PractitionerRole}})
		}
	} else if out.Status == "entered-in-error" {
		out.Status = "cancelled" // R4 wants a start in all but proposed and cancelled
		out.CancelationReason = ownCode("cancelled-by", "entered-in-error")
	}
	if a.WantedBy != "" && booking == nil {
		out.RequestedPeriod = []fhir.Period{{End: a.WantedBy}}
	}
	if a.CancelledBy != 0 {
		out.CancelationReason = ownCode("cancelled-by", word(a.CancelledBy, "CANCELLED_BY"))
		out.CancelationReason.Text = a.CancelReason
	}
	for _, n := range a.Needs {
		out.Extension = append(out.Extension, ownExtension("need", &fhir.CodeableConcept{Text: n}))
	}
	for _, n := range a.UnmetNeeds {
		out.Extension = append(out.Extension, ownExtension("unmetNeed", &fhir.CodeableConcept{Text: n}))
	}
	if a.RequestStatus != 0 {
		out.Extension = append(out.Extension, ownExtension("requestStatus", fhir.Code(word(a.RequestStatus, "REQUEST_STATUS"))))
	}
	if a.AttendanceCode != "" {
		out.Extension = append(out.Extension, ownExtension("attendedOrDidNotAttend", fhir.Code(a.AttendanceCode)))
	}
	if a.OutcomeCode != "" {
		out.Extension = append(out.Extension, ownExtension("outcomeOfAttendance", fhir.Code(a.OutcomeCode)))
	}
	if a.CancerPriorityReason != "" {
		out.Extension = append(out.Extension, ownExtension("cancerPriorityReason", fhir.Code(a.CancerPriorityReason)))
	}
	return out
}

func deliveryChannel(m appointmentv1.Medium) string {
	return map[appointmentv1.Medium]string{
		appointmentv1.Medium_MEDIUM_FACE_TO_FACE: "In-person", appointmentv1.Medium_MEDIUM_VIDEO_CONSULTATION: "Video", appointmentv1.Medium_MEDIUM_TELEPHONE: "Telephone",
	}[m]
}

// schedules makes the Schedule of a session.
func schedules(x *snapshot) ([]fhir.Resource, error) {
	s, err := x.session()
	if err != nil || s == nil {
		return nil, err
	}
	out := &fhir.Schedule{ID: x.owner, Identifier: []fhir.Identifier{*own("session-id", x.owner)}, Active: new(s.State == appointmentv1.SessionState_SESSION_STATE_OPEN)}
	out.Actor = []fhir.Reference{{Type: "Location", Identifier: &fhir.Identifier{System: nhsID + "ods-site-code", Value: s.Site}}, *orgRef(s.Organisation)}
	out.Actor[1].Type = "HealthcareService" // of the organisation; R4 takes no Organization here
	if s.PractitionerRole != "" {
		out.Actor = append(out.Actor, fhir.Reference{Type: "PractitionerRole", Display: s.PractitionerRole})
	}
	if s.TreatmentFunction != "" {
		out.Specialty = []fhir.CodeableConcept{*codeable(ukCodes+"PracticeSettingCode", s.TreatmentFunction, "")}
	}
	if s.Modality != "" {
		out.ServiceType = []fhir.CodeableConcept{{Text: s.Modality}}
	}
	if n := len(s.Slots); n > 0 {
		out.PlanningHorizon = period(atText(s.Slots[0].Slot.Start), atText(s.Slots[n-1].Slot.End))
	}
	return []fhir.Resource{out}, nil
}

// slots makes the Slots of a session. Whose a taken one is does not show.
func slots(x *snapshot) (all []fhir.Resource, err error) {
	s, err := x.session()
	if err != nil || s == nil {
		return nil, err
	}
	for _, one := range s.Slots {
		out := &fhir.Slot{ID: one.Slot.SlotId, Identifier: []fhir.Identifier{*own("slot-id", one.Slot.SlotId)}, Schedule: to("Schedule", x.owner), Start: atText(one.Slot.Start), End: atText(one.Slot.End)}
		switch {
		case one.State == appointmentv1.SlotState_SLOT_STATE_TAKEN:
			out.Status = "busy"
		case one.State == appointmentv1.SlotState_SLOT_STATE_HELD:
			out.Status = "busy-tentative"
		case s.State != appointmentv1.SessionState_SESSION_STATE_OPEN:
			out.Status = "busy-unavailable"
		default:
			out.Status = "free"
		}
		if s.TreatmentFunction != "" {
			out.Specialty = []fhir.CodeableConcept{*codeable(ukCodes+"PracticeSettingCode", s.TreatmentFunction, "")}
		}
		if m := deliveryChannel(s.Medium); m != "" {
			out.Extension = []fhir.Extension{extension(ukCore+"DeliveryChannel", codeable(ukCodes+"DeliveryChannel", m, ""))}
		}
		all = append(all, out)
	}
	return all, nil
}

// maxTimeline bounds how many events of a pathway have a Provenance at once.
const maxTimeline = 5000

// provenances makes a Provenance of each event of a pathway: what was recorded,
// by which organisation and role. Each is at its own position, and never changes.
func provenances(x *snapshot) (all []fhir.Resource, err error) {
	req := &pathwayv1.GetTimelineRequest{PathwayId: x.owner, PageSize: 1000}
	if x.at > 0 {
		req.AsOf = &pathwayv1.AsOf{Moment: &pathwayv1.AsOf_Position{Position: uint64(x.at)}}
	}
	for len(all) < maxTimeline {
		reply, err := x.s.views.GetTimeline(x.ctx, req)
		if err != nil {
			return nil, err
		}
		for _, e := range reply.Entries {
			x.saw(e.Position)
			if strings.HasPrefix(e.Stream, "person-") {
				continue // told with the pathway, but not of it
			}
			who := cmp.Or(orgRef(e.Organisation), &fhir.Reference{Type: "Organization", Display: "Waymark itself"})
			out := &fhir.Provenance{
				ID: x.owner + "." + strconv.FormatUint(e.Position, 10), Meta: &fhir.Meta{VersionId: strconv.FormatUint(e.Position, 10), LastUpdated: atText(e.Recorded)},
				Target: []fhir.Reference{*to("EpisodeOfCare", x.owner)}, Recorded: atText(e.Recorded), Occurred: fhir.DateTime(atText(cmp.Or(e.Occurred, e.Recorded))),
				Activity: ownCode("event", e.Type), Agent: []fhir.ProvenanceAgent{{Type: codeable(terminology+"provenance-participant-type", "performer", ""), Who: who}},
			}
			out.Activity.Text = e.Text
			if e.RoleCode != "" {
				out.Agent[0].Role = []fhir.CodeableConcept{*codeable(ukCodes+"SDSJobRoleName", e.RoleCode, "")}
			}
			all = append(all, out)
		}
		if req.PageToken = reply.NextPageToken; req.PageToken == "" {
			break
		}
	}
	return all, nil
}

package edge

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	referralv1 "waymark/proto/waymark/referral/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// pathwayID is the pathway that a referral started: RF1-6 names it for its sender.
func (w *work) pathwayID() (string, error) {
	placer := w.m.raw("RF1", 6)
	if placer == "" {
		return "", refuse("edge.field.required", "RF1-6", "the originating referral identifier is missing")
	}
	return w.derived("pathway", placer), nil
}

// referralID is what RF1-6 names when the referral is one on a pathway.
func (w *work) referralID() string { return w.derived("referral", w.m.raw("RF1", 6)) }

// suspected reports whether a referral is an urgent one for suspected cancer: by
// priority type 3 (two week wait), or the words that systems use for it.
func suspected(m message) bool {
	words := []string{"2WW", "TWW", "USC", "USCR"}
	return m.get("RF1-2") == "3" || slices.Contains(words, strings.ToUpper(m.get("RF1-2"))) || slices.Contains(words, strings.ToUpper(m.get("RF1-3")))
}

// sources are the values of SOURCE OF REFERRAL FOR OUT-PATIENTS that are taken.
var sources = []string{"01", "02", "03", "04", "05", "06", "07", "10", "11", "12", "13", "14", "15", "16", "17", "92", "93", "97"}

// referralKinds are words in RF1-3 for what somebody on a pathway is referred to.
// They are ours: HL7 leaves table 0281 to its users.
var referralKinds = map[string]referralv1.ReferralKind{
	"AHP": referralv1.ReferralKind_REFERRAL_KIND_ALLIED_HEALTH, "PHYSIO": referralv1.ReferralKind_REFERRAL_KIND_ALLIED_HEALTH,
	"DIET": referralv1.ReferralKind_REFERRAL_KIND_ALLIED_HEALTH, "SALT": referralv1.ReferralKind_REFERRAL_KIND_ALLIED_HEALTH,
	"OT": referralv1.ReferralKind_REFERRAL_KIND_ALLIED_HEALTH, "PSY": referralv1.ReferralKind_REFERRAL_KIND_PSYCHOLOGY,
	"PSYCH": referralv1.ReferralKind_REFERRAL_KIND_PSYCHOLOGY, "SP": referralv1.ReferralKind_REFERRAL_KIND_SOCIAL_PRESCRIBING,
	"PREHAB": referralv1.ReferralKind_REFERRAL_KIND_PREHABILITATION, "PAL": referralv1.ReferralKind_REFERRAL_KIND_PALLIATIVE_CARE,
	"HSP": referralv1.ReferralKind_REFERRAL_KIND_PALLIATIVE_CARE, "IPT": referralv1.ReferralKind_REFERRAL_KIND_INTER_PROVIDER_TRANSFER,
}

// refer is REF I12 and I13. One for suspected cancer starts a pathway; any other
// is a referral on the patient's open pathway.
func refer(ctx context.Context, w *work) error {
	if suspected(w.m) {
		return w.suspect(ctx)
	}
	if _, err := w.external("RF1-6", 200); err != nil {
		return err
	}
	kind := referralKinds[strings.ToUpper(w.m.get("RF1-3"))]
	if kind == 0 {
		return park("edge.referral.not_suspected_cancer", "RF1-3", "a referral for suspected cancer has priority 3, 2WW, TWW or USC; one on a pathway says to what: AHP, PSY, SP, PREHAB, PAL or IPT in RF1-3")
	}
	p, err := w.subject(ctx)
	if err != nil {
		return err
	}
	if w.thing("referral", w.m.raw("RF1", 6)) {
		return nil
	}
	return w.send(ctx, kind, p)
}

// startFacts reads what starts a pathway.
func (w *work) startFacts() (*referralv1.StartFacts, error) {
	m := w.m
	received, err := day(m.get("RF1-7"))
	if err != nil {
		return nil, refuse("edge.field.invalid", "RF1-7", "the day of receipt is YYYYMMDD and exists")
	}
	facts := &referralv1.StartFacts{ReceivedOn: received, Priority: "3", Source: "97", ResponsibleTeam: &referralv1.Team{Organisation: m.org, Name: "Referral management"}}
	if receiver := m.get("MSH-6"); odsCode.MatchString(receiver) {
		facts.ResponsibleTeam.Organisation = receiver
	}
	if kind := m.get("RF1-3"); len(kind) == 2 && kind >= "01" && kind <= "17" {
		facts.ReferralType = kind
	}
	if source := m.get("RF1-5"); slices.Contains(sources, source) {
		facts.Source = source
	} else if m.get("PRD-1") == "RP" {
		facts.Source = "03" // a general practitioner
	}
	return facts, nil
}

// suspect starts a pathway. A patient without an NHS number of status 01 or 02 is
// registered all the same, and is then on the person service's trace queue.
func (w *work) suspect(ctx context.Context) error {
	pathway, err := w.pathwayID()
	if err != nil {
		return err
	}
	facts, err := w.startFacts()
	if err != nil {
		return err
	}
	p, err := w.known(ctx)
	if err != nil {
		return err
	}
	w.said = p.source.SentAt
	if w.thing("referral", w.m.raw("RF1", 6)) {
		return nil
	}
	c := w.command("pathway")
	_, err = w.service.pathways.StartPathway(ctx, &referralv1.StartPathwayRequest{Command: c, PathwayId: pathway, PersonId: w.person, Facts: facts})
	if fault.CodeOf(err) != "pathway.exists" {
		if err != nil {
			return answered(err, "RF1-7")
		}
		w.done("referral.StartPathway", c, pathway)
		return nil
	}
	got, err := w.service.pathways.GetPathway(ctx, &referralv1.GetPathwayRequest{PathwayId: pathway})
	switch {
	case err != nil:
		return answered(err, "RF1-6")
	case !slices.Contains(w.service.index.familyOf(w.person), got.Pathway.GetPersonId()):
		return park("edge.referral.other_person", "RF1-6", "a referral with this identifier is of another patient")
	case !proto.Equal(got.Pathway.GetStart(), facts):
		return park("edge.referral.facts_differ", "RF1-6", "the pathway of this referral began with other facts (day of receipt, type, source or team): whether its clock changes is a person's decision, waymark call referral.CorrectClock")
	}
	w.noted("edge.referral.known", "RF1-6", "the pathway of this referral was started before: only the person's details were taken")
	return nil
}

// send drafts a referral on the patient's pathway and records it as sent. Its
// content never changes: a modification takes the place of the one before.
func (w *work) send(ctx context.Context, kind referralv1.ReferralKind, p patient) error {
	m := w.m
	id, base := w.referralID(), w.referralID()
	pathway, before, err := w.sent(ctx, base)
	if err != nil {
		return err
	}
	if before == nil {
		if pathway, err = w.pathway(ctx); err != nil {
			return err
		}
	}
	requester := coded(m.get("PRD-7.1"))
	if requester == "" {
		requester = "hl7/" + coded(m.get("MSH-3"))
	}
	content := &referralv1.ReferralContent{Kind: kind, Priority: referralv1.ReferralPriority_REFERRAL_PRIORITY_ROUTINE,
		Requester: &referralv1.Practitioner{User: requester, Organisation: m.org},
		Target:    &referralv1.Target{Organisation: m.org, Channel: referralv1.Channel_CHANNEL_MANUAL}}
	if receiver := m.get("MSH-6"); odsCode.MatchString(receiver) {
		content.Target.Organisation = receiver
	}
	if u := strings.ToUpper(m.get("RF1-2")); u == "U" || u == "2" || u == "URGENT" || u == "A" || u == "S" {
		content.Priority = referralv1.ReferralPriority_REFERRAL_PRIORITY_URGENT
	}
	reason, _ := m.firstOf("RF1-10.2", "DG1-4", "DG1-3.2", "RF1-3.2")
	content.Reason = short(reason, 4000)
	contact := &referralv1.Contact{Rank: 1, Kind: referralv1.ContactKind_CONTACT_KIND_PROFESSIONAL, Name: short(strings.TrimSpace(m.get("PRD-2.2")+" "+m.get("PRD-2.1")), 160)}
	if phone, _ := m.firstOf("PRD-5.1", "PRD-5.12"); phone != "" {
		contact.Methods = append(contact.Methods, &referralv1.ContactMethod{Rank: 1, System: referralv1.ContactSystem_CONTACT_SYSTEM_PHONE, Value: short(phone, 200)})
	} else {
		contact.Methods = append(contact.Methods, &referralv1.ContactMethod{Rank: 1, System: referralv1.ContactSystem_CONTACT_SYSTEM_OTHER, Value: "through " + m.org})
	}
	content.Contacts = []*referralv1.Contact{contact}
	if before != nil {
		if alike(before.Content, content) {
			if before.State != referralv1.ReferralState_REFERRAL_STATE_DRAFT {
				w.noted("edge.referral.known", "RF1-6", "the referral is recorded as it is here: nothing changes")
				return nil
			}
			id = before.ReferralId // drafted, then a crash: it is still to be sent
		} else {
			id, content.Replaces = w.derived("referral", m.raw("RF1", 6)+"\x00"+w.arrival.commands), before.ReferralId
		}
	}
	draft := w.command("draft")
	if before == nil || id != before.ReferralId {
		_, err = w.service.referrals.DraftReferral(ctx, &referralv1.DraftReferralRequest{Command: draft, PathwayId: pathway, ReferralId: id, Content: content})
		if err != nil {
			return answered(err, "RF1-3")
		}
		w.done("referral.DraftReferral", draft, id)
	}
	c := w.command("send")
	if _, err = w.service.referrals.SendReferral(ctx, &referralv1.SendReferralRequest{Command: c, PathwayId: pathway, ReferralId: id, NhsNumberStatus: p.status}); err != nil {
		return answered(err, "RF1-3")
	}
	w.done("referral.SendReferral", c, id)
	return nil
}

// alike reports whether two contents say the same, but for what the service
// fills in.
func alike(is, says *referralv1.ReferralContent) bool {
	return is.GetKind() == says.Kind && is.GetPriority() == says.Priority && is.GetReason() == says.Reason &&
		is.GetTarget().GetOrganisation() == says.Target.Organisation && is.GetRequester().GetUser() == says.Requester.User
}

// sent is the newest referral that RF1-6 stands for, on any pathway of the
// person; nil for none.
func (w *work) sent(ctx context.Context, base string) (pathway string, r *referralv1.Referral, err error) {
	for _, id := range w.pathways() {
		list, err := w.service.referrals.ListReferrals(ctx, &referralv1.ListReferralsRequest{PathwayId: id})
		if err != nil {
			if status.Code(err) == codes.NotFound {
				continue
			}
			return "", nil, answered(err, "RF1-6")
		}
		chain := map[string]bool{base: true}
		for _, one := range list.Referrals { // oldest first
			if chain[one.ReferralId] || chain[one.Content.GetReplaces()] {
				chain[one.ReferralId] = true
				pathway, r = id, one
			}
		}
	}
	return pathway, r, nil
}

// cancelReferral is REF I14. Of a suspected cancer referral only one sent by
// mistake closes its pathway by itself; any other withdrawal is for a person to
// look at, because nothing but a person's decision ends a cancer pathway.
func cancelReferral(ctx context.Context, w *work) error {
	id, err := w.pathwayID()
	if err != nil {
		return err
	}
	reason := strings.ToUpper(w.m.get("RF1-10"))
	mistake := reason == "EIE" || reason == "ENTERED-IN-ERROR"
	p, err := w.subject(ctx)
	if err != nil {
		return err
	}
	if w.thing("referral", w.m.raw("RF1", 6)) {
		return nil
	}
	if slices.Contains(w.pathways(), id) {
		if !mistake {
			return park("edge.referral.cancel_reason", "RF1-10", "only entered-in-error (EIE) closes a cancer pathway by itself: decide, then waymark call referral.ClosePathway")
		}
		on := nhs.DateOf(p.source.SentAt.AsTime()).String()
		c := w.command("close")
		if _, err := w.service.pathways.ClosePathway(ctx, &referralv1.ClosePathwayRequest{Command: c, PathwayId: id, Facts: &referralv1.CloseFacts{On: on, Reason: referralv1.CloseReason_CLOSE_REASON_ENTERED_IN_ERROR}}); err != nil {
			return answered(err, "RF1-6")
		}
		w.done("referral.ClosePathway", c, id)
		return nil
	}
	pathway, r, err := w.sent(ctx, w.referralID())
	if err != nil {
		return err
	}
	if r == nil {
		return park("edge.referral.unknown", "RF1-6", "this patient has no pathway and no referral with this identifier")
	}
	why := referralv1.CancelReason_CANCEL_REASON_NO_LONGER_NEEDED
	switch {
	case mistake:
		why = referralv1.CancelReason_CANCEL_REASON_ENTERED_IN_ERROR
	case reason == "PC", reason == "PATIENT":
		why = referralv1.CancelReason_CANCEL_REASON_PATIENT_CHOICE
	}
	if r.State == referralv1.ReferralState_REFERRAL_STATE_CANCELLED || r.State == referralv1.ReferralState_REFERRAL_STATE_ENTERED_IN_ERROR {
		w.noted("edge.referral.known", "RF1-6", "the referral was cancelled before: nothing changes")
		return nil
	}
	c := w.command("cancel")
	if _, err := w.service.referrals.CancelReferral(ctx, &referralv1.CancelReferralRequest{Command: c, PathwayId: pathway, ReferralId: r.ReferralId, SeenVersion: r.Version, CancelReason: why,
		Note: short(w.m.get("RF1-10.2"), 2000)}); err != nil {
		return answered(err, "RF1-6")
	}
	w.done("referral.CancelReferral", c, r.ReferralId)
	return nil
}

// referralStatus is REF I15: the answer says in RF1-1 how the referral stands (HL7
// table 0283: P pending, A accepted, R rejected, E expired).
func referralStatus(ctx context.Context, w *work) error {
	id, err := w.pathwayID()
	if err != nil {
		return err
	}
	if _, err := w.subject(ctx); err != nil {
		return err
	}
	if slices.Contains(w.pathways(), id) {
		got, err := w.service.pathways.GetPathway(ctx, &referralv1.GetPathwayRequest{PathwayId: id})
		if err != nil {
			return answered(err, "RF1-6")
		}
		w.referralStatus = "A"
		if got.Pathway.GetClosed() != nil {
			w.referralStatus = "E"
		}
		return nil
	}
	_, r, err := w.sent(ctx, w.referralID())
	if err != nil {
		return err
	}
	if r == nil {
		return park("edge.referral.unknown", "RF1-6", "this patient has no pathway and no referral with this identifier")
	}
	switch r.State {
	case referralv1.ReferralState_REFERRAL_STATE_DRAFT, referralv1.ReferralState_REFERRAL_STATE_SENT, referralv1.ReferralState_REFERRAL_STATE_RECEIVED:
		w.referralStatus = "P"
	case referralv1.ReferralState_REFERRAL_STATE_REJECTED:
		w.referralStatus = "R"
	case referralv1.ReferralState_REFERRAL_STATE_ACCEPTED, referralv1.ReferralState_REFERRAL_STATE_IN_PROGRESS, referralv1.ReferralState_REFERRAL_STATE_ON_HOLD, referralv1.ReferralState_REFERRAL_STATE_COMPLETED:
		w.referralStatus = "A"
	default:
		w.referralStatus = "E"
	}
	return nil
}

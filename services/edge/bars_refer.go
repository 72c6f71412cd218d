package edge

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	metav1 "waymark/proto/waymark/meta/v1"
	referralv1 "waymark/proto/waymark/referral/v1"
)

// referralOf is the referral that a ServiceRequest is here: its identifier names it
// for its sender, else its id.
func (in *intake) referralOf(r resource) string {
	return uuid.NewSHA1(space, []byte("referral\x00"+in.pathwayOf(r))).String()
}

// referralMessage is servicerequest-request, from those who refer to us, and
// servicerequest-response, from those to whom we referred.
func (in *intake) referralMessage(m *barsMessage, who *someone) (func(context.Context) error, error) {
	state := m.focus.str("status")
	if !slices.Contains([]string{"draft", "active", "on-hold", "revoked", "completed", "entered-in-error", "unknown"}, state) {
		return nil, refuse("edge.field.invalid", m.focus.get("status").path, "not a status of an R4 ServiceRequest")
	}
	if m.event == "servicerequest-response" {
		return in.referralAnswer(m, who, state)
	}
	if m.reason == "delete" {
		state = "entered-in-error"
	}
	switch state {
	case "revoked", "entered-in-error":
		return func(ctx context.Context) error { return in.withdraw(ctx, m, who, state) }, nil
	case "active":
	default:
		return nil, refuse("edge.field.invalid", m.focus.get("status").path, "a request is active; revoked or entered-in-error take it back")
	}
	content, err := in.content(m, who)
	if err != nil {
		return nil, err
	}
	received, err := earliest(m.focus.get("authoredOn"))
	if err != nil {
		return nil, err
	}
	if received == "" {
		return nil, refuse("edge.field.required", m.focus.get("authoredOn").path, "the day of the referral is missing")
	}
	return func(ctx context.Context) error {
		w := in.w
		mine := in.referralOf(m.focus)
		if m.reason == "update" {
			// Content never changes: what is sent now takes the place of what was sent.
			pathway, known, err := in.referralNamed(ctx, who, w.successor(), mine)
			if err != nil {
				return answered(err, m.focus.path)
			}
			if known == nil {
				return refuse("edge.bars.not_found", m.focus.get("identifier").path, "no referral with this identifier is known: send it with reason new")
			}
			if err := in.overtaken(ctx, m, "referral-"+pathway, mine, known.ReferralId); err != nil {
				return err
			}
			content.Replaces = known.ReferralId
			in.settle(m, mine)
			return in.send(ctx, m, who, pathway, w.successor(), content)
		}
		pathway := in.pathwayOf(m.focus)
		if content.Kind == referralv1.ReferralKind_REFERRAL_KIND_SUSPECTED_CANCER {
			found, _ := meaning(slices.Concat(m.focus.codings("code"), m.focus.codings("reasonCode"), in.referred(m.focus, "reasonReference")))
			facts := &referralv1.StartFacts{ReceivedOn: received, Priority: "3", ReferralType: found.group, Source: in.source(m.focus), ResponsibleTeam: &referralv1.Team{Organisation: m.receiver, Name: "Referral management"}}
			if err := in.open(ctx, who, m.focus.kind, pathway, facts, m.focus.get("authoredOn").path); err != nil {
				return err
			}
		} else if pathway, err = in.pathwayFor(ctx, m, who, func(id string) (bool, error) {
			known, err := w.referral(ctx, id, mine)
			return known != nil, err
		}); err != nil {
			return err
		}
		known, err := w.referral(ctx, pathway, mine)
		if err != nil {
			return answered(err, m.focus.path)
		}
		if known != nil && known.ReceiverReference != "" && known.ReceiverReference != w.arrival.commands {
			return refuse("edge.bars.duplicate", m.focus.get("identifier").path, "this referral was taken already: send a change with reason update")
		}
		in.settle(m, mine)
		return in.send(ctx, m, who, pathway, mine, content)
	}, nil
}

// successor is the referral that this message puts in the place of another.
func (w *work) successor() string {
	return uuid.NewSHA1(uuid.MustParse(w.arrival.commands), []byte("referral")).String()
}

// referral of a pathway by its id, nil when there is none.
func (w *work) referral(ctx context.Context, pathway, id string) (*referralv1.Referral, error) {
	got, err := w.service.referrals.GetReferral(ctx, &referralv1.GetReferralRequest{PathwayId: pathway, ReferralId: id})
	if status.Code(err) == codes.NotFound {
		return nil, nil
	}
	return got.GetReferral(), err
}

// as is a command of another party than the sender of the message.
func (w *work) as(organisation, step string) *metav1.Command {
	c := w.command(step)
	c.Actor.Organisation = organisation
	return c
}

// send records a referral that has arrived: drafted, sent, received.
func (in *intake) send(ctx context.Context, m *barsMessage, who *someone, pathway, referral string, content *referralv1.ReferralContent) error {
	w, service := in.w, in.w.service.referrals
	at := m.focus.path
	c := w.command("draft")
	if _, err := service.DraftReferral(ctx, &referralv1.DraftReferralRequest{Command: c, PathwayId: pathway, ReferralId: referral, Content: content}); err != nil {
		return answered(err, at)
	}
	w.done("referral.DraftReferral", c, referral)
	c = w.command("send")
	if _, err := service.SendReferral(ctx, &referralv1.SendReferralRequest{Command: c, PathwayId: pathway, ReferralId: referral, NhsNumberStatus: cmp.Or(who.status, "02")}); err != nil {
		return answered(err, at)
	}
	w.done("referral.SendReferral", c, referral)
	c = w.as(m.receiver, "receive")
	if _, err := service.AcknowledgeReceipt(ctx, &referralv1.AcknowledgeReceiptRequest{Command: c, PathwayId: pathway, ReferralId: referral, ReceiverReference: w.arrival.commands}); err != nil {
		return answered(err, at)
	}
	w.done("referral.AcknowledgeReceipt", c, referral)
	return nil
}

// withdraw takes a referral back.
func (in *intake) withdraw(ctx context.Context, m *barsMessage, who *someone, state string) error {
	w := in.w
	mine := in.referralOf(m.focus)
	pathway, known, err := in.referralNamed(ctx, who, "", mine)
	if err != nil {
		return answered(err, m.focus.path)
	}
	if known == nil {
		return refuse("edge.bars.not_found", m.focus.get("identifier").path, "no referral with this identifier is known for this patient")
	}
	if err := in.overtaken(ctx, m, "referral-"+pathway, mine, known.ReferralId); err != nil {
		return err
	}
	why := referralv1.CancelReason_CANCEL_REASON_NO_LONGER_NEEDED
	if state == "entered-in-error" {
		why = referralv1.CancelReason_CANCEL_REASON_ENTERED_IN_ERROR
	}
	c := w.command("cancel")
	if _, err := w.service.referrals.CancelReferral(ctx, &referralv1.CancelReferralRequest{Command: c, PathwayId: pathway, ReferralId: known.ReferralId, SeenVersion: known.Version, CancelReason: why}); err != nil {
		return answered(err, m.focus.path)
	}
	w.done("referral.CancelReferral", c, known.ReferralId)
	in.settle(m, mine)
	return nil
}

// referralNamed finds a referral of a patient by any of the ids, following what
// took its place up to, and without, the one named last.
func (in *intake) referralNamed(ctx context.Context, who *someone, last string, ids ...string) (string, *referralv1.Referral, error) {
	for _, p := range in.w.service.index.pathwaysOf(who.id, false) {
		list, err := in.w.service.referrals.ListReferrals(ctx, &referralv1.ListReferralsRequest{PathwayId: p.id})
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		byID := map[string]*referralv1.Referral{}
		for _, r := range list.Referrals {
			byID[r.ReferralId] = r
		}
		for _, id := range ids {
			r := byID[id]
			for range list.Referrals {
				if next := byID[r.GetReplacedBy()]; next != nil && next.ReferralId != last {
					r = next
				}
			}
			if r != nil {
				return p.id, r, nil
			}
		}
	}
	return "", nil, nil
}

// referralAnswer is what the receiver of a referral of ours says of it.
func (in *intake) referralAnswer(m *barsMessage, who *someone, state string) (func(context.Context) error, error) {
	var names []string
	for _, n := range slices.Concat([]node{m.focus.get("id"), m.header.at("response", "identifier")}, m.focus.all("identifier"), m.focus.all("basedOn")) {
		for _, text := range []string{n.text(), n.str("value"), n.str("reference"), n.str("identifier", "value")} {
			if id := text[strings.LastIndexByte(text, '/')+1:]; id != "" {
				names = append(names, strings.TrimPrefix(id, "urn:uuid:"))
			}
		}
	}
	return func(ctx context.Context) error {
		w, service := in.w, in.w.service.referrals
		pathway, known, err := in.referralNamed(ctx, who, "", names...)
		if err != nil {
			return answered(err, m.focus.path)
		}
		if known == nil {
			return refuse("edge.bars.not_found", m.focus.path, "no referral that this could answer is known: name it in id, identifier or basedOn")
		}
		if err := in.overtaken(ctx, m, "referral-"+pathway, known.ReferralId); err != nil {
			return err
		}
		c := w.command("answer")
		id := known.ReferralId
		name := ""
		switch state {
		case "active":
			name = "referral.AcceptReferral"
			_, err = service.AcceptReferral(ctx, &referralv1.AcceptReferralRequest{Command: c, PathwayId: pathway, ReferralId: id})
		case "on-hold":
			name = "referral.HoldReferral"
			_, err = service.HoldReferral(ctx, &referralv1.HoldReferralRequest{Command: c, PathwayId: pathway, ReferralId: id, Note: "held by the receiver"})
		case "completed":
			name = "referral.CompleteReferral"
			_, err = service.CompleteReferral(ctx, &referralv1.CompleteReferralRequest{Command: c, PathwayId: pathway, ReferralId: id})
		case "revoked":
			name = "referral.RejectReferral"
			_, err = service.RejectReferral(ctx, &referralv1.RejectReferralRequest{Command: c, PathwayId: pathway, ReferralId: id, RejectionReason: rejection(m.focus)})
		default:
			return refuse("edge.field.invalid", m.focus.get("status").path, "an answer is active (accepted), revoked (rejected), on-hold or completed")
		}
		if err != nil {
			return answered(err, m.focus.get("status").path)
		}
		w.done(name, c, id)
		in.settle(m, id)
		return nil
	}, nil
}

var rejections = words("RRNA FC OTH 21 22 23 24 26 27 31 32 40 41 42 99")

// rejection reads the reason of a rejection, 99 (other) where it gives none that BaRS knows.
func rejection(r resource) string {
	for _, c := range slices.Concat(r.codings("reasonCode"), r.extension("statusReason").codings("valueCodeableConcept"), r.codings("statusReason")) {
		if rejections[c.code] {
			return c.code
		}
	}
	return "99"
}

var priorities = map[string]referralv1.ReferralPriority{
	"": referralv1.ReferralPriority_REFERRAL_PRIORITY_ROUTINE, "routine": referralv1.ReferralPriority_REFERRAL_PRIORITY_ROUTINE,
	"urgent": referralv1.ReferralPriority_REFERRAL_PRIORITY_URGENT, "asap": referralv1.ReferralPriority_REFERRAL_PRIORITY_ASAP, "stat": referralv1.ReferralPriority_REFERRAL_PRIORITY_STAT,
}

var snomedCode = regexp.MustCompile(`^[1-9][0-9]{5,17}$`)

// content reads what a referral says.
func (in *intake) content(m *barsMessage, who *someone) (*referralv1.ReferralContent, error) {
	r, d := m.focus, in.d
	c := &referralv1.ReferralContent{
		Requester: &referralv1.Practitioner{User: "not-given", Organisation: cmp.Or(d.ods(r.get("requester")), d.organisation)},
		Target:    &referralv1.Target{Organisation: m.receiver, Channel: referralv1.Channel_CHANNEL_BARS, Endpoint: "https://fhir.nhs.uk/Id/ods-organization-code/" + m.receiver},
	}
	for _, category := range r.codings("category") {
		if kind, ok := useCases[category.code]; ok {
			c.Kind, c.UseCase = kind, category.code
		}
	}
	found, cancer := meaning(slices.Concat(r.codings("code"), r.codings("reasonCode"), in.referred(r, "reasonReference")))
	if c.Kind == 0 && cancer && found.kind == "suspected" {
		c.Kind = referralv1.ReferralKind_REFERRAL_KIND_SUSPECTED_CANCER
	}
	if c.Kind == 0 {
		return nil, refuse("edge.bars.use_case", r.get("category").path, "the kind of referral is not known: a use case of usecases-categories-bars (waymark-usc, waymark-ahp and others), or a reason that says suspected cancer")
	}
	var ok bool
	if c.Priority, ok = priorities[r.str("priority")]; !ok {
		return nil, refuse("edge.field.invalid", r.get("priority").path, "a priority is routine, urgent, asap or stat")
	}
	for _, code := range r.codings("reasonCode") {
		if snomedCode.MatchString(code.code) && strings.Contains(code.system, "snomed") && c.ReasonCode == "" {
			c.ReasonCode = code.code
		}
	}
	var reason []string
	for _, n := range r.all("reasonCode") {
		reason = append(reason, n.str("text"))
	}
	for _, n := range r.all("note") {
		reason = append(reason, n.str("text"))
	}
	c.Reason = shortest(strings.TrimSpace(strings.Join(reason, "\n")), 4000)
	for _, id := range r.all("identifier") {
		if value := id.str("value"); strings.HasSuffix(id.str("system"), "/UBRN") && len(value) == 12 {
			c.Ubrn = value
		}
	}
	if target, ok := d.follow(r.get("requester")); ok {
		for _, id := range target.all("identifier") {
			if value := id.str("value"); strings.HasSuffix(id.str("system"), "/sds-user-id") && localValue.MatchString(value) {
				c.Requester.User = value
			}
		}
	}
	for _, other := range d.resources {
		if other.kind != "Flag" || other.str("status") != "active" {
			continue
		}
		for _, code := range other.codings("code") {
			if snomedCode.MatchString(code.code) && strings.Contains(code.system, "snomed") && len(c.Requirements) < 50 && !slices.Contains(c.Requirements, code.code) {
				c.Requirements = append(c.Requirements, code.code)
			}
		}
	}
	c.Contacts = in.contacts(m, who)
	if len(c.Contacts) == 0 {
		return nil, refuse("edge.field.required", m.header.get("source").get("contact").path, "nobody can be reached about the referral: Patient.contact, Patient.telecom or the contact of the source is needed")
	}
	return c, nil
}

var telecomSystems = map[string]referralv1.ContactSystem{
	"phone": referralv1.ContactSystem_CONTACT_SYSTEM_PHONE, "email": referralv1.ContactSystem_CONTACT_SYSTEM_EMAIL, "sms": referralv1.ContactSystem_CONTACT_SYSTEM_SMS,
}

// contacts are whom to reach, in the order of their ranks: those of the Patient,
// the patient, and the sender.
func (in *intake) contacts(m *barsMessage, who *someone) (found []*referralv1.Contact) {
	add := func(kind referralv1.ContactKind, name, relationship string, telecoms []node) {
		c := &referralv1.Contact{Rank: uint32(len(found) + 1), Kind: kind, Name: shortest(name, 160), Relationship: shortest(relationship, 80)}
		slices.SortStableFunc(telecoms, func(a, b node) int { return cmp.Compare(rank(a), rank(b)) })
		for _, t := range telecoms {
			if value := t.str("value"); value != "" && len(value) <= 200 && len(c.Methods) < 8 {
				system, ok := telecomSystems[t.str("system")]
				if !ok {
					system = referralv1.ContactSystem_CONTACT_SYSTEM_OTHER
				}
				c.Methods = append(c.Methods, &referralv1.ContactMethod{Rank: uint32(len(c.Methods) + 1), System: system, Value: value})
			}
		}
		if len(c.Methods) > 0 && len(found) < 10 {
			found = append(found, c)
		}
	}
	if p, ok := in.d.resourceAt(who.path); ok {
		people := p.all("contact")
		slices.SortStableFunc(people, func(a, b node) int { return cmp.Compare(rank(a), rank(b)) })
		for _, c := range people {
			kind, relation := referralv1.ContactKind_CONTACT_KIND_RELATED_PERSON, ""
			for _, code := range c.codings("relationship") {
				if relation = cmp.Or(code.str("display"), code.code); strings.EqualFold(code.code, "ONESELF") {
					kind, relation = referralv1.ContactKind_CONTACT_KIND_PATIENT, ""
				}
			}
			add(kind, strings.TrimSpace(c.str("name", "given")+" "+c.str("name", "family")), relation, c.all("telecom"))
		}
		add(referralv1.ContactKind_CONTACT_KIND_PATIENT, "", "", p.all("telecom"))
	}
	source := m.header.get("source")
	add(referralv1.ContactKind_CONTACT_KIND_PROFESSIONAL, source.str("name"), "", source.all("contact"))
	return found
}

// rank of a ContactPoint, or of a contact by its extension; none comes last.
func rank(n node) int {
	text := cmp.Or(n.extension("ContactRank").str("valuePositiveInt"), n.str("rank"))
	if r, err := strconv.Atoi(text); err == nil {
		return r
	}
	return 1000
}

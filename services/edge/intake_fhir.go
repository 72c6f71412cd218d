package edge

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/edge/v1"
	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
)

// Why a resource became no command. It is counted, and kept with the raw document.
const (
	notMapped         = "edge.fhir.not_mapped"         // Waymark has no place for it
	notCancer         = "edge.fhir.not_cancer"         // no code of it says cancer
	notCertain        = "edge.fhir.not_certain"        // refuted, provisional, a draft, or withdrawn
	notR4             = "edge.fhir.not_r4"             // an element that R4 does not have so; counted by element
	deletion          = "edge.fhir.deletion"           // nothing is deleted here
	patientUnknown    = "edge.fhir.patient_unknown"    // who it is about is not in the document, and not known
	pathwayNone       = "edge.fhir.pathway_none"       // the patient is on no open pathway
	pathwayUnclear    = "edge.fhir.pathway_unclear"    // the patient is on several, and it names none
	recordedAlready   = "edge.fhir.recorded_already"   // the pathway has this already
	undated           = "edge.fhir.undated"            // no element says on which day
	appointmentOver   = "edge.fhir.appointment_over"   // it was cancelled: what is booked now needs an identifier of its own
	appointmentUnseen = "edge.fhir.appointment_unseen" // a change of an appointment that is not known
)

// intake is a document that was read, before anything is done.
type intake struct {
	d      *document
	w      *work
	people []*someone
	byNode map[string]*someone // by path of the Patient, or by what a reference says
	steps  []step
}

// step is what one resource asks for.
type step struct {
	order int // patients are there already; then pathways, diagnoses, appointments
	r     resource
	who   *someone
	do    func(context.Context) error
}

// someone is a patient of the document.
type someone struct {
	patient
	scope string // tells their commands from those of another patient
	path  string // "" when only a reference names them
	id    string // of the person, once known
	// A notice of death: 1 informal, 2 formal; applied after everything else.
	death, diedOn string
	restriction   string
	pathways      []string // that the document started, or named
}

// resourceKinds says what is done with which resource, and in which order.
var resourceKinds = map[string]struct {
	order   int
	subject string
	read    func(*intake, resource, *someone) (func(context.Context) error, error)
}{
	"EpisodeOfCare":  {1, "patient", (*intake).episode},
	"ServiceRequest": {2, "subject", (*intake).request},
	"Condition":      {3, "subject", (*intake).condition},
	"Appointment":    {4, "participant", (*intake).appointment},
}

// patients are those of the document's Patient resources, and those whom a
// reference names.
func (d *document) patients() (names []patientName) {
	seen := map[patientName]bool{}
	add := func(assigner, value string) {
		n := patientName{"", assigner, value}
		if !seen[n] {
			seen[n] = true
			names = append(names, n)
		}
	}
	for _, r := range d.resources {
		if r.kind == "Patient" {
			for _, id := range d.identifiers(r.node) {
				add(id.assigner, id.value)
			}
			for _, ref := range d.refsTo(r) {
				add(d.refAssigner(), ref)
			}
			continue
		}
		for _, ref := range subjects(r) {
			if _, inside := d.follow(ref); inside {
				continue
			}
			if number := nhsNumber(ref); number != "" {
				add("NHS", number)
			}
			if text := ref.str("reference"); text != "" {
				add(d.refAssigner(), text)
			}
		}
	}
	return names
}

// refAssigner is who gives out references such as Patient/123: the sending system.
func (d *document) refAssigner() string { return "fhir/" + d.organisation + "/" + d.source }

// refsTo are the references by which others name a Patient.
func (d *document) refsTo(r resource) (refs []string) {
	if id := r.str("id"); id != "" {
		refs = append(refs, "Patient/"+id)
	}
	if r.url != "" && !strings.HasPrefix(r.url, "urn:uuid:") { // those mean something in one Bundle only
		refs = append(refs, r.url)
	}
	return refs
}

// subjects are the references of a resource that is mapped to whom it is about.
func subjects(r resource) (refs []node) {
	kind, mapped := resourceKinds[r.kind]
	if !mapped {
		return nil
	}
	if r.kind != "Appointment" {
		return []node{r.get(kind.subject)}
	}
	for _, p := range r.all("participant") {
		actor := p.get("actor")
		if strings.Contains(actor.str("reference"), "Patient/") || actor.str("type") == "Patient" || strings.HasPrefix(actor.str("reference"), "urn:") || nhsNumber(actor) != "" {
			refs = append(refs, actor)
		}
	}
	return refs
}

// isNHSNumber reports whether a system of an Identifier means the NHS number, in
// the spellings that are sent.
func isNHSNumber(system string) bool {
	system = strings.ToLower(strings.TrimRight(system, "/"))
	return strings.HasSuffix(system, "/id/nhs-number") || system == "http://fhir.nhs.net/id/nhs-number" || system == "urn:oid:2.16.840.1.113883.2.1.4.1"
}

// nhsNumber of a Reference's identifier.
func nhsNumber(ref node) string {
	if id := ref.get("identifier"); isNHSNumber(id.str("system")) {
		return strings.ReplaceAll(id.str("value"), " ", "")
	}
	return ""
}

// patientID is one identifier of a Patient that Waymark keeps.
type patientID struct {
	assigner, value string
	status          string // of an NHS number
	path            string
}

// numberStatus reads how far an NHS number was traced.
var numberStatus = map[string]string{
	"number-present-and-verified": "01", "number-present-but-not-traced": "02", "trace-required": "03",
	"trace-attempted-no-match-or-multiple-match-found": "04", "trace-needs-to-be-resolved": "05", "trace-in-progress": "06",
	"number-not-present-and-trace-not-required": "07", "trace-postponed": "08",
}

// identifiers of a Patient: NHS numbers, and those that a hospital gave. Others
// (passport, social security) stay in the raw document.
func (d *document) identifiers(p node) (ids []patientID) {
	for _, id := range p.all("identifier") {
		value := id.str("value")
		if value == "" || id.str("use") == "old" {
			continue
		}
		if isNHSNumber(id.str("system")) {
			state := "02"
			for _, c := range id.extension("NHSNumberVerificationStatus").codings("valueCodeableConcept") {
				if s := cmp.Or(numberStatus[c.code], c.code); len(s) == 2 && s >= "01" && s <= "08" {
					state = s
				}
			}
			ids = append(ids, patientID{"NHS", strings.NewReplacer(" ", "", "-", "").Replace(value), state, id.get("value").path})
			continue
		}
		kind := ""
		if c := id.codings("type"); len(c) > 0 {
			kind = c[0].code
		}
		assigner := id.str("assigner", "identifier", "value")
		if !odsCode.MatchString(assigner) {
			assigner = d.organisation
		}
		if (kind == "" || kind == "MR" || kind == "PI" || kind == "PT") && localValue.MatchString(value) {
			ids = append(ids, patientID{assigner, value, "", id.get("value").path})
		}
	}
	if id := p.str("id"); ids == nil && localValue.MatchString(id) {
		ids = append(ids, patientID{d.organisation, id, "", p.get("id").path})
	}
	return ids
}

// read reads the whole document, and changes nothing: what is refused is refused
// before anything is done. What a BaRS message is about is left to it.
func (d *document) read(w *work, m *barsMessage) (*intake, error) {
	in := &intake{d: d, w: w, byNode: map[string]*someone{}}
	for _, r := range d.resources {
		if r.kind != "Patient" || r.deleted {
			continue
		}
		who, err := in.patient(r)
		if err != nil {
			return nil, err
		}
		in.byNode[r.path] = who
	}
	for _, r := range d.resources {
		kind, mapped := resourceKinds[r.kind]
		switch {
		case r.deleted:
			in.keep(r.kind, deletion)
		case r.kind == "Patient":
		case m != nil && (r.path == m.focus.path || r.path == m.header.path): // the message itself
		case !mapped:
			in.keep(r.kind, notMapped)
		default:
			who := in.about(r)
			if who == nil {
				in.keep(r.kind, patientUnknown)
				continue
			}
			do, err := kind.read(in, r, who)
			if err != nil {
				return nil, err
			}
			if do != nil {
				in.steps = append(in.steps, step{kind.order, r, who, do})
			}
		}
	}
	for _, remark := range d.remarks() {
		in.keep(remark.kind, notR4)
	}
	slices.SortStableFunc(in.steps, func(a, b step) int { return a.order - b.order })
	return in, nil
}

// keep counts a resource that becomes no command.
func (in *intake) keep(kind, code string) {
	for _, k := range in.w.kept {
		if k.Type == kind && k.Code == code {
			k.Count++
			return
		}
	}
	in.w.kept = append(in.w.kept, &pb.KeptResources{Type: kind, Count: 1, Code: code})
}

// about returns whom a resource is about, nil when nobody can tell.
func (in *intake) about(r resource) *someone {
	for _, ref := range subjects(r) {
		if target, ok := in.d.follow(ref); ok {
			if who := in.byNode[target.path]; who != nil {
				return who
			}
			continue
		}
		number, text := nhsNumber(ref), ref.str("reference")
		if number == "" && text == "" {
			continue
		}
		name := number + "\x00" + text
		if in.byNode[name] == nil {
			who := &someone{scope: "reference " + name + "/"}
			if _, err := nhs.ParseNumber(number); err == nil {
				who.number = number
				who.keys = append(who.keys, in.w.service.hash("NHS", number))
			}
			if text != "" {
				who.keys = append(who.keys, in.w.service.hash(in.d.refAssigner(), text))
			}
			in.byNode[name] = who
			in.people = append(in.people, who)
		}
		return in.byNode[name]
	}
	return nil
}

// patient reads a Patient.
func (in *intake) patient(r resource) (*someone, error) {
	d := in.d
	who := &someone{path: r.path}
	if len(in.people) > 0 {
		who.scope = r.path + "/"
	}
	p := &who.patient
	p.status = "03"
	for _, id := range d.identifiers(r.node) {
		who.keys = append(who.keys, in.w.service.hash(id.assigner, id.value))
		if id.assigner != "NHS" {
			p.locals = append(p.locals, &personv1.LocalIdentifier{Assigner: id.assigner, Value: id.value})
			continue
		}
		if _, err := nhs.ParseNumber(id.value); err != nil {
			return nil, refuse("person.nhs_number.invalid", id.path, nhs.ErrNumber.Error())
		}
		if p.number != "" && p.number != id.value {
			return nil, refuse("edge.field.invalid", id.path, "two NHS numbers for one patient: mark the earlier one with use old")
		}
		p.number, p.status = id.value, id.status
	}
	for _, ref := range d.refsTo(r) {
		who.keys = append(who.keys, in.w.service.hash(d.refAssigner(), ref))
	}
	if p.number == "" && p.locals == nil {
		return nil, park("edge.fhir.patient_unidentified", r.get("identifier").path, "no identifier of the patient, and no id: nobody can tell who it is")
	}
	p.facts = &personv1.Demographics{}
	if name, ok := chosen(r.all("name")); ok {
		if p.family = name.str("family"); p.family != "" {
			if len(p.family) > 100 {
				return nil, refuse("edge.field.invalid", name.get("family").path, "a family name has at most 100 characters")
			}
			p.facts.Name = &personv1.PersonName{Family: p.family, Prefix: shortest(name.str("prefix"), 35)}
			for _, g := range name.all("given") {
				if text := g.text(); text != "" && len(text) <= 100 && len(p.facts.Name.Given) < 10 {
					p.facts.Name.Given = append(p.facts.Name.Given, text)
				}
			}
		}
	}
	if born := r.str("birthDate"); len(born) == len(time.DateOnly) {
		if _, err := nhs.ParseDate(born); err != nil {
			return nil, refuse("edge.field.invalid", r.get("birthDate").path, nhs.ErrDate.Error())
		}
		p.born, p.facts.BirthDate = born, born
	} else if born != "" && !partialDate(born) {
		return nil, refuse("edge.field.invalid", r.get("birthDate").path, "a date is YYYY, YYYY-MM or YYYY-MM-DD")
	}
	if a, ok := chosen(r.all("address")); ok {
		p.facts.Address = address(a)
	}
	var telecoms []*personv1.Telecom
	for _, t := range r.all("telecom") {
		system, use, value := t.str("system"), t.str("use"), t.str("value")
		if system != "phone" && system != "sms" && system != "email" {
			system = "other"
		}
		if use != "home" && use != "work" && use != "mobile" && use != "temp" {
			use = ""
		}
		if value != "" && len(value) <= 254 && t.str("use") != "old" && len(telecoms) < 20 {
			telecoms = append(telecoms, &personv1.Telecom{System: system, Value: value, Use: use})
		}
	}
	if telecoms != nil {
		p.facts.Telecoms = &personv1.Telecoms{Items: telecoms}
	}
	for _, c := range r.extension("EthnicCategory").codings("valueCodeableConcept") {
		if len(c.code) == 1 && strings.Contains("ABCDEFGHJKLMNPRSZ", c.code) || c.code == "99" {
			p.facts.EthnicCategory = c.code
		}
	}
	for _, gp := range r.all("generalPractitioner") {
		if ods := d.ods(gp); ods != "" {
			p.facts.Practice = ods
		}
	}
	for _, c := range r.get("meta").codings("security") {
		if c.code == "R" || c.code == "V" {
			who.restriction = c.code
		}
		if c.code == "REDACTED" {
			return nil, refuse("edge.fhir.redacted", c.path, "the record is marked as invalid: trace the patient's NHS number again")
		}
	}
	died, flag := r.get("deceasedDateTime"), r.get("deceasedBoolean")
	if died.text() != "" || flag.text() == "true" {
		who.death = "1"
		for _, c := range r.extension("DeathNotificationStatus").extension("deathNotificationStatus").codings("valueCodeableConcept") {
			if c.code == "2" {
				who.death = "2"
			}
		}
		if died.text() != "" {
			on, err := timeOf(died)
			if err != nil {
				return nil, err
			}
			who.diedOn = on.date
		}
	}
	said := in.said(r)
	p.source = &personv1.Source{Kind: personv1.SourceKind_SOURCE_KIND_LOCAL, System: coded(d.organisation + "/" + d.source), MessageId: coded(r.str("id")), SentAt: timestamppb.New(said)}
	in.people = append(in.people, who)
	return who, nil
}

// said is when a resource was said: meta.lastUpdated, else the Bundle's time, else
// when the document came.
func (in *intake) said(r resource) time.Time {
	for _, n := range []node{r.at("meta", "lastUpdated"), in.d.root.get("timestamp"), in.d.root.at("meta", "lastUpdated")} {
		if t, err := time.Parse(time.RFC3339Nano, n.text()); err == nil && t.Before(in.w.received) {
			return t
		}
	}
	return in.w.received
}

// chosen is the item that is used now: official or home, else the first that is
// not old.
func chosen(items []node) (node, bool) {
	for _, use := range []string{"official", "usual", "home", ""} {
		for _, n := range items {
			if n.str("use") == use {
				return n, true
			}
		}
	}
	for _, n := range items {
		if use := n.str("use"); use != "old" && use != "maiden" && use != "billing" {
			return n, true
		}
	}
	return node{}, false
}

func address(a node) *personv1.Address {
	out := &personv1.Address{}
	for _, line := range slices.Concat(a.all("line"), a.all("city"), a.all("district")) {
		if text := line.text(); text != "" && len(text) <= 120 && len(out.Lines) < 5 {
			out.Lines = append(out.Lines, text)
		}
	}
	code := strings.ToUpper(strings.ReplaceAll(a.str("postalCode"), " ", ""))
	if parts := postcode.FindStringSubmatch(code); parts != nil {
		out.Postcode = parts[1] + " " + parts[2]
	}
	if out.Lines == nil && out.Postcode == "" {
		return nil
	}
	return out
}

// ods is the ODS code of an Organization, Location, PractitionerRole or
// HealthcareService that a reference means, "" when it says none.
func (d *document) ods(ref node) string {
	if code := odsOf(ref.all("identifier")); code != "" {
		return code
	}
	r, ok := d.follow(ref)
	if !ok {
		return ""
	}
	if code := odsOf(r.all("identifier")); code != "" {
		return code
	}
	for _, next := range []string{"organization", "providedBy", "managingOrganization"} {
		if to := r.get(next); to.v != nil && to.str("reference") != ref.str("reference") {
			if target, ok := d.follow(to); ok {
				if code := odsOf(target.all("identifier")); code != "" {
					return code
				}
			} else if code := odsOf(to.all("identifier")); code != "" {
				return code
			}
		}
	}
	return ""
}

func odsOf(identifiers []node) string {
	for _, id := range identifiers {
		system := strings.ToLower(id.str("system"))
		if value := strings.ToUpper(id.str("value")); strings.Contains(system, "/ods-") && odsCode.MatchString(value) {
			return value
		}
	}
	return ""
}

func shortest(text string, most int) string {
	if len(text) > most {
		return ""
	}
	return text
}

func partialDate(text string) bool {
	_, year := time.Parse("2006", text)
	_, month := time.Parse("2006-01", text)
	return year == nil || month == nil
}

// when is a moment of a document.
type when struct {
	date string // in England, YYYY-MM-DD
	text string // RFC 3339; "" when only a date was said
}

// timeOf reads a date, dateTime or instant; zero for nothing. A year or month
// alone is nothing either: it is no day.
func timeOf(n node) (when, error) {
	text := n.text()
	if n.v == nil || partialDate(text) {
		return when{}, nil
	}
	if d, err := nhs.ParseDate(text); err == nil {
		return when{date: d.String()}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(layout, text); err == nil {
			return when{nhs.DateOf(t).String(), t.Format(time.RFC3339)}, nil
		}
	}
	return when{}, refuse("edge.field.invalid", n.path, "a date is YYYY-MM-DD and exists, a time has seconds and an offset: 2026-07-01T09:30:00+01:00")
}

// earliest date of several elements, "" when none says one.
func earliest(nodes ...node) (string, error) {
	first := ""
	for _, n := range nodes {
		at, err := timeOf(n)
		if err != nil {
			return "", err
		}
		if at.date != "" && (first == "" || at.date < first) {
			first = at.date
		}
	}
	return first, nil
}

// run does what was read: patients, then what is about them, deaths last.
func (in *intake) run(ctx context.Context) error {
	w := in.w
	for _, who := range in.people {
		w.scope, w.path, w.person = who.scope, who.path, ""
		if who.path == "" { // only a reference names them
			id, err := w.find(ctx, who.keys, who.number, "")
			if err != nil {
				return err
			}
			who.id = id
			continue
		}
		if err := w.register(ctx, who.patient); err != nil {
			return named(err, who.path)
		}
		who.id = w.person
		if who.restriction != "" {
			c := w.command("restriction")
			if _, err := w.service.persons.SetRestriction(ctx, &personv1.SetRestrictionRequest{Command: c, PersonId: who.id, Code: who.restriction}); err != nil {
				return answered(err, who.path+".meta.security")
			}
			w.done("person.SetRestriction", c, who.id)
		}
	}
	for _, s := range in.steps {
		if s.who.id == "" {
			in.keep(s.r.kind, patientUnknown)
			continue
		}
		w.scope, w.path, w.person = s.r.path+"/", s.r.path, s.who.id
		if err := s.do(ctx); err != nil {
			return err
		}
	}
	for _, who := range in.people {
		if who.death == "" || who.id == "" {
			continue
		}
		w.scope, w.path = who.scope, who.path
		c := w.command("death")
		if _, err := w.service.persons.NoteDeath(ctx, &personv1.NoteDeathRequest{Command: c, PersonId: who.id, Status: who.death, DiedOn: who.diedOn}); err != nil {
			return answered(err, who.path+".deceased")
		}
		w.done("person.NoteDeath", c, who.id)
	}
	w.scope, w.path, w.person = "", "", ""
	for _, who := range in.people {
		if who.id != "" {
			w.people = append(w.people, &pb.AppliedPerson{PersonId: who.id, PatientKeys: who.keys})
			w.person = who.id
		}
	}
	if len(w.people) != 1 {
		w.person = ""
	}
	return nil
}

// named puts the element of a Patient in the place of the field of a PID.
func named(err error, path string) error {
	var why *stop
	if !errors.As(err, &why) {
		return err
	}
	moved := *why
	moved.reason = clone(why.reason)
	if element, ok := map[string]string{"PID-3": ".identifier", "PID-5": ".name", "PID-7": ".birthDate"}[why.reason.Field]; ok {
		moved.reason.Field = path + element
	}
	return &moved
}

// TakeDocument takes one FHIR document.
func (s *service) TakeDocument(ctx context.Context, req *pb.TakeDocumentRequest) (*pb.TakeDocumentReply, error) {
	raw := req.Raw
	if req.Gzip {
		var err error
		if raw, err = gunzip(req.Raw); err != nil {
			return nil, fault.Invalid("edge.fhir.gzip", "raw", "cannot be unpacked with gzip, or is larger than 16 MiB unpacked")
		}
	}
	d := readDocument(raw, req.Organisation, req.Source)
	done, err := s.take(ctx, arrival{raw: raw, content: d})
	if err != nil {
		return nil, err
	}
	id := done.state.Value.Received.MessageId
	code, body := d.reply(id, done.state.Value.Outcome)
	return &pb.TakeDocumentReply{Message: s.index.get(id), Duplicate: done.duplicate, Answer: body, Status: int32(code), Receipt: done.state.Receipt()}, nil
}

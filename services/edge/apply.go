package edge

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "waymark/proto/waymark/edge/v1"
	metav1 "waymark/proto/waymark/meta/v1"
	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/es"
	"waymark/services/kit/fault"
	"waymark/services/kit/nhs"
	"waymark/services/kit/planted"
)

// work is one message being applied, by one goroutine.
type work struct {
	service *service
	arrival arrival
	// whose commands these are
	organisation, system string
	m                    message // HL7 v2 only
	effects              []*pb.Effect
	person               string
	note                 *pb.Reason
	read                 es.Position // of the pathways that were known
	unlock               func()      // the person's lock; nil while there is none

	// of HL7 v2 only
	about          []string               // the things that it changes, see thing
	said           *timestamppb.Timestamp // when its sender said so; set with about
	referralStatus string

	// of a FHIR document only
	received time.Time // when it came
	scope    string    // tells the commands of one resource from those of another
	path     string    // of the resource that is applied
	kept     []*pb.KeptResources
	people   []*pb.AppliedPerson
	// of a BaRS message: what it is about, and when its sender last changed it
	focus     string
	focusSaid time.Time
}

// end gives back what the work holds.
func (w *work) end() {
	if w.unlock != nil {
		w.unlock()
	}
}

// kinds says what is done with each type of message.
var kinds = map[string]func(context.Context, *work) error{
	"ADT/A28": demographics, "ADT/A31": demographics,
	"ADT/A40": merge, "ADT/A34": merge,
	"ADT/A47": changeLocal,
	"ADT/A24": link, "ADT/A37": unlink,

	"ADT/A01": admit, "ADT/A04": admit, "ADT/A05": admit,
	"ADT/A02": transfer, "ADT/A03": discharge, "ADT/A08": correct,
	"ADT/A11": reverse("admission"), "ADT/A12": reverse("transfer"), "ADT/A13": reverse("discharge"),

	"REF/I12": refer, "REF/I13": refer, "REF/I14": cancelReferral, "REF/I15": referralStatus,
	"SIU/S12": schedule, "SIU/S13": schedule, "SIU/S14": schedule,
	"SIU/S15": unschedule, "SIU/S16": unschedule, "SIU/S17": unschedule, "SIU/S26": missed,
	"ORU/R01": results,
	"MDM/T02": attach, "MDM/T08": attach, "MDM/T11": withdraw,
}

// command is the header of one of the message's commands. It is the same however
// often the message is applied, also as a redrive: a command id that comes with
// anything else changed is refused.
func (w *work) command(step string) *metav1.Command {
	id := uuid.NewSHA1(uuid.MustParse(w.arrival.commands), []byte(w.scope+step))
	if planted.Is("repeat with new commands") {
		id = uuid.NewSHA1(id, []byte(w.service.clock().String())) // not drawn: a seed is to find it each time
	}
	return &metav1.Command{
		CommandId: id.String(), CorrelationId: w.arrival.commands, CausationId: w.arrival.commands,
		Actor: &metav1.Actor{User: w.system, Organisation: w.organisation},
	}
}

// done notes a command that was taken.
func (w *work) done(name string, c *metav1.Command, subject string) {
	w.effects = append(w.effects, &pb.Effect{Command: name, CommandId: c.CommandId, SubjectId: subject, Path: w.path})
}

// answered turns the refusal of a service into one of the message: field is what
// it speaks of. Other errors stay as they are.
func answered(err error, field string) error {
	if err == nil || !fault.IsAnswer(err) {
		return err
	}
	code := fault.CodeOf(err)
	text := status.Convert(err).Message()
	switch code {
	case "person.identity.mismatch":
		return park(code, "PID-3", "NHS number, birth date and family name do not agree in two of three with the person who is known")
	case "person.nhs_number.invalid":
		field = "PID-3"
	case "":
		code = "edge.apply.refused"
	}
	return refuse(code, field, text)
}

// identifier is one CX of PID-3 or MRG-1.
type identifier struct {
	assigner, value string // NHS for an NHS number
	at              path
}

// identifiers reads the patient identifiers of PID-3, or MRG-1, as they are sent.
func identifiers(m message, segment string) (ids []identifier) {
	s, ok := m.first(segment)
	field := map[string]int{"PID": 3, "MRG": 1}[segment]
	if !ok {
		return nil
	}
	for r := range m.count(s, field) {
		value := m.at(s, field, r+1, 1, 1)
		if value == "" {
			continue
		}
		assigner, kind := m.at(s, field, r+1, 4, 1), m.at(s, field, r+1, 5, 1)
		switch {
		case assigner == "NHS" || assigner == "NH" || assigner == "NHSNMBR" || kind == "NH" || kind == "NHS":
			assigner, value = "NHS", strings.NewReplacer(" ", "", "-", "").Replace(value)
		case !odsCode.MatchString(assigner):
			assigner = m.org
		}
		ids = append(ids, identifier{assigner, value, path{segment, field, r + 1, 1, 0}})
	}
	return ids
}

// patient is what a message says of who it is about.
type patient struct {
	number string // NHS number, "" for none
	status string
	locals []*personv1.LocalIdentifier
	family string
	born   string
	facts  *personv1.Demographics
	source *personv1.Source
	keys   []string // hashes of its identifiers
}

var (
	localValue = regexp.MustCompile(`^[A-Za-z0-9./_-]{1,50}$`)
	postcode   = regexp.MustCompile(`^([A-Z]{1,2}[0-9][A-Z0-9]?)([0-9][A-Z]{2})$`)
)

// numbers reads the identifiers of a segment.
func (w *work) numbers(segment string) (number string, locals []*personv1.LocalIdentifier, err error) {
	for _, id := range identifiers(w.m, segment) {
		if id.assigner == "NHS" {
			if _, err := nhs.ParseNumber(id.value); err != nil {
				return "", nil, refuse("person.nhs_number.invalid", id.at.String(), nhs.ErrNumber.Error())
			}
			if number != "" && number != id.value {
				return "", nil, refuse("edge.field.invalid", id.at.String(), "two NHS numbers for one patient")
			}
			number = id.value
			continue
		}
		if !localValue.MatchString(id.value) {
			return "", nil, refuse("edge.field.invalid", id.at.String(), "a local identifier is at most 50 letters, digits and ./_-")
		}
		locals = append(locals, &personv1.LocalIdentifier{Assigner: id.assigner, Value: id.value})
	}
	if number == "" && locals == nil {
		field := map[string]string{"PID": "PID-3", "MRG": "MRG-1"}[segment]
		return "", nil, refuse("edge.field.required", field, "no identifier of the patient")
	}
	return number, locals, nil
}

// patient reads PID, PD1 and EVN.
func (w *work) patient() (p patient, err error) {
	m := w.m
	pid, ok := m.first("PID")
	if !ok {
		return p, refuse("edge.field.required", "PID-3", "the PID segment is missing")
	}
	if p.number, p.locals, err = w.numbers("PID"); err != nil {
		return p, err
	}
	p.keys = w.keys("PID")
	p.status = "03"
	if p.number != "" {
		p.status = "02"
	}
	if s := strings.TrimPrefix(m.get("PID-32"), "NSTS"); p.number != "" && slices.Contains([]string{"01", "02", "03", "04", "05", "06"}, s) {
		p.status = s
	}
	p.facts = &personv1.Demographics{}
	name := 1
	for r := range m.count(pid, 5) {
		if t := m.at(pid, 5, r+1, 7, 0); t == "L" || t == "U" {
			name = r + 1
			break
		}
	}
	if p.family = m.at(pid, 5, name, 1, 1); p.family != "" {
		if len(p.family) > 100 {
			return p, refuse("edge.field.invalid", "PID-5.1", "a family name has at most 100 characters")
		}
		p.facts.Name = &personv1.PersonName{Family: p.family, Prefix: m.at(pid, 5, name, 5, 0)}
		for _, c := range []int{2, 3} {
			if given := m.at(pid, 5, name, c, 0); given != "" {
				p.facts.Name.Given = append(p.facts.Name.Given, given)
			}
		}
	}
	if born := m.get("PID-7"); born != "" {
		d, err := day(born)
		if err != nil {
			return p, refuse("edge.field.invalid", "PID-7", "a birth date is YYYYMMDD and exists")
		}
		p.born = d
		p.facts.BirthDate = d
	}
	if m.count(pid, 11) > 0 {
		a := &personv1.Address{}
		for _, c := range []int{1, 2, 8, 3, 4} {
			if line := m.at(pid, 11, 1, c, 0); line != "" && len(line) <= 120 && len(a.Lines) < 5 {
				a.Lines = append(a.Lines, line)
			}
		}
		code := strings.ToUpper(strings.ReplaceAll(m.at(pid, 11, 1, 5, 0), " ", ""))
		if parts := postcode.FindStringSubmatch(code); parts != nil {
			a.Postcode = parts[1] + " " + parts[2]
		}
		if a.Lines != nil || a.Postcode != "" {
			p.facts.Address = a
		}
	}
	var telecoms []*personv1.Telecom
	for _, field := range []struct {
		n   int
		use string
	}{{13, "home"}, {14, "work"}} {
		for r := range m.count(pid, field.n) {
			t := &personv1.Telecom{System: "phone", Use: field.use, Value: m.at(pid, field.n, r+1, 1, 0)}
			equipment := m.at(pid, field.n, r+1, 3, 0)
			if mail := m.at(pid, field.n, r+1, 4, 0); mail != "" && strings.Contains(mail, "@") {
				t.System, t.Value = "email", mail
			} else if t.Value == "" {
				t.Value = m.at(pid, field.n, r+1, 12, 0)
			}
			if equipment == "CP" || m.at(pid, field.n, r+1, 2, 0) == "PRS" {
				t.Use = "mobile"
			}
			if t.Value != "" && len(t.Value) <= 254 && len(telecoms) < 20 {
				telecoms = append(telecoms, t)
			}
		}
	}
	if telecoms != nil {
		p.facts.Telecoms = &personv1.Telecoms{Items: telecoms}
	}
	if c := m.get("PID-22"); len(c) == 1 && strings.Contains("ABCDEFGHJKLMNPRSZ", c) || c == "99" {
		p.facts.EthnicCategory = c
	}
	if practice := m.get("PD1-3.3"); odsCode.MatchString(practice) {
		p.facts.Practice = practice
	}
	p.source, err = w.source()
	return p, err
}

// source is where the message comes from, and when it was said.
func (w *work) source() (*personv1.Source, error) {
	field := "EVN-2"
	text := w.m.get(field)
	if text == "" {
		field = "MSH-7"
		text = w.m.get(field)
	}
	at, err := moment(text)
	if err != nil {
		return nil, refuse("edge.field.invalid", field, "a time is YYYYMMDDHHMM[SS][+ZZZZ]; without it messages cannot be put in order")
	}
	system := coded(w.m.get("MSH-4") + "/" + w.m.get("MSH-3"))
	return &personv1.Source{Kind: personv1.SourceKind_SOURCE_KIND_LOCAL, System: system, MessageId: coded(w.m.get("MSH-10")), SentAt: timestamppb.New(at)}, nil
}

// keys are those of a segment's identifiers.
func (w *work) keys(segment string) (keys []string) {
	for _, id := range identifiers(w.m, segment) {
		keys = append(keys, w.service.hash(id.assigner, id.value))
	}
	return keys
}

// find returns the person whom an NHS number, or else one of the keys, stands for;
// "" for nobody. The field is where the number was.
func (w *work) find(ctx context.Context, keys []string, number, field string) (string, error) {
	if number != "" {
		reply, err := w.service.persons.FindPerson(ctx, &personv1.FindPersonRequest{NhsNumber: number})
		if err == nil {
			return reply.Person.PersonId, nil
		}
		if status.Code(err) != codes.NotFound {
			return "", answered(err, field)
		}
	}
	return w.service.index.person(keys), nil
}

// identify finds the person and checks that they are the one: two of NHS number,
// birth date and family name must agree. Until the work ends, no other message
// about this person is applied, whatever identifiers it has.
func (w *work) identify(ctx context.Context, p patient) (string, error) {
	found, err := w.find(ctx, p.keys, p.number, "PID-3")
	if err != nil || found == "" {
		return "", err
	}
	reply, err := w.service.persons.CheckIdentity(ctx, &personv1.CheckIdentityRequest{PersonId: found, NhsNumber: p.number, BirthDate: p.born, FamilyName: p.family})
	if err != nil {
		return "", answered(err, "PID-3")
	}
	if p.number != "" && !reply.NhsNumberAgrees {
		return "", park("edge.identity.number_differs", "PID-3", "the local identifier is that of a person with another NHS number, or with none")
	}
	if w.unlock == nil {
		if w.unlock, err = w.service.locks.lock(ctx, []string{"person " + reply.PersonId}); err != nil {
			return "", err
		}
	}
	return reply.PersonId, nil
}

// known registers or updates the person of the message.
func (w *work) known(ctx context.Context) (patient, error) {
	p, err := w.patient()
	if err != nil {
		return p, err
	}
	return p, w.register(ctx, p)
}

// register registers or updates the person of the message.
func (w *work) register(ctx context.Context, p patient) (err error) {
	if w.person, err = w.identify(ctx, p); err != nil {
		return err
	}
	if w.person == "" {
		c := w.command("register")
		reply, err := w.service.persons.RegisterPerson(ctx, &personv1.RegisterPersonRequest{Command: c, NhsNumber: p.number, NhsNumberStatus: p.status, LocalIdentifiers: p.locals, Demographics: p.facts, Source: p.source})
		if err != nil {
			return answered(err, "PID-3")
		}
		w.person = reply.Person.PersonId
		w.done("person.RegisterPerson", c, w.person)
		return nil
	}
	c := w.command("update")
	if _, err := w.service.persons.UpdateDemographics(ctx, &personv1.UpdateDemographicsRequest{Command: c, PersonId: w.person, LocalIdentifiers: p.locals, Demographics: p.facts, Source: p.source}); err != nil {
		return answered(err, "PID-5")
	}
	w.done("person.UpdateDemographics", c, w.person)
	return nil
}

// demographics is ADT A28 and A31.
func demographics(ctx context.Context, w *work) error {
	if _, err := w.known(ctx); err != nil {
		return err
	}
	if w.m.get("PID-30") != "Y" {
		return nil
	}
	return w.died(ctx, "")
}

// died notes a death informally, on the day of PID-29 or else on another.
func (w *work) died(ctx context.Context, on string) error {
	if text := w.m.get("PID-29"); text != "" {
		var err error
		if on, err = day(text); err != nil {
			return refuse("edge.field.invalid", "PID-29", "a date of death is YYYYMMDD and exists")
		}
	}
	c := w.command("death")
	if _, err := w.service.persons.NoteDeath(ctx, &personv1.NoteDeathRequest{Command: c, PersonId: w.person, Status: "1", DiedOn: on}); err != nil {
		return answered(err, "PID-29")
	}
	w.done("person.NoteDeath", c, w.person)
	return nil
}

// merge is ADT A40 (A34 in old feeds): MRG-1 goes into PID-3. Whether both have a
// care lead cannot be told from here, so a second person always approves.
func merge(ctx context.Context, w *work) error {
	p, err := w.patient()
	if err != nil {
		return err
	}
	if w.person, err = w.identify(ctx, p); err != nil {
		return err
	}
	if w.person == "" {
		return park("edge.person.unknown", "PID-3", "the person who is to survive the merge is not known here")
	}
	number, _, err := w.numbers("MRG")
	if err != nil {
		return err
	}
	if number == p.number {
		number = "" // the local identifiers tell the two apart
	}
	merged, err := w.find(ctx, w.keys("MRG"), number, "MRG-1")
	if err != nil {
		return err
	}
	if merged == "" {
		return park("edge.person.unknown", "MRG-1", "the person who is to be merged is not known here")
	}
	if merged == w.person {
		return nil // they are one already
	}
	c := w.command("merge")
	if _, err := w.service.persons.MergePersons(ctx, &personv1.MergePersonsRequest{Command: c, SurvivingPersonId: w.person, MergedPersonId: merged, OpenLedgers: true}); err != nil {
		return answered(err, "MRG-1")
	}
	w.done("person.MergePersons", c, merged)
	return nil
}

// pair is the two persons of ADT A24 and A37.
func (w *work) pair(ctx context.Context) (other string, err error) {
	p, err := w.patient()
	if err != nil {
		return "", err
	}
	if w.person, err = w.identify(ctx, p); err != nil {
		return "", err
	}
	second := &work{service: w.service, m: w.m.second(), arrival: w.arrival, unlock: func() {}}
	if second.m.segments == nil {
		return "", refuse("edge.field.required", "PID-3", "the second PID segment is missing")
	}
	if p, err = second.patient(); err != nil {
		return "", err
	}
	if other, err = second.identify(ctx, p); err != nil {
		return "", err
	}
	if w.person == "" || other == "" {
		return "", park("edge.person.unknown", "PID-3", "one of the two persons is not known here: register them, then redrive")
	}
	return other, nil
}

// link is ADT A24: two records belong together, and stay two.
func link(ctx context.Context, w *work) error {
	other, err := w.pair(ctx)
	if err != nil {
		return err
	}
	c := w.command("link")
	if _, err := w.service.persons.LinkPersons(ctx, &personv1.LinkPersonsRequest{Command: c, PersonId: w.person, OtherPersonId: other}); err != nil {
		return answered(err, "PID-3")
	}
	w.done("person.LinkPersons", c, other)
	return nil
}

// unlink is ADT A37.
func unlink(ctx context.Context, w *work) error {
	other, err := w.pair(ctx)
	if err != nil {
		return err
	}
	c := w.command("unlink")
	if _, err := w.service.persons.UnlinkPersons(ctx, &personv1.UnlinkPersonsRequest{Command: c, PersonId: w.person, OtherPersonId: other}); err != nil {
		return answered(err, "PID-3")
	}
	w.done("person.UnlinkPersons", c, other)
	return nil
}

// changeLocal is ADT A47: MRG-1 became PID-3.
func changeLocal(ctx context.Context, w *work) error {
	p, err := w.patient()
	if err != nil {
		return err
	}
	_, earlier, err := w.numbers("MRG")
	if err != nil {
		return err
	}
	if w.person, err = w.find(ctx, p.keys, p.number, "PID-3"); err == nil && w.person == "" {
		w.person, err = w.find(ctx, w.keys("MRG"), "", "MRG-1")
	}
	if err != nil {
		return err
	}
	if w.person == "" {
		return park("edge.person.unknown", "MRG-1", "nobody with the earlier identifier is known here")
	}
	if _, err := w.service.persons.CheckIdentity(ctx, &personv1.CheckIdentityRequest{PersonId: w.person, NhsNumber: p.number, BirthDate: p.born, FamilyName: p.family}); err != nil {
		return answered(err, "PID-3")
	}
	changed := false
	for _, old := range earlier {
		for _, now := range p.locals {
			if old.Assigner != now.Assigner || old.Value == now.Value {
				continue
			}
			c := w.command("change/" + strconv.Itoa(len(w.effects)))
			if _, err := w.service.persons.ChangeIdentifier(ctx, &personv1.ChangeIdentifierRequest{Command: c, PersonId: w.person, Source: p.source, Change: &personv1.ChangeIdentifierRequest_Local{
				Local: &personv1.LocalIdentifierChange{Earlier: old, Identifier: now},
			}}); err != nil {
				return answered(err, "MRG-1")
			}
			w.done("person.ChangeIdentifier", c, w.person)
			changed = true
			break
		}
	}
	if !changed {
		return refuse("edge.field.invalid", "MRG-1", "no identifier of PID-3 is by the same organisation as one of MRG-1")
	}
	return nil
}

// day reads the date of an HL7 time as YYYY-MM-DD.
func day(text string) (string, error) {
	if len(text) < 8 {
		return "", nhs.ErrDate
	}
	d, err := nhs.ParseDate(text[:4] + "-" + text[4:6] + "-" + text[6:8])
	return d.String(), err
}

// moment reads an HL7 time. One without an offset is a time in England.
func moment(text string) (time.Time, error) {
	digits, offset := timeParts(text)
	layout := "20060102150405"
	if len(digits) < 8 || len(digits) > len(layout) || len(digits)%2 != 0 {
		return time.Time{}, nhs.ErrDate
	}
	layout = layout[:len(digits)]
	if offset != "" {
		return time.Parse(layout+"-0700", digits+offset)
	}
	return time.ParseInLocation(layout, digits, london)
}

// clockTime writes an HL7 time to the minute or finer as requests take it: with
// its offset, or without, as the time in England. A time that the change of clocks
// makes two or none is the service's to refuse.
func clockTime(text string) (string, bool) {
	digits, offset := timeParts(text)
	if len(digits) != 12 && len(digits) != 14 {
		return "", false
	}
	t, err := time.Parse("20060102150405", (digits + "00")[:14])
	if err != nil {
		return "", false
	}
	out := t.Format("2006-01-02T15:04:05")
	if offset == "" {
		return out, true
	}
	if t, err = time.Parse("2006-01-02T15:04:05-0700", out+offset); err != nil {
		return "", false
	}
	return t.Format(time.RFC3339), true
}

func timeParts(text string) (digits, offset string) {
	digits = text
	if i := strings.IndexAny(text, "+-"); i >= 0 {
		digits, offset = text[:i], text[i:]
	}
	digits, _, _ = strings.Cut(digits, ".")
	if len(digits) == len("20060102150405000") {
		digits = digits[:14] // milliseconds without their point, as some systems write them
	}
	return digits, offset
}

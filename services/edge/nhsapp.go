package edge

import (
	"context"
	_ "embed"
	"encoding/csv"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/edge/fhir"
	"waymark/services/kit/nhs"
	"waymark/services/kit/run"
)

// feedOperation gives the NHS App the appointments of the patient who is logged in.
const feedOperation = "$patient-appointments"

//go:embed nhsapp.csv
var feedCSV string

// feedRules of nhsapp.csv.
var feedRules = func() map[string]string {
	r := csv.NewReader(strings.NewReader(feedCSV))
	r.Comment = '#'
	rows, err := r.ReadAll()
	if err != nil {
		panic(err) // cannot be: the file is embedded, and a test reads it
	}
	out := map[string]string{}
	for _, row := range rows[1:] {
		out[row[0]] = row[1]
	}
	return out
}()

func feedNumber(rule string) int {
	n, err := strconv.Atoi(feedRules[rule])
	if err != nil {
		panic("nhsapp.csv: " + rule + " is no number")
	}
	return n
}

// perSecond lets so many through in each second of the machine's clock.
type perSecond struct {
	mu     sync.Mutex // guards all below
	second int64
	taken  int
}

func (p *perSecond) take(now time.Time, most int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := now.Unix(); s != p.second {
		p.second, p.taken = s, 0
	}
	p.taken++
	return p.taken <= most
}

// feed answers the NHS App: POST $patient-appointments with Parameters nhs-number
// and birth-date, as the token of NHS login says them (a gateway has checked the
// token). A number that is not known and a birth date that is another one get the
// same answer. Correlation ids go to the log; nothing of the patient does.
func (s *fhirServer) feed(q *fhirRequest) (*reply, error) {
	if q.Method != http.MethodPost {
		return nil, deny(http.StatusMethodNotAllowed, "not-supported", "", "the feed is read with POST: an NHS number does not belong into a URL")
	}
	if !s.feedPace.take(run.Clock(), feedNumber("most_per_second")) {
		return nil, &refusal{http.StatusTooManyRequests, "throttled", "", "too many requests in this second: ask again", time.Second}
	}
	id := q.Header.Get("X-Correlation-Id")
	if !correlation.MatchString(id) {
		return nil, deny(http.StatusBadRequest, "required", "http.X-Correlation-Id", "the header is needed: a UUID, or another id of at most 100 letters, digits and ._:-")
	}
	ctx, cancel := context.WithTimeout(q.Context(), time.Duration(feedNumber("answer_within_ms"))*time.Millisecond)
	defer cancel()
	number, born, err := feedPatient(q)
	if err != nil {
		return nil, err
	}
	found, err := s.persons.FindPerson(ctx, &personv1.FindPersonRequest{NhsNumber: number})
	if status.Code(err) == codes.NotFound || err == nil && found.Person.BirthDate != born {
		return nil, deny(http.StatusNotFound, "not-found", "", "no patient with this NHS number and birth date is known")
	}
	if err != nil {
		return nil, err
	}
	bundle := &fhir.Bundle{Type: "searchset", Timestamp: stampText(s.clock())}
	if feedShows(found.Person, nhs.DateOf(s.clock())) {
		if bundle.Entry, err = s.feedEntries(ctx, q.base, found.Person.PersonId); err != nil {
			return nil, err
		}
	}
	bundle.Total = new(int32(len(bundle.Entry)))
	s.slog.InfoContext(ctx, "the NHS App read a patient's appointments", "event.name", "edge.nhsapp.read", "correlation", id, "count", len(bundle.Entry))
	return &reply{http.StatusOK, bundle}, nil
}

// feedPatient reads the Parameters of a request.
func feedPatient(q *fhirRequest) (number, born string, err error) {
	if t, _, _ := mime.ParseMediaType(q.Header.Get("Content-Type")); !fhirMedia[t] {
		return "", "", deny(http.StatusUnsupportedMediaType, "not-supported", "http.Content-Type", "the Parameters are sent as application/fhir+json")
	}
	raw, err := io.ReadAll(http.MaxBytesReader(nil, q.Body, maxForm))
	if err != nil {
		return "", "", deny(http.StatusRequestEntityTooLarge, "too-long", "", "Parameters have at most 64 KiB")
	}
	d := readDocument(raw, "UNKNOWN", "nhs-app")
	if d.unread != nil || d.kind != "Parameters" {
		return "", "", deny(http.StatusBadRequest, "structure", "", "the body is a Parameters resource with nhs-number and birth-date")
	}
	var at [2]string
	for _, p := range d.root.all("parameter") {
		for _, name := range []string{"valueString", "valueDate", "valueIdentifier"} {
			v := p.get(name)
			if v.v == nil {
				continue
			}
			text := v.text()
			if text == "" {
				text = v.str("value")
			}
			switch p.str("name") {
			case "nhs-number":
				number, at[0] = strings.ReplaceAll(text, " ", ""), v.path
			case "birth-date":
				born, at[1] = text, v.path
			}
		}
	}
	if _, err := nhs.ParseNumber(number); err != nil {
		return "", "", deny(http.StatusBadRequest, "value", at[0], "nhs-number: "+nhs.ErrNumber.Error())
	}
	if _, err := nhs.ParseDate(born); err != nil {
		return "", "", deny(http.StatusBadRequest, "value", at[1], "birth-date: "+nhs.ErrDate.Error())
	}
	return number, born, nil
}

// feedShows reports whether anything of a patient may be shown.
func feedShows(p *personv1.Person, today nhs.Date) bool {
	if feedRules["hide_restricted"] == "yes" && p.Restricted || feedRules["hide_after_death"] == "yes" && p.MessagesStopped {
		return false
	}
	born, err := nhs.ParseDate(p.BirthDate)
	return err == nil && age(born, today) >= feedNumber("minimum_age")
}

// age in whole years. Who was born on 29 February grows older on 1 March in other years.
func age(born, today nhs.Date) int {
	b, t := born.String(), today.String()
	year := func(text string) int {
		n, _ := strconv.Atoi(text[:4]) // a Date has four digits of year
		return n
	}
	years := year(t) - year(b)
	if t[5:] < b[5:] {
		years--
	}
	return years
}

// feedEntries are the appointments of a patient that may be shown: past, future
// and cancelled ones, by their time.
func (s *fhirServer) feedEntries(ctx context.Context, base, person string) ([]fhir.BundleEntry, error) {
	head, err := s.log.Head(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.records.Wait(ctx, head); err != nil {
		return nil, err
	}
	kind := s.kind("Appointment")
	_, everybody, err := s.records.patient(person)
	if err != nil {
		return nil, err
	}
	pathways, err := s.records.pathwaysOf(everybody)
	if err != nil {
		return nil, err
	}
	var shown []*fhir.Appointment
	for _, owner := range pathways {
		made, err := s.make(ctx, kind, owner, base, asOf{})
		if err != nil {
			return nil, err
		}
		for _, r := range made {
			if a, ok := r.(*fhir.Appointment); ok && !s.hidden(a) {
				shown = append(shown, a)
			}
		}
	}
	slices.SortStableFunc(shown, func(a, b *fhir.Appointment) int { return strings.Compare(a.Start, b.Start) })
	var entries []fhir.BundleEntry
	for _, a := range shown {
		entries = append(entries, fhir.BundleEntry{FullUrl: base + "/Appointment/" + a.ID, Resource: a, Search: &fhir.BundleEntrySearch{Mode: "match"}})
	}
	return entries, nil
}

// hidden reports whether an appointment is kept from the NHS App: it has no
// booking, or its site or treatment function is hidden by the trust.
func (s *fhirServer) hidden(a *fhir.Appointment) bool {
	if feedRules["hide_without_booking"] == "yes" && (a.Start == "" || a.Status == "proposed" || a.Status == "entered-in-error") {
		return true
	}
	for _, c := range a.Specialty {
		for _, coding := range c.Coding {
			if s.hide["tfc:"+coding.Code] {
				return true
			}
		}
	}
	for _, p := range a.Participant {
		if p.Actor != nil && p.Actor.Identifier != nil && s.hide["site:"+p.Actor.Identifier.Value] {
			return true
		}
	}
	return false
}

// HiddenFromApp reads what a trust hides: site:ODS and tfc:CODE.
func HiddenFromApp(list []string) (map[string]bool, error) {
	hide := map[string]bool{}
	for _, item := range list {
		kind, code, ok := strings.Cut(strings.TrimSpace(item), ":")
		if !ok || code == "" || kind != "site" && kind != "tfc" {
			return nil, errors.New("--nhs-app-hide is site:ODS or tfc:CODE, for example tfc:360")
		}
		hide[kind+":"+strings.ToUpper(code)] = true
	}
	return hide, nil
}

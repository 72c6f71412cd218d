package edge

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/edge/fhir"
	"waymark/services/kit/run"
)

// patientParams are those of a kind that is about a patient.
func (k *fhirKind) aboutPatient() bool { return k.owner == ofPathway || k.name == "Flag" }

// names lists the search parameters of a kind, as a caller may write them.
func (k *fhirKind) names() []string {
	names := []string{"_id", "_lastUpdated", "_count", "_page", "_as-of"}
	if k.aboutPatient() {
		names = append(names, "patient", "patient.identifier", "subject")
	}
	for _, p := range k.params {
		if names = append(names, p.name); p.kind == "reference" {
			names = append(names, p.name+":identifier")
		}
	}
	return names
}

// budget is how long a search looks before it gives what it has, with a link to go on.
const budget = 4 * time.Second

// search answers a search: it goes through the people, pathways or sessions
// that the parameters leave, in the order of the log.
func (s *fhirServer) search(q *fhirRequest, k *fhirKind) (*reply, error) {
	if err := q.only(k.names()...); err != nil {
		return nil, err
	}
	for name, values := range q.params {
		for _, v := range values {
			if v == "" {
				return nil, deny(http.StatusBadRequest, "value", name, "must have a value")
			}
		}
	}
	m, err := q.moment()
	if err != nil {
		return nil, err
	}
	count, after, err := q.page()
	if err != nil {
		return nil, err
	}
	owners, err := s.ownersFor(q, k)
	if err != nil {
		return nil, err
	}
	matches, err := k.filter(q)
	if err != nil {
		return nil, err
	}

	bundle := &fhir.Bundle{Type: "searchset", Timestamp: stampText(s.clock())}
	soon, cancel := context.WithTimeout(q.Context(), min(budget, s.answer/2))
	defer cancel()
	// A page goes on after the owner that the last one ended with; the resources of
	// one owner stay on one page, however many they are.
	next, more := after, false
	var some []string
	for n := after; ; n++ {
		if len(some) == 0 {
			if some, err = owners(n); err != nil {
				return nil, err
			}
			if len(some) == 0 {
				break
			}
		}
		owner := some[0]
		some = some[1:]
		if len(bundle.Entry) >= count || n > after && soon.Err() != nil {
			more = true
			break
		}
		made, err := s.make(q.Context(), k, owner, q.base, m)
		if err != nil {
			return nil, err
		}
		next = n + 1
		for _, r := range made {
			if !matches(r) {
				continue
			}
			bundle.Entry = append(bundle.Entry, fhir.BundleEntry{FullUrl: q.base + "/" + k.name + "/" + fhir.ID(r), Resource: r, Search: &fhir.BundleEntrySearch{Mode: "match"}})
		}
	}
	if after == 0 && !more {
		bundle.Total = new(int32(len(bundle.Entry)))
	}
	q.links(bundle, k.name, next, more)
	return &reply{http.StatusOK, bundle}, nil
}

// ownersFor lists whose resources may match, some at a time: what it returns gives
// those from the n-th on, none at the end.
func (s *fhirServer) ownersFor(q *fhirRequest, k *fhirKind) (func(n int) ([]string, error), error) {
	if ids := q.params["_id"]; len(ids) > 0 {
		var owners []string
		for _, id := range strings.Split(ids[0], ",") {
			key, _, _ := strings.Cut(id, ".")
			owner, err := s.records.ownerOf(key)
			if err != nil {
				return nil, err
			}
			if owner != "" && !slices.Contains(owners, owner) {
				owners = append(owners, owner)
			}
		}
		return these(owners), nil
	}
	var people []string
	narrow := func(found []string) {
		if people == nil {
			people = append([]string{}, found...)
		} else {
			people = slices.DeleteFunc(people, func(p string) bool { return !slices.Contains(found, p) })
		}
	}
	if k.aboutPatient() {
		for _, name := range []string{"patient", "subject"} {
			for _, value := range q.params[name] {
				var found []string
				for _, id := range strings.Split(value, ",") {
					id = strings.TrimPrefix(strings.TrimPrefix(id, q.base+"/"), "Patient/")
					if strings.Contains(id, "/") {
						return nil, deny(http.StatusBadRequest, "value", name, "must be the id of a Patient, with or without Patient/ before it")
					}
					_, all, err := s.records.patient(id)
					if err != nil {
						return nil, err
					}
					found = append(found, all...)
				}
				narrow(found)
			}
		}
	}
	names := []string{"patient.identifier"}
	if k.name == "Patient" {
		names = []string{"identifier"}
	}
	for _, name := range names {
		for _, value := range q.params[name] {
			var found []string
			for _, one := range strings.Split(value, ",") {
				ids, err := s.whoHas(q.Context(), name, one)
				if err != nil {
					return nil, err
				}
				found = append(found, ids...)
			}
			narrow(found)
		}
	}
	switch {
	case people == nil || k.owner == ofSession:
		return func(n int) ([]string, error) { return s.records.owners(k.owner, n) }, nil
	case k.owner == ofPerson:
		return these(people), nil
	}
	pathways, err := s.records.pathwaysOf(people)
	return these(pathways), err
}

// these hands on a list as ownersFor does.
func these(owners []string) func(int) ([]string, error) {
	return func(n int) ([]string, error) { return owners[min(n, len(owners)):], nil }
}

// whoHas finds people by an identifier, which names its system: a bare number could be anything.
func (s *fhirServer) whoHas(ctx context.Context, name, value string) ([]string, error) {
	system, value, both := strings.Cut(value, "|")
	if !both || system == "" || value == "" {
		return nil, deny(http.StatusBadRequest, "value", name, "must be system|value, such as "+nhsID+"nhs-number|...")
	}
	if ods, ok := strings.CutPrefix(system, localSystem("")); ok {
		id, err := s.records.local(ods + "|" + value)
		if err != nil || id == "" {
			return nil, err
		}
		_, all, err := s.records.patient(id)
		return all, err
	}
	if system != nhsID+"nhs-number" {
		return nil, deny(http.StatusBadRequest, "not-supported", name, "the systems are "+nhsID+"nhs-number and "+localSystem("")+"{ODS code}")
	}
	reply, err := s.persons.FindPerson(ctx, &personv1.FindPersonRequest{NhsNumber: value})
	switch status.Code(err) {
	case codes.OK:
		_, all, err := s.records.patient(reply.Person.PersonId)
		return all, err
	case codes.NotFound:
		return nil, nil
	case codes.InvalidArgument:
		return nil, deny(http.StatusBadRequest, "value", name, "this is no NHS number: ten digits, the last of them right")
	}
	return nil, err
}

// filter makes the test that a resource must pass.
func (k *fhirKind) filter(q *fhirRequest) (func(fhir.Resource) bool, error) {
	var tests []func(fhir.Resource) bool
	for _, value := range q.params["_id"] {
		ids := strings.Split(value, ",")
		tests = append(tests, func(r fhir.Resource) bool { return slices.Contains(ids, fhir.ID(r)) })
	}
	for _, value := range q.params["_lastUpdated"] {
		within, err := span("_lastUpdated", value)
		if err != nil {
			return nil, err
		}
		tests = append(tests, func(r fhir.Resource) bool {
			at := fhir.MetaOf(r).LastUpdated
			return within(&fhir.Period{Start: at, End: at})
		})
	}
	for _, p := range k.params {
		for _, value := range q.params[p.name] {
			test, err := p.test(value)
			if err != nil {
				return nil, err
			}
			tests = append(tests, test)
		}
		for _, value := range q.params[p.name+":identifier"] {
			wanted, err := parseTokens(p.name+":identifier", value)
			if err != nil {
				return nil, err
			}
			tests = append(tests, func(r fhir.Resource) bool {
				return slices.ContainsFunc(p.references(r), func(ref *fhir.Reference) bool {
					return ref.Identifier != nil && anyToken(wanted, []token{{ref.Identifier.System, ref.Identifier.Value}})
				})
			})
		}
	}
	return func(r fhir.Resource) bool {
		for _, test := range tests {
			if !test(r) {
				return false
			}
		}
		return true
	}, nil
}

// test makes the test of one value of a parameter; commas in it mean or.
func (p fhirParam) test(value string) (func(fhir.Resource) bool, error) {
	switch p.kind {
	case "token":
		wanted, err := parseTokens(p.name, value)
		return func(r fhir.Resource) bool { return anyToken(wanted, p.tokens(r)) }, err
	case "date":
		within, err := span(p.name, value)
		return func(r fhir.Resource) bool { return slices.ContainsFunc(p.dates(r), within) }, err
	case "reference":
		wanted := strings.Split(value, ",")
		for _, w := range wanted {
			if strings.Contains(w, "|") {
				return nil, deny(http.StatusBadRequest, "value", p.name, "to search by the identifier of what is referred to, use "+p.name+":identifier=system|value")
			}
		}
		return func(r fhir.Resource) bool {
			return slices.ContainsFunc(p.references(r), func(ref *fhir.Reference) bool {
				_, id, _ := strings.Cut(ref.Reference, "/")
				return ref.Reference != "" && (slices.Contains(wanted, ref.Reference) || slices.Contains(wanted, id))
			})
		}, nil
	}
	return nil, errors.New("edge: search parameter " + p.name + " has no kind")
}

// wantedToken is one value of a token parameter; anySystem without a |.
type wantedToken struct {
	token
	anySystem bool
}

func parseTokens(name, text string) (wanted []wantedToken, err error) {
	for _, one := range strings.Split(text, ",") {
		system, value, both := strings.Cut(one, "|")
		if !both {
			system, value = "", one
		}
		if one == "" || one == "|" {
			return nil, deny(http.StatusBadRequest, "value", name, "must be code, system|code, |code or system|")
		}
		wanted = append(wanted, wantedToken{token{system, value}, !both})
	}
	return wanted, nil
}

func anyToken(wanted []wantedToken, has []token) bool {
	return slices.ContainsFunc(wanted, func(w wantedToken) bool {
		return slices.ContainsFunc(has, func(h token) bool {
			return (w.anySystem || w.system == h.system) && (w.value == h.value || w.value == "" && w.system != "") && h.value != ""
		})
	})
}

// span makes the test of a date parameter against what a resource spans: [start,
// end], open where an end is missing. Prefixes are those of R4: eq, ne, gt, lt, ge, le, sa, eb.
func span(name, text string) (func(*fhir.Period) bool, error) {
	type bound struct {
		prefix   string
		from, to time.Time // from is in it, to is after it
	}
	var wanted []bound
	for _, one := range strings.Split(text, ",") {
		b := bound{prefix: "eq"}
		if len(one) > 2 && one[0] >= 'a' && one[0] <= 'z' {
			b.prefix, one = one[:2], one[2:]
		}
		if !slices.Contains([]string{"eq", "ne", "gt", "lt", "ge", "le", "sa", "eb"}, b.prefix) {
			return nil, deny(http.StatusBadRequest, "value", name, "begins with eq, ne, gt, lt, ge, le, sa or eb, or with the date")
		}
		var ok bool
		if b.from, b.to, ok = dateSpan(strings.ReplaceAll(one, " ", "+")); !ok {
			return nil, deny(http.StatusBadRequest, "value", name, "must be a date (2026, 2026-02, 2026-02-03) or an instant with offset (2026-02-03T14:05:00Z)")
		}
		wanted = append(wanted, b)
	}
	early, late := time.Time{}, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	return func(p *fhir.Period) bool {
		from, to := early, late
		if f, _, ok := dateSpan(p.Start); ok {
			from = f
		}
		if _, t, ok := dateSpan(p.End); ok {
			to = t
		}
		return slices.ContainsFunc(wanted, func(b bound) bool {
			inside := !from.Before(b.from) && !to.After(b.to)
			switch b.prefix {
			case "eq":
				return inside
			case "ne":
				return !inside
			case "gt":
				return to.After(b.to)
			case "lt":
				return from.Before(b.from)
			case "ge":
				return to.After(b.to) || inside
			case "le":
				return from.Before(b.from) || inside
			case "sa":
				return !from.Before(b.to)
			default: // eb
				return !to.After(b.from)
			}
		})
	}, nil
}

// dateSpan is the time that a date or instant stands for: from its begin to
// before the next. A civil date is taken as of UTC.
func dateSpan(text string) (from, to time.Time, ok bool) {
	for _, f := range []struct {
		layout        string
		years, months int
		days          int
	}{{"2006", 1, 0, 0}, {"2006-01", 0, 1, 0}, {"2006-01-02", 0, 0, 1}} {
		if t, err := time.Parse(f.layout, text); err == nil {
			return t, t.AddDate(f.years, f.months, f.days), true
		}
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return from, to, false
	}
	unit := time.Second
	if t.Nanosecond() != 0 {
		unit = time.Millisecond
	}
	return t, t.Add(unit), true
}

// capability is the CapabilityStatement, made from the table that routes.
func (s *fhirServer) capability(base string) *fhir.CapabilityStatement {
	out := &fhir.CapabilityStatement{
		URL: base + "/metadata", Name: "Waymark", Title: "Waymark", Status: "active", Date: "2026-11-21", Kind: "instance", FhirVersion: "4.0.1", Format: []string{"application/fhir+json", "json"},
		Software:       &fhir.CapabilityStatementSoftware{Name: "Waymark", Version: run.Version()},
		Implementation: &fhir.CapabilityStatementImplementation{Description: "Cancer pathways and who is accountable for them. Not for live use", URL: base},
	}
	rest := fhir.CapabilityStatementRest{Mode: "server", Documentation: "Resources are read; what happens is recorded by the commands of the services. Unknown parameters are refused (Prefer: handling=strict is the default). " +
		"_as-of, of reads and searches, answers as it was known at a position of the log (a version id) or at an instant."}
	for _, k := range s.kinds {
		r := fhir.CapabilityStatementRestResource{
			Type: k.name, Documentation: k.doc, Versioning: "versioned", ReadHistory: new(true),
			Interaction: []fhir.CapabilityStatementRestResourceInteraction{{Code: "read"}, {Code: "vread"}, {Code: "history-instance"}, {Code: "search-type"}},
			SearchParam: []fhir.CapabilityStatementRestResourceSearchParam{
				{Name: "_id", Type: "token"}, {Name: "_lastUpdated", Type: "date"},
				{Name: "_as-of", Type: "special", Documentation: "a position of the log, or an instant with offset"},
			},
		}
		if k.aboutPatient() {
			r.SearchParam = append(r.SearchParam,
				fhir.CapabilityStatementRestResourceSearchParam{Name: "patient", Type: "reference", Documentation: "also patient.identifier=system|value"},
				fhir.CapabilityStatementRestResourceSearchParam{Name: "subject", Type: "reference", Documentation: "a Patient, as patient"})
		}
		for _, p := range k.params {
			r.SearchParam = append(r.SearchParam, fhir.CapabilityStatementRestResourceSearchParam{Name: p.name, Type: p.kind, Documentation: p.doc})
		}
		if k.name == "Composition" {
			r.Operation = []fhir.CapabilityStatementRestResourceOperation{{Name: "document", Definition: "http://hl7.org/fhir/OperationDefinition/Composition-document"}}
		}
		rest.Resource = append(rest.Resource, r)
	}
	rest.SearchParam = []fhir.CapabilityStatementRestResourceSearchParam{{Name: "_count", Type: "number", Documentation: "1 to " + strconv.Itoa(maxPage) + "; " + strconv.Itoa(defaultPage) + " where it is not said"}}
	rest.Resource = append(rest.Resource, fhir.CapabilityStatementRestResource{Type: "MessageDefinition", Documentation: "the BaRS messages that are taken", Interaction: []fhir.CapabilityStatementRestResourceInteraction{{Code: "search-type"}}})
	rest.Operation = []fhir.CapabilityStatementRestResourceOperation{
		{Name: "process-message", Definition: "http://hl7.org/fhir/OperationDefinition/MessageHeader-process-message", Documentation: "BaRS: servicerequest-request and -response, booking-request and -response"},
		{Name: "messages", Definition: ours + "OperationDefinition/messages", Documentation: "the messages that answer an organisation's referrals"},
		{Name: "patient-appointments", Definition: ours + "OperationDefinition/patient-appointments", Documentation: "the NHS App's feed of one patient's appointments"},
	}
	out.Rest = []fhir.CapabilityStatementRest{rest}
	return out
}

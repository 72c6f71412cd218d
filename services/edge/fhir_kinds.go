package edge

import (
	"strconv"

	"waymark/services/edge/fhir"
	"waymark/services/kit/es"
)

// ownerKind is whose streams a resource is made from.
type ownerKind int

const (
	ofPathway ownerKind = iota
	ofPerson
	ofSession
)

// fhirKind is one type of resource that is served. The table of them is all
// that routing, searching and the CapabilityStatement know.
type fhirKind struct {
	name    string
	owner   ownerKind
	streams []string // categories of the streams that it is made from
	each    bool     // one resource for each event: it has one version, and no other ever
	make    func(*snapshot) ([]fhir.Resource, error)
	params  []fhirParam
	doc     string
}

// fhirParam is a search parameter, by the name and type that R4 gives it.
type fhirParam struct {
	name, kind string
	tokens     func(fhir.Resource) []token           // kind token
	dates      func(fhir.Resource) []*fhir.Period    // kind date: what it spans
	references func(fhir.Resource) []*fhir.Reference // kind reference
	doc        string
}

// token is a coded value: a code, an identifier, a boolean.
type token struct{ system, value string }

func version(p es.Position) string { return strconv.FormatUint(uint64(p), 10) }

func tokens(name, doc string, of func(fhir.Resource) []token) fhirParam {
	return fhirParam{name: name, kind: "token", tokens: of, doc: doc}
}

func code(name, doc string, of func(fhir.Resource) string) fhirParam {
	return tokens(name, doc, func(r fhir.Resource) []token { return []token{{"", of(r)}} })
}

func dates(name, doc string, of func(fhir.Resource) []*fhir.Period) fhirParam {
	return fhirParam{name: name, kind: "date", dates: of, doc: doc}
}

func date(name, doc string, of func(fhir.Resource) string) fhirParam {
	return dates(name, doc, func(r fhir.Resource) []*fhir.Period {
		if on := of(r); on != "" {
			return []*fhir.Period{{Start: on, End: on}}
		}
		return nil
	})
}

func refs(name, doc string, of func(fhir.Resource) []*fhir.Reference) fhirParam {
	return fhirParam{name: name, kind: "reference", references: of, doc: doc}
}

func tokensOf(concepts ...fhir.CodeableConcept) (all []token) {
	for _, c := range concepts {
		for _, coding := range c.Coding {
			all = append(all, token{coding.System, coding.Code})
		}
	}
	return all
}

func identifiersOf(ids []fhir.Identifier) (all []token) {
	for _, i := range ids {
		all = append(all, token{i.System, i.Value})
	}
	return all
}

// fhirKinds is the table of what is served. A type is added here and nowhere else.
func fhirKinds() []*fhirKind {
	type R = fhir.Resource
	one := func(r *fhir.Reference) []*fhir.Reference {
		if r == nil {
			return nil
		}
		return []*fhir.Reference{r}
	}
	span := func(p *fhir.Period) []*fhir.Period {
		if p == nil {
			return nil
		}
		return []*fhir.Period{p}
	}
	concept := func(c *fhir.CodeableConcept) []token {
		if c == nil {
			return nil
		}
		return tokensOf(*c)
	}
	text := func(v fhir.Value) string {
		d, _ := v.(fhir.DateTime)
		return string(d)
	}
	return []*fhirKind{
		{name: "Patient", owner: ofPerson, streams: []string{"person"}, make: patients, doc: "a person; UK Core identifiers",
			params: []fhirParam{
				tokens("identifier", "NHS number, or a local identifier", func(r R) []token { return identifiersOf(r.(*fhir.Patient).Identifier) }),
			}},
		{name: "EpisodeOfCare", streams: []string{"pathway", "carelead"}, make: episodes, doc: "a cancer pathway, and who is accountable for it",
			params: []fhirParam{
				tokens("identifier", "patient pathway identifier", func(r R) []token { return identifiersOf(r.(*fhir.EpisodeOfCare).Identifier) }),
				code("status", "active, finished, entered-in-error", func(r R) string { return r.(*fhir.EpisodeOfCare).Status }),
				tokens("type", "route of the pathway", func(r R) []token { return tokensOf(r.(*fhir.EpisodeOfCare).Type...) }),
				dates("date", "from receipt of the referral to the close", func(r R) []*fhir.Period { return span(r.(*fhir.EpisodeOfCare).Period) }),
				refs("care-manager", "the accountable person in a role, by :identifier", func(r R) []*fhir.Reference { return one(r.(*fhir.EpisodeOfCare).CareManager) }),
			}},
		{name: "CareTeam", streams: []string{"pathway", "carelead"}, make: careTeams, doc: "every party that was accountable for a pathway, with its time",
			params: []fhirParam{
				tokens("identifier", "", func(r R) []token { return identifiersOf(r.(*fhir.CareTeam).Identifier) }),
				code("status", "active, inactive", func(r R) string { return r.(*fhir.CareTeam).Status }),
				dates("date", "", func(r R) []*fhir.Period { return span(r.(*fhir.CareTeam).Period) }),
				refs("participant", "a party, by :identifier", func(r R) (all []*fhir.Reference) {
					for _, p := range r.(*fhir.CareTeam).Participant {
						all = append(all, one(p.Member)...)
					}
					return all
				}),
			}},
		{name: "CarePlan", streams: []string{"plan"}, make: carePlans, doc: "Personalised Cancer Plan",
			params: []fhirParam{
				tokens("identifier", "plan id", func(r R) []token { return identifiersOf(r.(*fhir.CarePlan).Identifier) }),
				code("status", "", func(r R) string { return r.(*fhir.CarePlan).Status }),
				tokens("category", "", func(r R) []token { return tokensOf(r.(*fhir.CarePlan).Category...) }),
				dates("date", "", func(r R) []*fhir.Period { return span(r.(*fhir.CarePlan).Period) }),
			}},
		{name: "Goal", streams: []string{"plan"}, make: goals, doc: "a goal of the plan",
			params: []fhirParam{
				tokens("identifier", "", func(r R) []token { return identifiersOf(r.(*fhir.Goal).Identifier) }),
				code("lifecycle-status", "", func(r R) string { return r.(*fhir.Goal).LifecycleStatus }),
				dates("target-date", "", func(r R) (all []*fhir.Period) {
					for _, t := range r.(*fhir.Goal).Target {
						if d, ok := t.Due.(fhir.Date); ok {
							all = append(all, &fhir.Period{Start: string(d), End: string(d)})
						}
					}
					return all
				}),
			}},
		{name: "Condition", streams: []string{"plan", "pathway"}, make: conditions, doc: "the diagnosis of a plan, and the concerns of the patient",
			params: []fhirParam{
				tokens("identifier", "", func(r R) []token { return identifiersOf(r.(*fhir.Condition).Identifier) }),
				tokens("clinical-status", "", func(r R) []token { return concept(r.(*fhir.Condition).ClinicalStatus) }),
				tokens("category", "encounter-diagnosis, problem-list-item", func(r R) []token { return tokensOf(r.(*fhir.Condition).Category...) }),
				tokens("code", "", func(r R) []token { return concept(r.(*fhir.Condition).Code) }),
				date("onset-date", "day of the diagnosis", func(r R) string { return text(r.(*fhir.Condition).Onset) }),
			}},
		{name: "QuestionnaireResponse", streams: []string{"plan"}, make: responses, doc: "holistic needs assessments that were begun, and patient-reported outcomes",
			params: []fhirParam{
				tokens("identifier", "", func(r R) []token {
					if i := r.(*fhir.QuestionnaireResponse).Identifier; i != nil {
						return identifiersOf([]fhir.Identifier{*i})
					}
					return nil
				}),
				code("status", "", func(r R) string { return r.(*fhir.QuestionnaireResponse).Status }),
				date("authored", "", func(r R) string { return r.(*fhir.QuestionnaireResponse).Authored }),
			}},
		{name: "Composition", streams: []string{"plan"}, make: compositions, doc: "end-of-treatment summary, once it was drafted; $document for the document Bundle",
			params: []fhirParam{
				tokens("identifier", "summary id", func(r R) []token {
					if i := r.(*fhir.Composition).Identifier; i != nil {
						return identifiersOf([]fhir.Identifier{*i})
					}
					return nil
				}),
				code("status", "", func(r R) string { return r.(*fhir.Composition).Status }),
				tokens("category", "", func(r R) []token { return tokensOf(r.(*fhir.Composition).Category...) }),
				tokens("type", "", func(r R) []token { return concept(r.(*fhir.Composition).Type) }),
				date("date", "", func(r R) string { return r.(*fhir.Composition).Date }),
			}},
		{name: "DocumentReference", streams: []string{"plan"}, make: documentReferences, doc: "where an end-of-treatment summary is to be had",
			params: []fhirParam{
				tokens("identifier", "summary id", func(r R) []token { return identifiersOf(r.(*fhir.DocumentReference).Identifier) }),
				code("status", "", func(r R) string { return r.(*fhir.DocumentReference).Status }),
				tokens("category", "", func(r R) []token { return tokensOf(r.(*fhir.DocumentReference).Category...) }),
				tokens("type", "", func(r R) []token { return concept(r.(*fhir.DocumentReference).Type) }),
				date("date", "", func(r R) string { return r.(*fhir.DocumentReference).Date }),
			}},
		{name: "Bundle", streams: []string{"plan", "person"}, make: documents, doc: "an end-of-treatment summary as a document",
			params: []fhirParam{
				tokens("identifier", "summary id", func(r R) []token { return identifiersOf([]fhir.Identifier{*r.(*fhir.Bundle).Identifier}) }),
			}},
		{name: "Communication", streams: []string{"plan"}, make: communications, doc: "the sending of a summary to one recipient",
			params: []fhirParam{
				tokens("identifier", "", func(r R) []token { return identifiersOf(r.(*fhir.Communication).Identifier) }),
				code("status", "", func(r R) string { return r.(*fhir.Communication).Status }),
				tokens("category", "", func(r R) []token { return tokensOf(r.(*fhir.Communication).Category...) }),
				date("sent", "", func(r R) string { return r.(*fhir.Communication).Sent }),
			}},
		{name: "Task", streams: []string{"pathway", "carelead", "referral"}, make: tasks, doc: "an offer of accountability to a lead or team; the receiver's work on a referral",
			params: []fhirParam{
				tokens("identifier", "", func(r R) []token { return identifiersOf(r.(*fhir.Task).Identifier) }),
				code("status", "", func(r R) string { return r.(*fhir.Task).Status }),
				tokens("code", "accept-care-lead, fulfill", func(r R) []token { return concept(r.(*fhir.Task).Code) }),
				date("authored-on", "", func(r R) string { return r.(*fhir.Task).AuthoredOn }),
				refs("owner", "who is to answer, by :identifier", func(r R) []*fhir.Reference { return one(r.(*fhir.Task).Owner) }),
				refs("focus", "", func(r R) []*fhir.Reference { return one(r.(*fhir.Task).Focus) }),
			}},
		{name: "ServiceRequest", streams: []string{"referral"}, make: serviceRequests, doc: "a referral",
			params: []fhirParam{
				tokens("identifier", "referral id, the number that people read out, UBRN", func(r R) []token { return identifiersOf(r.(*fhir.ServiceRequest).Identifier) }),
				code("status", "", func(r R) string { return r.(*fhir.ServiceRequest).Status }),
				tokens("category", "kind of the referral", func(r R) []token { return tokensOf(r.(*fhir.ServiceRequest).Category...) }),
				date("authored", "", func(r R) string { return r.(*fhir.ServiceRequest).AuthoredOn }),
				refs("performer", "the receiver, by :identifier", func(r R) (all []*fhir.Reference) {
					for i := range r.(*fhir.ServiceRequest).Performer {
						all = append(all, &r.(*fhir.ServiceRequest).Performer[i])
					}
					return all
				}),
			}},
		{name: "Appointment", streams: []string{"appointment"}, make: appointments, doc: "an appointment, wanted or booked",
			params: []fhirParam{
				tokens("identifier", "in the booking system", func(r R) []token { return identifiersOf(r.(*fhir.Appointment).Identifier) }),
				code("status", "", func(r R) string { return r.(*fhir.Appointment).Status }),
				dates("date", "", func(r R) []*fhir.Period {
					if a := r.(*fhir.Appointment); a.Start != "" {
						return []*fhir.Period{{Start: a.Start, End: a.End}}
					}
					return nil
				}),
				refs("based-on", "", func(r R) (all []*fhir.Reference) {
					for i := range r.(*fhir.Appointment).BasedOn {
						all = append(all, &r.(*fhir.Appointment).BasedOn[i])
					}
					return all
				}),
			}},
		{name: "Schedule", owner: ofSession, streams: []string{"session"}, make: schedules, doc: "a clinic session",
			params: []fhirParam{
				tokens("identifier", "session id", func(r R) []token { return identifiersOf(r.(*fhir.Schedule).Identifier) }),
				tokens("active", "", func(r R) []token { return []token{{"", strconv.FormatBool(*r.(*fhir.Schedule).Active)}} }),
				dates("date", "", func(r R) []*fhir.Period { return span(r.(*fhir.Schedule).PlanningHorizon) }),
			}},
		{name: "Slot", owner: ofSession, streams: []string{"session"}, make: slots, doc: "a slot of a clinic session, as it is at this moment",
			params: []fhirParam{
				tokens("identifier", "", func(r R) []token { return identifiersOf(r.(*fhir.Slot).Identifier) }),
				code("status", "free, busy, busy-tentative, busy-unavailable", func(r R) string { return r.(*fhir.Slot).Status }),
				date("start", "", func(r R) string { return r.(*fhir.Slot).Start }),
				refs("schedule", "", func(r R) []*fhir.Reference { return one(r.(*fhir.Slot).Schedule) }),
			}},
		{name: "Flag", owner: ofPerson, streams: []string{"person"}, make: flags, doc: "a communication need or reasonable adjustment",
			params: []fhirParam{
				tokens("identifier", "", func(r R) []token { return identifiersOf(r.(*fhir.Flag).Identifier) }),
			}},
		{name: "Provenance", streams: []string{"pathway", "carelead", "plan", "referral", "appointment"}, each: true, make: provenances, doc: "who recorded each event of a pathway, and when",
			params: []fhirParam{
				date("recorded", "", func(r R) string { return r.(*fhir.Provenance).Recorded }),
				refs("target", "", func(r R) (all []*fhir.Reference) {
					for i := range r.(*fhir.Provenance).Target {
						all = append(all, &r.(*fhir.Provenance).Target[i])
					}
					return all
				}),
			}},
	}
}

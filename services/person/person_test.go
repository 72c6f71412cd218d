package person

import (
	"math/bits"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	personv1 "waymark/proto/waymark/person/v1"
	"waymark/services/kit/estest"
	"waymark/services/kit/nhs"
)

const (
	ada   = "00000000-0000-4000-8000-00000000000a"
	bea   = "00000000-0000-4000-8000-00000000000b"
	cleo  = "00000000-0000-4000-8000-00000000000c"
	rec   = "00000000-0000-4000-8000-0000000000e1"
	rec2  = "00000000-0000-4000-8000-0000000000e2"
	need  = "00000000-0000-4000-8000-0000000000f1"
	need2 = "00000000-0000-4000-8000-0000000000f2"
	m1    = "00000000-0000-4000-8000-0000000000d1"
	m2    = "00000000-0000-4000-8000-0000000000d2"
)

var (
	number1 = mustNumber("9990000018")
	number2 = mustNumber("9990000026")
	today   = date("2026-06-15")
)

func mustNumber(text string) nhs.Number {
	n, err := nhs.ParseNumber(text)
	if err != nil {
		panic(text + ": " + err.Error())
	}
	return n
}

// pas and pds are messages sent on a day of June 2026.
func pas(day int) *personv1.Source {
	return &personv1.Source{Kind: personv1.SourceKind_SOURCE_KIND_LOCAL, System: "RJ1/PAS", SentAt: timestamppb.New(time.Date(2026, 6, day, 8, 0, 0, 0, time.UTC))}
}

func pds(version int64, day int) *personv1.Source {
	s := pas(day)
	s.Kind, s.System, s.Version = personv1.SourceKind_SOURCE_KIND_PDS, "PDS", version
	return s
}

func registeredAs(id, status string) *personv1.PersonRegistered {
	return &personv1.PersonRegistered{PersonId: id, Status: status, Source: pas(1)}
}

func recorded(record string, n nhs.Number) *personv1.NhsNumberRecorded {
	return &personv1.NhsNumberRecorded{RecordId: record, NhsNumber: n.Reveal(), Status: "01", Source: pas(1)}
}

func stateOf(t testing.TB, events ...proto.Message) state {
	return estest.Given(decider(), events...).State(t)
}

type events = []proto.Message

func TestDecisions(t *testing.T) {
	t.Parallel()
	registered := registeredAs(ada, "07")
	smith := &personv1.PersonName{Family: "Smith", Given: []string{"Ada"}}
	smyth := &personv1.PersonName{Family: "Smyth", Given: []string{"Ada"}}
	home := &personv1.Address{Lines: []string{"1 High Street"}, Postcode: "LS1 1AA"}
	phone := &personv1.Telecoms{Items: []*personv1.Telecom{{System: "phone", Value: "01130000000"}}}
	local1, local2 := &personv1.LocalIdentifier{Assigner: "RJ1", Value: "1"}, &personv1.LocalIdentifier{Assigner: "RJ1", Value: "2"}
	change := func(from, to *personv1.LocalIdentifier) *personv1.LocalIdentifierChange {
		return &personv1.LocalIdentifierChange{Earlier: from, Identifier: to}
	}
	bsl := &personv1.CommunicationNeed{Code: "204331000000107"}
	bslDetail := &personv1.CommunicationNeed{Code: "204331000000107", Detail: "books through the ward"}
	carer := &personv1.Adjustment{Code: "1108151000000106", Category: "001"}
	bslRecorded := &personv1.CommunicationNeedRecorded{NeedId: need, Need: bsl}
	proxy := &personv1.Proxy{Role: "001", Name: smith, Authority: "LPA 1", From: "2026-06-01"}
	mergedAway := events{registered, &personv1.PersonMergedInto{MergeId: m1, SurvivingPersonId: bea, MergedPersonId: ada}}
	held := &personv1.MergeHeldForReview{
		MergeId: m1, SurvivingPersonId: bea, MergedPersonId: ada,
		Reasons: []personv1.HoldReason{personv1.HoldReason_HOLD_REASON_OPEN_LEDGERS}, RequestedBy: []string{"U1", "U2"},
	}
	into := &personv1.PersonMergedInto{MergeId: m1, SurvivingPersonId: bea, MergedPersonId: ada}
	merged := &personv1.PersonsMerged{MergeId: m1, SurvivingPersonId: bea, MergedPersonId: ada}
	reversed := func(r personv1.ReversalReason) *personv1.MergeReversed {
		return &personv1.MergeReversed{MergeId: m1, SurvivingPersonId: bea, MergedPersonId: ada, Reason: r}
	}
	requested := personv1.ReversalReason_REVERSAL_REASON_REQUESTED
	claimOf := merge{ID: m1, Surviving: bea, Merged: ada}
	beaState := stateOf(t, registeredAs(bea, "07"))
	linked := &personv1.PersonsLinked{LinkId: m1, PersonId: ada, OtherPersonId: bea}
	unlinked := &personv1.PersonsUnlinked{LinkId: m1, PersonId: ada, OtherPersonId: bea}
	linkOf := link{ID: m1, Person: ada, Other: bea}
	outdated := func(s *personv1.Source) events { return events{&personv1.SourceMessageOutdated{Source: s}} }
	born := func(d string, s *personv1.Source) *personv1.DemographicsUpdated {
		return &personv1.DemographicsUpdated{Source: s, BirthDate: d}
	}

	for _, c := range []struct {
		name    string
		given   events
		when    decision
		then    events
		refused string
	}{
		// Registration and the NHS number.
		{name: "register with everything", when: register{
			PersonID: ada, RecordID: rec, Number: number1, Status: "01", Source: pas(2), Today: today, Local: []*personv1.LocalIdentifier{local1, local1},
			Demographics: &personv1.Demographics{Name: smith, BirthDate: "1960-02-29", Address: home, Telecoms: phone, ContactPreference: "9", EthnicCategory: "Z", Practice: "B86011", Area: "E01011352"},
		}, then: events{
			&personv1.PersonRegistered{PersonId: ada, Status: "01", Source: pas(2)},
			&personv1.NhsNumberRecorded{RecordId: rec, NhsNumber: "9990000018", Status: "01", Source: pas(2)},
			&personv1.DemographicsUpdated{Source: pas(2), Name: smith, BirthDate: "1960-02-29", Address: home, Telecoms: phone, ContactPreference: "9", EthnicCategory: "Z"},
			&personv1.PracticeChanged{Practice: "B86011", Source: pas(2)},
			&personv1.AreaChanged{Area: "E01011352", Source: pas(2)},
			&personv1.LocalIdentifierAdded{Identifier: local1},
		}},
		{name: "register without a number", when: register{PersonID: ada, Status: "07", Source: pas(2), Today: today},
			then: events{&personv1.PersonRegistered{PersonId: ada, Status: "07", Source: pas(2)}}},
		{name: "register with a number that is to be traced", when: register{PersonID: ada, RecordID: rec, Number: number1, Status: "04", Source: pas(2), Today: today},
			then: events{&personv1.PersonRegistered{PersonId: ada, Status: "04", Source: pas(2)}, &personv1.NhsNumberRecorded{RecordId: rec, NhsNumber: "9990000018", Status: "04", Source: pas(2)}}},
		{name: "register again", given: events{registered, recorded(rec, number1)}, when: register{PersonID: ada, Number: number1, Status: "01", Source: pas(2), Today: today}},
		{name: "register again without a number", given: events{registered}, when: register{PersonID: ada, Status: "07", Source: pas(2), Today: today}},
		{name: "register again, name written otherwise", given: events{registered, recorded(rec, number1), born("1960-02-29", pas(1)), &personv1.DemographicsUpdated{Source: pas(1), Name: &personv1.PersonName{Family: "O'Neill-Smith"}}},
			when: register{Number: number1, Status: "01", Source: pas(2), Today: today, Demographics: &personv1.Demographics{Name: &personv1.PersonName{Family: "ONEILL SMITH"}, BirthDate: "1960-02-28"}}},
		{name: "register another patient by a mistyped number", given: events{registered, recorded(rec, number1), born("1960-02-29", pas(1))},
			when: register{Number: number1, Status: "01", Source: pas(2), Today: today, Demographics: &personv1.Demographics{Name: smith, BirthDate: "1980-01-01"}}, refused: "person.identity.mismatch"},
		{name: "register with a number whose change was not completed", given: events{registered}, when: register{Number: number1, Status: "01", Source: pas(2), Today: today}, refused: "person.identity.unsettled"},
		{name: "register as verified without a number", when: register{PersonID: ada, Status: "01", Source: pas(2), Today: today}, refused: "person.nhs_number.missing"},
		{name: "register with a number as not present", when: register{PersonID: ada, Number: number1, Status: "07", Source: pas(2), Today: today}, refused: "person.nhs_number.unexpected"},
		{name: "register somebody not yet born", when: register{PersonID: ada, Status: "07", Source: pas(2), Today: today, Demographics: &personv1.Demographics{BirthDate: "2026-06-16"}}, refused: "person.birth_date.future"},

		{name: "trace confirms", given: events{registered, recorded(rec, number1)}, when: recordTrace{Status: "02", Source: pds(1, 2), Today: today},
			then: events{&personv1.NhsNumberStatusChanged{Status: "02", Source: pds(1, 2)}}},
		{name: "trace finds a number", given: events{registered}, when: recordTrace{RecordID: rec, Number: number1, Holder: ada, Status: "01", Source: pds(1, 2), Today: today, Demographics: &personv1.Demographics{Name: smith}},
			then: events{&personv1.NhsNumberRecorded{RecordId: rec, NhsNumber: "9990000018", Status: "01", Source: pds(1, 2)}, &personv1.DemographicsUpdated{Source: pds(1, 2), Name: smith}}},
		{name: "trace finds another's number", given: events{registered}, when: recordTrace{Number: number1, Holder: bea, Status: "01", Source: pds(1, 2), Today: today}, refused: "person.nhs_number.claimed"},
		{name: "trace finds another number", given: events{registered, recorded(rec, number1)}, when: recordTrace{Number: number2, Status: "01", Source: pds(1, 2), Today: today}, refused: "person.nhs_number.conflict"},
		{name: "trace without news", given: events{registeredAs(ada, "04")}, when: recordTrace{Status: "04", Source: pds(1, 2), Today: today}, then: events{&personv1.DemographicsUpdated{Source: pds(1, 2)}}},
		{name: "trace too late", given: events{registered, born("1960-02-29", pds(3, 3))}, when: recordTrace{Status: "04", Source: pds(2, 4), Today: today}, then: outdated(pds(2, 4))},
		{name: "trace of nobody", when: recordTrace{Status: "04", Source: pds(1, 2), Today: today}, refused: "person.unknown"},

		{name: "number superseded", given: events{registered, recorded(rec, number1)}, when: changeIdentifier{RecordID: rec2, Superseding: number2, Holder: ada, Source: pds(1, 2)},
			then: events{&personv1.NhsNumberRecorded{RecordId: rec2, NhsNumber: "9990000026", Status: "01", Source: pds(1, 2)}, &personv1.NhsNumberSuperseded{RecordId: rec, SupersededBy: rec2, Source: pds(1, 2)}}},
		{name: "number superseded, said locally", given: events{registered}, when: changeIdentifier{RecordID: rec2, Superseding: number2, Holder: ada, Source: pas(2)},
			then: events{&personv1.NhsNumberRecorded{RecordId: rec2, NhsNumber: "9990000026", Status: "02", Source: pas(2)}}},
		{name: "number superseded by itself", given: events{registered, recorded(rec, number1)}, when: changeIdentifier{Superseding: number1, Source: pds(1, 2)}},
		{name: "number superseded by another's", given: events{registered, recorded(rec, number1)}, when: changeIdentifier{Superseding: number2, Holder: bea, Source: pds(1, 2)}, refused: "person.nhs_number.claimed"},
		{name: "number invalidated", given: events{registered, recorded(rec, number1)}, when: changeIdentifier{Invalidated: true, Source: pds(1, 2)}, then: events{&personv1.NhsNumberInvalidated{RecordId: rec, Source: pds(1, 2)}}},
		{name: "number taken back", given: events{registered, recorded(rec, number1)}, when: changeIdentifier{InError: true, Source: pas(2)}, then: events{&personv1.NhsNumberEnteredInError{RecordId: rec, Source: pas(2)}}},
		{name: "number taken back and recorded again", given: events{registered, recorded(rec, number1), &personv1.NhsNumberEnteredInError{RecordId: rec, Source: pas(2)}}, when: changeIdentifier{RecordID: rec2, Superseding: number1, Holder: ada, Source: pas(3)},
			then: events{&personv1.NhsNumberRecorded{RecordId: rec2, NhsNumber: number1.Reveal(), Status: "02", Source: pas(3)}}},
		{name: "no number to take back", given: events{registered}, when: changeIdentifier{InError: true, Source: pds(1, 2)}, refused: "person.nhs_number.none"},
		{name: "no number to invalidate", given: events{registered}, when: changeIdentifier{Invalidated: true, Source: pds(1, 2)}, refused: "person.nhs_number.none"},
		{name: "change of identifier too late", given: events{registered, recorded(rec, number1), born("1960-02-29", pas(9))}, when: changeIdentifier{Invalidated: true, Source: pas(8)}, then: outdated(pas(8))},
		{name: "local number replaced", given: events{registered, &personv1.LocalIdentifierAdded{Identifier: local1}}, when: changeIdentifier{Local: change(local1, local2), Source: pas(2)},
			then: events{&personv1.LocalIdentifierReplaced{Earlier: local1, Identifier: local2}}},
		{name: "local number replaced before", given: events{registered, &personv1.LocalIdentifierAdded{Identifier: local2}}, when: changeIdentifier{Local: change(local1, local2), Source: pas(2)}},
		{name: "local number not known", given: events{registered}, when: changeIdentifier{Local: change(local1, local2), Source: pas(2)}, refused: "person.local_identifier.unknown"},
		{name: "local numbers both known", given: events{registered, &personv1.LocalIdentifierAdded{Identifier: local1}, &personv1.LocalIdentifierAdded{Identifier: local2}}, when: changeIdentifier{Local: change(local1, local2), Source: pas(2)}, refused: "person.local_identifier.exists"},
		{name: "local number of another organisation", given: events{registered}, when: changeIdentifier{Local: change(local1, &personv1.LocalIdentifier{Assigner: "RR8", Value: "1"}), Source: pas(2)}, refused: "person.local_identifier.assigner"},
		{name: "identifier of a merged person", given: mergedAway, when: changeIdentifier{Invalidated: true, Source: pds(1, 2)}, refused: "person.merged"},

		// Demographics: who wins, what is late.
		{name: "PDS over a local name", given: events{registered, &personv1.DemographicsUpdated{Source: pas(1), Name: smith}}, when: updateDemographics{Demographics: &personv1.Demographics{Name: smyth}, Source: pds(1, 2), Today: today},
			then: events{&personv1.DemographicsUpdated{Source: pds(1, 2), Name: smyth}}},
		{name: "local feed against PDS", given: events{registered, &personv1.DemographicsUpdated{Source: pds(1, 1), Name: smith, BirthDate: "1960-02-29"}, &personv1.PracticeChanged{Practice: "B86011", Source: pds(1, 1)}},
			when: updateDemographics{Demographics: &personv1.Demographics{Name: smyth, BirthDate: "1961-01-01", Practice: "B86012", Telecoms: phone}, Source: pas(2), Local: []*personv1.LocalIdentifier{local1}, Today: today},
			then: events{&personv1.DemographicsUpdated{Source: pas(2), Telecoms: phone, Overruled: []string{"name", "birth_date", "practice"}}, &personv1.LocalIdentifierAdded{Identifier: local1}}},
		{name: "PDS confirms a local name and owns it", given: events{registered, &personv1.DemographicsUpdated{Source: pas(1), Name: smith}}, when: updateDemographics{Demographics: &personv1.Demographics{Name: smith}, Source: pds(1, 2), Today: today},
			then: events{&personv1.DemographicsUpdated{Source: pds(1, 2), Confirmed: []string{"name"}}}},
		{name: "local feed against what PDS confirmed", given: events{registered, &personv1.DemographicsUpdated{Source: pas(1), Name: smith}, &personv1.DemographicsUpdated{Source: pds(1, 2), Confirmed: []string{"name"}}},
			when: updateDemographics{Demographics: &personv1.Demographics{Name: smyth}, Source: pas(3), Today: today}, then: events{&personv1.DemographicsUpdated{Source: pas(3), Overruled: []string{"name"}}}},
		{name: "a newer message without news makes older ones late", given: events{registered, &personv1.DemographicsUpdated{Source: pas(1), Name: smith}}, when: updateDemographics{Demographics: &personv1.Demographics{Name: smith}, Source: pas(3), Today: today},
			then: events{&personv1.DemographicsUpdated{Source: pas(3)}}},
		{name: "late local message", given: events{registered, &personv1.DemographicsUpdated{Source: pas(3)}}, when: updateDemographics{Demographics: &personv1.Demographics{Name: smyth}, Source: pas(2), Today: today}, then: outdated(pas(2))},
		{name: "late PDS version, sent later", given: events{registered, born("1960-02-29", pds(5, 1))}, when: updateDemographics{Demographics: &personv1.Demographics{BirthDate: "1960-02-28"}, Source: pds(4, 9), Today: today}, then: outdated(pds(4, 9))},
		{name: "another feed is not late", given: events{registered, born("1960-02-29", pds(5, 9))}, when: updateDemographics{Demographics: &personv1.Demographics{Address: home}, Source: pas(2), Today: today}, then: events{&personv1.DemographicsUpdated{Source: pas(2), Address: home}}},
		{name: "the same message again", given: events{registered, &personv1.DemographicsUpdated{Source: pas(2), Address: home}}, when: updateDemographics{Demographics: &personv1.Demographics{Address: home}, Source: pas(2), Today: today}},
		{name: "demographics of nobody", when: updateDemographics{Source: pas(2), Today: today}, refused: "person.unknown"},
		{name: "demographics of a merged person", given: mergedAway, when: updateDemographics{Source: pas(2), Today: today}, refused: "person.merged"},
		{name: "born tomorrow", given: events{registered}, when: updateDemographics{Demographics: &personv1.Demographics{BirthDate: "2026-06-16"}, Source: pas(2), Today: today}, refused: "person.birth_date.future"},
		{name: "move", given: events{registered}, when: noteMove{Practice: "B86011", Area: "E01011352", Source: pas(1)},
			then: events{&personv1.PracticeChanged{Practice: "B86011", Source: pas(1)}, &personv1.AreaChanged{Area: "E01011352", Source: pas(1)}}},
		{name: "move to nowhere", given: events{registered}, when: noteMove{Source: pas(1)}, refused: "person.move.empty"},
		{name: "left England", given: events{registered}, when: noteLeftEngland{Reason: "SCT", On: today, Today: today}, then: events{&personv1.LeftEnglandReported{Reason: "SCT", LeftOn: "2026-06-15"}}},
		{name: "left England, known", given: events{registered, &personv1.LeftEnglandReported{Reason: "SCT"}}, when: noteLeftEngland{Reason: "SCT", On: today, Today: today}},
		{name: "leaves England tomorrow", given: events{registered}, when: noteLeftEngland{Reason: "SCT", On: today.AddDays(1), Today: today}, refused: "person.left_on.future"},
		{name: "nobody left England", when: noteLeftEngland{Reason: "SCT", On: today, Today: today}, refused: "person.unknown"},

		// Restriction and death.
		{name: "restrict", given: events{registered}, when: setRestriction{"R"}, then: events{&personv1.RestrictionSet{Code: "R"}}},
		{name: "restricted already", given: events{registered, &personv1.RestrictionSet{Code: "V"}}, when: setRestriction{"V"}},
		{name: "unrestricted already", given: events{registered}, when: setRestriction{"U"}},
		{name: "restrict nobody", when: setRestriction{"R"}, refused: "person.unknown"},
		{name: "lift", given: events{registered, &personv1.RestrictionSet{Code: "R"}}, when: liftRestriction{}, then: events{&personv1.RestrictionLifted{Code: "R"}}},
		{name: "nothing to lift", given: events{registered}, when: liftRestriction{}},
		{name: "lift for a merged person", given: mergedAway, when: liftRestriction{}, refused: "person.merged"},
		{name: "informal death", given: events{registered}, when: noteDeath{Status: "1", Today: today}, then: events{&personv1.DeathReportedInformally{}}},
		{name: "formal death keeps the date", given: events{registered, &personv1.DeathReportedInformally{DiedOn: "2026-06-01"}}, when: noteDeath{Status: "2", Today: today}, then: events{&personv1.DeathConfirmed{DiedOn: "2026-06-01"}}},
		{name: "informal after formal", given: events{registered, &personv1.DeathConfirmed{DiedOn: "2026-06-01"}}, when: noteDeath{Status: "1", On: today, Today: today}},
		{name: "the same notice", given: events{registered, &personv1.DeathConfirmed{DiedOn: "2026-06-01"}}, when: noteDeath{Status: "2", Today: today}},
		{name: "notice corrected", given: events{registered, &personv1.DeathConfirmed{DiedOn: "2026-06-01"}}, when: noteDeath{Status: "2", On: date("2026-06-02"), Today: today}, then: events{&personv1.DeathConfirmed{DiedOn: "2026-06-02"}}},
		{name: "notice retracted", given: events{registered, &personv1.DeathReportedInformally{}}, when: noteDeath{Status: "U", Today: today}, then: events{&personv1.DeathNotificationRetracted{Retracted: "1"}}},
		{name: "nothing to retract", given: events{registered}, when: noteDeath{Status: "U", Today: today}, refused: "person.death.none"},
		{name: "died tomorrow", given: events{registered}, when: noteDeath{Status: "2", On: today.AddDays(1), Today: today}, refused: "person.died_on.future"},
		{name: "died before birth", given: events{registered, born("1960-02-29", pas(1))}, when: noteDeath{Status: "2", On: date("1960-02-28"), Today: today}, refused: "person.died_on.before_birth"},
		{name: "nobody died", when: noteDeath{Status: "2", Today: today}, refused: "person.unknown"},

		// Needs and proxies.
		{name: "needs", given: events{registered}, when: recordNeeds{Communication: []*personv1.CommunicationNeed{bsl}, Adjustments: []*personv1.Adjustment{carer}, IDs: []string{need, need2}, ReviewDue: date("2027-06-15"), Consent: "RACONSENT", Today: today},
			then: events{bslRecorded, &personv1.AdjustmentRecorded{NeedId: need2, Adjustment: carer}, &personv1.NeedsReviewDue{Due: "2027-06-15"}, &personv1.NeedsConsentRecorded{Consent: "RACONSENT"}}},
		{name: "a need again, and another detail of it", given: events{registered, bslRecorded, &personv1.NeedsReviewDue{Due: "2027-06-15"}}, when: recordNeeds{Communication: []*personv1.CommunicationNeed{bsl, bslDetail}, IDs: []string{need2, need2}, Today: today},
			then: events{&personv1.CommunicationNeedRecorded{NeedId: need, Need: bslDetail}}},
		{name: "an adjustment again", given: events{registered, &personv1.AdjustmentRecorded{NeedId: need, Adjustment: carer}, &personv1.NeedsReviewDue{Due: "2027-06-15"}}, when: recordNeeds{Adjustments: []*personv1.Adjustment{carer}, IDs: []string{need2}, Today: today}},
		{name: "first needs without review", given: events{registered}, when: recordNeeds{Communication: []*personv1.CommunicationNeed{bsl}, IDs: []string{need}, Today: today}, refused: "person.needs.review_due.missing"},
		{name: "review in the past", given: events{registered}, when: recordNeeds{ReviewDue: today, Today: today}, refused: "person.needs.review_due.past"},
		{name: "no needs said", given: events{registered}, when: recordNeeds{Today: today}, refused: "person.needs.empty"},
		{name: "revoke no consent", given: events{registered}, when: recordNeeds{Consent: "RAREVOKED", Today: today}, refused: "person.needs.consent.none"},
		{name: "revoke consent", given: events{registered, &personv1.NeedsConsentRecorded{Consent: "RACONSENT"}}, when: recordNeeds{Consent: "RAREVOKED", Today: today}, then: events{&personv1.NeedsConsentRecorded{Consent: "RAREVOKED"}}},
		{name: "needs of nobody", when: recordNeeds{Consent: "RADISSENT", Today: today}, refused: "person.unknown"},
		{name: "review", given: events{registered, bslRecorded}, when: reviewNeeds{On: today, Next: date("2027-06-15"), Ended: []string{need}, Consent: "RADISSENT", Today: today},
			then: events{&personv1.NeedsReviewed{ReviewedOn: "2026-06-15", NextReview: "2027-06-15", EndedNeedIds: []string{need}}, &personv1.NeedsConsentRecorded{Consent: "RADISSENT"}}},
		{name: "review of nothing", given: events{registered}, when: reviewNeeds{On: today, Next: date("2027-06-15"), Today: today}, refused: "person.needs.none"},
		{name: "review of an unknown need", given: events{registered, bslRecorded}, when: reviewNeeds{On: today, Next: date("2027-06-15"), Ended: []string{need2}, Today: today}, refused: "person.needs.unknown"},
		{name: "review tomorrow", given: events{registered, bslRecorded}, when: reviewNeeds{On: today.AddDays(1), Next: date("2027-06-15"), Today: today}, refused: "person.needs.reviewed_on.future"},
		{name: "next review before this one", given: events{registered, bslRecorded}, when: reviewNeeds{On: today, Next: today, Today: today}, refused: "person.needs.next_review.early"},
		{name: "review of nobody", when: reviewNeeds{On: today, Next: date("2027-06-15"), Today: today}, refused: "person.unknown"},
		{name: "proxy", given: events{registered}, when: recordProxy{ID: need, Proxy: proxy}, then: events{&personv1.ProxyRecorded{ProxyId: need, Proxy: proxy}}},
		{name: "proxy ends before it begins", given: events{registered}, when: recordProxy{ID: need, Proxy: &personv1.Proxy{From: "2026-06-02", Until: "2026-06-01"}}, refused: "person.proxy.period"},
		{name: "proxy of nobody", when: recordProxy{ID: need, Proxy: proxy}, refused: "person.unknown"},
		{name: "end proxy", given: events{registered, &personv1.ProxyRecorded{ProxyId: need, Proxy: proxy}}, when: endProxy{need, today}, then: events{&personv1.ProxyEnded{ProxyId: need, EndedOn: "2026-06-15"}}},
		{name: "end proxy before it began", given: events{registered, &personv1.ProxyRecorded{ProxyId: need, Proxy: proxy}}, when: endProxy{need, date("2026-05-31")}, refused: "person.proxy.period"},
		{name: "end proxy twice", given: events{registered, &personv1.ProxyRecorded{ProxyId: need, Proxy: proxy}, &personv1.ProxyEnded{ProxyId: need, EndedOn: "2026-06-15"}}, when: endProxy{need, today}, refused: "person.proxy.ended"},
		{name: "end an unknown proxy", given: events{registered}, when: endProxy{need, today}, refused: "person.proxy.unknown"},
		{name: "end proxy of nobody", when: endProxy{need, today}, refused: "person.unknown"},

		// Merges.
		{name: "merge", given: events{registered}, when: mergePersons{MergeID: m1, Surviving: bea, Merged: ada, Survivor: beaState}, then: events{into}},
		{name: "merge, birth dates and numbers differ", given: events{registered, recorded(rec, number1), born("1960-02-29", pas(1))},
			when: mergePersons{MergeID: m1, Surviving: bea, Merged: ada, Survivor: stateOf(t, registeredAs(bea, "01"), recorded(rec2, number2), born("1960-02-28", pas(1))), RequestedBy: []string{"U1"}},
			then: events{&personv1.MergeHeldForReview{MergeId: m1, SurvivingPersonId: bea, MergedPersonId: ada, RequestedBy: []string{"U1"}, Reasons: []personv1.HoldReason{
				personv1.HoldReason_HOLD_REASON_NHS_NUMBERS_CONFLICT, personv1.HoldReason_HOLD_REASON_BIRTH_DATES_DIFFER}}}},
		{name: "merge with open ledgers", given: events{registered}, when: mergePersons{MergeID: m1, Surviving: bea, Merged: ada, Survivor: beaState, OpenLedgers: true, RequestedBy: []string{"U1", "U2"}}, then: events{held}},
		{name: "merge with oneself", given: events{registered}, when: mergePersons{MergeID: m1, Surviving: ada, Merged: ada}, refused: "person.merge.same"},
		{name: "merge into nobody", given: events{registered}, when: mergePersons{MergeID: m1, Surviving: bea, Merged: ada}, refused: "person.unknown"},
		{name: "merge nobody", when: mergePersons{MergeID: m1, Surviving: bea, Merged: ada, Survivor: beaState}, refused: "person.unknown"},
		{name: "merge twice", given: mergedAway, when: mergePersons{MergeID: m2, Surviving: cleo, Merged: ada, Survivor: stateOf(t, registeredAs(cleo, "07"))}, refused: "person.merged"},
		{name: "merge into a merged person", given: events{registeredAs(bea, "07")}, when: mergePersons{MergeID: m2, Surviving: ada, Merged: bea, Survivor: stateOf(t, mergedAway...)}, refused: "person.merged"},
		{name: "merge while another is held", given: events{registered, held}, when: mergePersons{MergeID: m2, Surviving: bea, Merged: ada, Survivor: beaState}, refused: "person.merge.held"},
		{name: "approve", given: events{registered, held}, when: approveMerge{MergeID: m1, By: []string{"U3"}, Survivor: beaState},
			then: events{&personv1.MergeApproved{MergeId: m1}, &personv1.PersonMergedInto{MergeId: m1, SurvivingPersonId: bea, MergedPersonId: ada, Approved: true}}},
		{name: "approve one's own", given: events{registered, held}, when: approveMerge{MergeID: m1, By: []string{"U1"}, Survivor: beaState}, refused: "person.merge.second_person"},
		{name: "approve on behalf of who asked", given: events{registered, held}, when: approveMerge{MergeID: m1, By: []string{"U3", "U1"}, Survivor: beaState}, refused: "person.merge.second_person"},
		{name: "approve for whom it was asked", given: events{registered, held}, when: approveMerge{MergeID: m1, By: []string{"U2"}, Survivor: beaState}, refused: "person.merge.second_person"},
		{name: "approve an unknown merge", given: events{registered}, when: approveMerge{MergeID: m1, By: []string{"U3"}}, refused: "person.merge.unknown"},
		{name: "approve a rejected merge", given: events{registered, held, &personv1.MergeRejected{MergeId: m1}}, when: approveMerge{MergeID: m1, By: []string{"U3"}, Survivor: beaState}, refused: "person.merge.not_held"},
		{name: "approve when the survivor is gone", given: events{registered, held}, when: approveMerge{MergeID: m1, By: []string{"U3"}, Survivor: stateOf(t, mergedAway...)}, refused: "person.merged"},
		{name: "approve for nobody", when: approveMerge{MergeID: m1}, refused: "person.unknown"},
		{name: "reject", given: events{registered, held}, when: rejectMerge{m1}, then: events{&personv1.MergeRejected{MergeId: m1}}},
		{name: "reject an unknown merge", given: events{registered}, when: rejectMerge{m1}, refused: "person.merge.unknown"},
		{name: "reject for nobody", when: rejectMerge{m1}, refused: "person.unknown"},
		{name: "unmerge", given: mergedAway, when: unmergePersons{m1}, then: events{reversed(requested)}},
		{name: "unmerge what is not merged", given: events{registered, held}, when: unmergePersons{m1}, refused: "person.merge.not_in_force"},
		{name: "unmerge an unknown merge", given: events{registered}, when: unmergePersons{m1}, refused: "person.merge.unknown"},
		{name: "unmerge nobody", when: unmergePersons{m1}, refused: "person.unknown"},
		{name: "survivor takes the merge", given: events{registeredAs(bea, "07")}, when: answerMerge{claimOf, stateOf(t, registered, &personv1.RestrictionSet{Code: "V"}, &personv1.DeathConfirmed{})},
			then: events{&personv1.PersonsMerged{MergeId: m1, SurvivingPersonId: bea, MergedPersonId: ada, MergedRestriction: "V", MergedDeath: "2"}}},
		{name: "survivor has answered", given: events{registeredAs(bea, "07"), merged}, when: answerMerge{claimOf, stateOf(t, registered)}},
		{name: "survivor was merged itself", given: events{registeredAs(bea, "07"), &personv1.PersonMergedInto{MergeId: m2, SurvivingPersonId: cleo, MergedPersonId: bea}}, when: answerMerge{claimOf, stateOf(t, registered)},
			then: events{reversed(personv1.ReversalReason_REVERSAL_REASON_SURVIVOR_MERGED)}},
		{name: "survivor no longer agrees", given: events{registeredAs(bea, "07"), born("1960-02-28", pas(1))}, when: answerMerge{claimOf, stateOf(t, registered, born("1960-02-29", pas(1)))},
			then: events{reversed(personv1.ReversalReason_REVERSAL_REASON_FACTS_CHANGED)}},
		{name: "survivor does not agree but a second person does", given: events{registeredAs(bea, "07"), born("1960-02-28", pas(1))}, when: answerMerge{merge{ID: m1, Surviving: bea, Merged: ada, Approved: true}, stateOf(t, registered, born("1960-02-29", pas(1)))}, then: events{merged}},
		{name: "claim comes after its reversal", given: events{registeredAs(bea, "07"), reversed(requested)}, when: answerMerge{claimOf, stateOf(t, registered)}},
		{name: "reversal comes first", given: events{registeredAs(bea, "07")}, when: reverseMerge{claimOf, requested}, then: events{reversed(requested)}},
		{name: "reversal comes twice", given: events{registeredAs(bea, "07"), merged, reversed(requested)}, when: reverseMerge{claimOf, requested}},
		{name: "a claim that is gone is answered no", given: events{registeredAs(bea, "07")}, when: reverseUnanswered{reverseMerge{claimOf, requested}}, then: events{reversed(requested)}},
		{name: "an answer stands until the reversal itself", given: events{registeredAs(bea, "07"), merged}, when: reverseUnanswered{reverseMerge{claimOf, requested}}},

		// Links.
		{name: "link", given: events{registered}, when: linkPersons{LinkID: m1, Person: ada, Other: bea, Linked: beaState}, then: events{linked}},
		{name: "linked already", given: events{registered, linked}, when: linkPersons{LinkID: m2, Person: ada, Other: bea, Linked: beaState}},
		{name: "link with oneself", given: events{registered}, when: linkPersons{LinkID: m1, Person: ada, Other: ada}, refused: "person.link.same"},
		{name: "link with nobody", given: events{registered}, when: linkPersons{LinkID: m1, Person: ada, Other: bea}, refused: "person.unknown"},
		{name: "unlink", given: events{registered, linked}, when: unlinkPersons{bea}, then: events{unlinked}},
		{name: "not linked", given: events{registered}, when: unlinkPersons{bea}, refused: "person.link.none"},
		{name: "unlink nobody", when: unlinkPersons{bea}, refused: "person.unknown"},
		{name: "mirror a link", given: events{registeredAs(bea, "07")}, when: mirrorLink{linkOf}, then: events{linked}},
		{name: "mirror a link twice", given: events{registeredAs(bea, "07"), linked}, when: mirrorLink{linkOf}},
		{name: "mirror an end first", given: events{registeredAs(bea, "07")}, when: mirrorLink{link{ID: m1, Person: ada, Other: bea, Ended: true}}, then: events{unlinked}},
		{name: "mirror a link after its end", given: events{registeredAs(bea, "07"), unlinked}, when: mirrorLink{linkOf}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := estest.Given(decider(), c.given...).When(c.when.Decide)
			if c.refused != "" {
				s.ThenRefused(t, c.refused)
				return
			}
			s.Then(t, c.then...)
		})
	}
}

// TestRestrictedViewSaysNotWhere is hazard H10: what says where a restricted
// person is, is absent, also when only a merged record was restricted.
func TestRestrictedViewSaysNotWhere(t *testing.T) {
	t.Parallel()
	located := events{
		registeredAs(bea, "07"),
		&personv1.DemographicsUpdated{Source: pas(1), Name: &personv1.PersonName{Family: "Smith"}, Address: &personv1.Address{Postcode: "LS1 1AA"}, Telecoms: &personv1.Telecoms{Items: []*personv1.Telecom{{System: "sms", Value: "07700900000"}}}},
		&personv1.PracticeChanged{Practice: "B86011", Source: pas(1)},
		&personv1.AreaChanged{Area: "E01011352", Source: pas(1)},
	}
	mergedRestricted := &personv1.PersonsMerged{MergeId: m1, SurvivingPersonId: bea, MergedPersonId: ada, MergedRestriction: "R", MergedDeath: "1"}
	reversed := &personv1.MergeReversed{MergeId: m1, SurvivingPersonId: bea, MergedPersonId: ada}
	for _, c := range []struct {
		name              string
		more              events
		restricted, death bool
	}{
		{"nothing said", nil, false, false},
		{"U", events{&personv1.RestrictionSet{Code: "U"}}, false, false},
		{"R", events{&personv1.RestrictionSet{Code: "R"}}, true, false},
		{"V", events{&personv1.RestrictionSet{Code: "V"}}, true, false},
		{"lifted", events{&personv1.RestrictionSet{Code: "R"}, &personv1.RestrictionLifted{Code: "R"}}, false, false},
		{"a merged record is restricted", events{mergedRestricted}, true, true},
		{"PDS says U of the survivor only", events{mergedRestricted, &personv1.RestrictionSet{Code: "U"}}, true, true},
		{"lifted by somebody", events{mergedRestricted, &personv1.RestrictionLifted{Code: "R"}}, false, true},
		{"death retracted", events{mergedRestricted, &personv1.DeathNotificationRetracted{Retracted: "1"}}, true, false},
		{"merge reversed", events{mergedRestricted, reversed}, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := stateOf(t, append(located[:len(located):len(located)], c.more...)...).view()
			if p.Restricted != c.restricted || p.MessagesStopped != c.death {
				t.Errorf("restricted %v, messages stopped %v", p.Restricted, p.MessagesStopped)
			}
			if where := p.Address != nil || p.Telecoms != nil || p.Practice != nil || p.Area != nil; where == c.restricted {
				t.Errorf("restricted %v and says where: %v", c.restricted, where)
			}
			if p.Name.GetFamily() != "Smith" {
				t.Error("the name is gone")
			}
		})
	}
}

// TestDeathNoticeAndRetraction is hazards H11 and H12.
func TestDeathNoticeAndRetraction(t *testing.T) {
	t.Parallel()
	s := estest.Given(decider(), registeredAs(ada, "07")).
		When(noteDeath{Status: "1", Today: today}.Decide)
	if p := s.State(t).view(); !p.MessagesStopped || p.Death != "1" {
		t.Errorf("after the informal notice: %v", p)
	}
	s = s.When(noteDeath{Status: "2", On: today, Today: today}.Decide)
	if p := s.State(t).view(); p.Death != "2" || p.DiedOn != "2026-06-15" {
		t.Errorf("after the formal notice: %v", p)
	}
	s = s.When(noteDeath{Status: "U", Today: today}.Decide)
	if p := s.State(t).view(); p.MessagesStopped || p.Death != "" || p.DiedOn != "" {
		t.Errorf("after the retraction: %v", p)
	}
}

func TestNumberIsClaimedBeforeItIsRecorded(t *testing.T) {
	t.Parallel()
	registered := stateOf(t, registeredAs(ada, "07"))
	for _, c := range []decision{
		recordTrace{RecordID: rec, Number: number1, Status: "01", Source: pds(1, 2), Today: today},
		changeIdentifier{RecordID: rec, Superseding: number1, Source: pds(1, 2)},
	} {
		if events, err := c.Decide(registered); err != errUnclaimed || events != nil {
			t.Errorf("%T: %v, %v; want errUnclaimed", c, events, err)
		}
	}
}

func TestTwoOfThree(t *testing.T) {
	t.Parallel()
	for i := range 8 {
		n, b, f := i&1 != 0, i&2 != 0, i&4 != 0
		if twoOfThree(n, b, f) != (bits.OnesCount(uint(i)) >= 2) {
			t.Errorf("%v %v %v", n, b, f)
		}
	}
}

func TestEveryEventIsEvolvedAndKept(t *testing.T) {
	t.Parallel()
	file := personv1.File_waymark_person_v1_events_proto
	estest.EvolvesAll(t, file, decider())
	estest.EvolvesAll(t, file, identityDecider())
	estest.StoredExamples(t, filepath.Join("testdata", "events"), file, decider())
	estest.StoredExamples(t, filepath.Join("testdata", "events"), file, identityDecider())
}

// TestEveryRefusalIsTestedAndDocumented reads the sources for machine codes.
func TestEveryRefusalIsTestedAndDocumented(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`"(person\.[a-z_]+(?:\.[a-z_]+)*)"`)
	declared, tested := map[string]bool{}, map[string]bool{}
	for _, f := range files {
		source, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range code.FindAllStringSubmatch(string(source), -1) {
			if strings.HasSuffix(f, "_test.go") {
				tested[m[1]] = true
			} else {
				declared[m[1]] = true
			}
		}
	}
	for c := range declared {
		if !tested[c] {
			t.Errorf("%s: no test", c)
		}
		if !strings.Contains(string(readme), "`"+c+"`") {
			t.Errorf("%s: not in README.md", c)
		}
	}
	if len(declared) < 30 {
		t.Errorf("found %d codes: the search misses them", len(declared))
	}
	t.Logf("%d refusal codes", len(declared))
}

package pathway

import (
	pb "waymark/proto/waymark/pathway/v1"
	"waymark/services/waitingtimes"
)

const (
	percent = pb.IndicatorUnit_INDICATOR_UNIT_PERCENT
	counted = pb.IndicatorUnit_INDICATOR_UNIT_COUNT
	inDays  = pb.IndicatorUnit_INDICATOR_UNIT_DAYS
	inHours = pb.IndicatorUnit_INDICATOR_UNIT_HOURS

	asOfNow  = "now"
	platform = "platform choice"

	outsideRule = "clocks outside the standard, and those whose facts do not fit the rule"
	trustOfEnd  = "trust that told the patient; where nobody did, the trust of the pathway"
	treating    = "trust that treated"
	trust       = "trust of the pathway: treating, else first seen, else referred to"
	offeror     = "organisation that offered"
	cohort      = "COSD; cohort as in national HNA reporting"
)

// catalogue is every indicator M01 to M34 of the domain reference (section 5); a
// letter after the number is a second measure of the same subject. A rate whose
// limit lies ahead would count the quick alone, so a case enters it when its
// limit has passed.
var catalogue = []indicator{
	{&pb.IndicatorDefinition{Id: "M01", Name: "Faster Diagnosis Standard", Unit: percent,
		Numerator: "told, or decision to treat, within 28 days", Denominator: "Faster Diagnosis clocks that ended and are counted", Excluded: outsideRule,
		MonthOf: "end of the clock", Provider: trustOfEnd, Source: "CWT guidance v12.1", Ruleset: waitingtimes.Ruleset}, fasterDiagnosis},
	{&pb.IndicatorDefinition{Id: "M02", Name: "Faster Diagnosis Standard by outcome", Unit: percent,
		Numerator: "as M01", Denominator: "as M01", Excluded: outsideRule,
		MonthOf: "end of the clock", Provider: trustOfEnd, Split: "end reason: 01 diagnosed, 02 ruled out", Source: "CWT guidance v12.1", Ruleset: waitingtimes.Ruleset}, fasterDiagnosisByOutcome},
	{&pb.IndicatorDefinition{Id: "M03", Name: "31 days from decision to treatment", Unit: percent,
		Numerator: "treated within 31 days", Denominator: "treatments started, first and subsequent", Excluded: outsideRule + "; all treatment declined",
		MonthOf: "treatment start", Provider: treating, Source: "CWT guidance v12.1", Ruleset: waitingtimes.Ruleset}, days31},
	{&pb.IndicatorDefinition{Id: "M04", Name: "62 days from referral to first treatment", Unit: percent,
		Numerator: "credit for treatment within 62 days, shared between the trusts", Denominator: "patients treated, shared between the trusts", Excluded: outsideRule + "; phases that contradict the total",
		MonthOf: "treatment start", Provider: "investigating and treating trust, by the six scenarios; " + treating + " alone without a transfer", Source: "CWT guidance v12.1; breach allocation", Ruleset: waitingtimes.Ruleset}, days62},
	{&pb.IndicatorDefinition{Id: "M05", Name: "38 days to transfer", Unit: percent,
		Numerator: "transferred within 38 days", Denominator: "transferred to another trust", Excluded: outsideRule,
		MonthOf: "transfer", Provider: "investigating trust", Source: "breach allocation", Ruleset: waitingtimes.Ruleset}, days38},
	{&pb.IndicatorDefinition{Id: "M06", Name: "24 days from transfer to treatment", Unit: percent,
		Numerator: "treated within 24 days of the transfer", Denominator: "transferred to another trust, and treated or 24 days over", Excluded: outsideRule + "; not treated and 24 days not over; ruled out or closed untreated",
		MonthOf: "transfer", Provider: treating, Source: "breach allocation", Ruleset: waitingtimes.Ruleset}, days24},
	{&pb.IndicatorDefinition{Id: "M07", Name: "Days waited", Unit: inDays,
		Denominator: "clocks that ended and are counted", Excluded: outsideRule,
		MonthOf: "end of the clock", Provider: trust, Split: "clock", Source: "CWT guidance v12.1", Ruleset: waitingtimes.Ruleset}, daysWaited},
	{&pb.IndicatorDefinition{Id: "M08", Name: "Patients waiting now", Unit: counted,
		Numerator: "clocks that run", Excluded: "none",
		MonthOf: asOfNow, Provider: trust, Split: "clock and band of days; also d62 over 62 and over 104", Source: "bands of alliance tables", Ruleset: waitingtimes.Ruleset}, waitingNow},
	{&pb.IndicatorDefinition{Id: "M09", Name: "Breach within 7 days without a booked next step", Unit: percent,
		Numerator: "a clock breaches within 7 days, or has, and no appointment is booked", Denominator: "open pathways", Excluded: "none",
		MonthOf: asOfNow, Provider: trust, Source: platform, Ruleset: waitingtimes.Ruleset}, breachAhead},
	{&pb.IndicatorDefinition{Id: "M10", Name: "Holistic needs assessment offered within 31 days", Unit: percent,
		Numerator: "offered 0 to 31 days after diagnosis", Denominator: "patients told of a diagnosis C00 to C97", Excluded: "C44; stage 0; a later tumour of the year; 31 days not over",
		MonthOf: "diagnosis told", Provider: "trust that told the patient", Source: cohort, Ruleset: "HNA-DX"}, assessmentIn31},
	{&pb.IndicatorDefinition{Id: "M11", Name: "Holistic needs assessment offered within two years", Unit: percent,
		Numerator: "offered so far, 0 to 730 days after diagnosis", Denominator: "patients told of a diagnosis C00 to C97", Excluded: "C44; stage 0; a later tumour of the year",
		MonthOf: "diagnosis told", Provider: "trust that told the patient", Source: cohort, Ruleset: "COSD"}, assessmentEver},
	{&pb.IndicatorDefinition{Id: "M12", Name: "Holistic needs assessment completed", Unit: percent,
		Numerator: "submitted", Denominator: "assessments offered", Excluded: "none",
		MonthOf: "offer", Provider: trust, Source: "COSD", Ruleset: "COSD"}, assessmentCompleted},
	{&pb.IndicatorDefinition{Id: "M13", Name: "Plan offered and agreed", Unit: percent,
		Numerator: "plan offered; plan agreed with the patient", Denominator: "patients who submitted an assessment with a concern", Excluded: "plan not required (06)",
		MonthOf: "first such assessment submitted", Provider: trust, Split: "offered or agreed", Source: "COSD", Ruleset: "COSD"}, planOffered},
	{&pb.IndicatorDefinition{Id: "M14", Name: "Concerns resolved in 90 days", Unit: percent,
		Numerator: "resolved, or closed as needing no action or declined by the patient, within 90 days", Denominator: "concerns raised", Excluded: "90 days not over",
		MonthOf: "concern raised", Provider: trust, Source: platform, Ruleset: "CONCERN-90"}, concernsClosed},
	{&pb.IndicatorDefinition{Id: "M15", Name: "High emotional concerns acted on", Unit: percent,
		Numerator: "discussed or resolved within 2 working days", Denominator: "concerns with a score of 8 or more", Excluded: "2 working days not over",
		MonthOf: "end of the 2 working days", Provider: trust, Split: "emotional or other", Source: platform, Ruleset: "CONCERN-8"}, highConcerns},
	{&pb.IndicatorDefinition{Id: "M16", Name: "Top ten concerns", Unit: counted,
		Numerator: "concerns raised with the code; the ten largest are the reader's to take", Excluded: "plans entered in error",
		MonthOf: "concern raised", Provider: trust, Split: "code of the concern", Source: "COSD"}, concernsRaised},
	{&pb.IndicatorDefinition{Id: "M17", Name: "End-of-treatment summary issued in time", Unit: percent,
		Numerator: "issued within 28 days; within 42 days", Denominator: "periods of treatment ended", Excluded: "died within 42 days; 42 days not over",
		MonthOf: "end of treatment", Provider: treating, Split: "28 days or 42 days", Source: "regional standard of four to six weeks", Ruleset: "EOTS-TARGET, EOTS-LATEST"}, summaryIssued},
	{&pb.IndicatorDefinition{Id: "M18", Name: "End-of-treatment summary delivered", Unit: percent,
		Numerator: "newest version delivered", Denominator: "summaries issued", Excluded: "withdrawn",
		MonthOf: "first issue", Provider: trust, Split: "patient or gp", Source: platform, Ruleset: "EOTS-GP"}, summaryDelivered},
	{&pb.IndicatorDefinition{Id: "M19", Name: "Named lead 30 days after treatment", Unit: percent,
		Numerator: "a named person was accountable at the end of day 30", Denominator: "last periods of treatment ended", Excluded: "died by then; declined a lead; 30 days not over",
		MonthOf: "end of treatment", Provider: treating, Source: platform, Ruleset: "30 days"}, leadInPlace},
	{&pb.IndicatorDefinition{Id: "M20", Name: "Handover offers accepted", Unit: percent,
		Numerator: "accepted", Denominator: "offers answered or expired", Excluded: "withdrawn; void",
		MonthOf: "offer", Provider: offeror, Source: platform, Ruleset: "OFFER-ANS"}, offersAccepted},
	{&pb.IndicatorDefinition{Id: "M20b", Name: "Hours until a handover offer is answered", Unit: inHours,
		Denominator: "offers accepted or declined", Excluded: "expired; withdrawn; void",
		MonthOf: "offer", Provider: offeror, Source: platform, Ruleset: "OFFER-ANS"}, hoursToAnswer},
	{&pb.IndicatorDefinition{Id: "M21", Name: "Handover offers declined", Unit: counted,
		Numerator: "offers declined; offers made after a decline", Denominator: "offers declined; ledgers with a decline", Excluded: "none",
		MonthOf: "offer; the first that was declined", Provider: offeror, Split: "reason, or offered_again", Source: platform}, declines},
	{&pb.IndicatorDefinition{Id: "M22", Name: "Handover offers expired", Unit: percent,
		Numerator: "expired", Denominator: "offers made", Excluded: "open; withdrawn; void",
		MonthOf: "offer", Provider: offeror, Split: "level of escalation, 0 for the first offer", Source: platform, Ruleset: "OFFER-ANS"}, offersExpired},
	{&pb.IndicatorDefinition{Id: "M23", Name: "First contact within 10 working days", Unit: percent,
		Numerator: "contact made by its due day", Denominator: "handovers accepted", Excluded: "due day not over; closed, or passed on, before it",
		MonthOf: "acceptance", Provider: "organisation that accepted", Source: platform, Ruleset: "LEAD-FC"}, firstContact},
	{&pb.IndicatorDefinition{Id: "M24", Name: "Held by a fallback pool", Unit: percent,
		Numerator: "a fallback pool is accountable", Denominator: "open ledgers", Excluded: "none",
		MonthOf: asOfNow, Provider: "organisation of the holder", Source: platform}, heldByPool},
	{&pb.IndicatorDefinition{Id: "M24b", Name: "Days held by a fallback pool", Unit: inDays,
		Denominator: "pathways that a fallback pool holds", Excluded: "none",
		MonthOf: asOfNow, Provider: "organisation of the holder", Source: platform}, daysInPool},
	{&pb.IndicatorDefinition{Id: "M25", Name: "Ledger violations", Unit: percent,
		Numerator: "a gap or an overlap of accountability, or an open pathway without a holder: must be 0", Denominator: "all ledgers", Excluded: "none",
		MonthOf: asOfNow, Provider: trust, Source: platform}, ledgerViolations},
	{&pb.IndicatorDefinition{Id: "M26", Name: "Caseload and capacity of leads", Unit: percent,
		Numerator: "places taken; leads with more than their capacity; leads on leave; pathways that a pool holds because nobody covers", Denominator: "capacity of active leads; active leads; pathways held by leads or for them", Excluded: "none",
		MonthOf: asOfNow, Provider: "organisation of the lead or holder", Split: "caseload, over capacity, on leave, or leave without cover", Source: platform}, withoutCover},
	{&pb.IndicatorDefinition{Id: "M27", Name: "Surveillance done in its window", Unit: percent,
		Numerator: "performed by the due day and its days of grace", Denominator: "items due", Excluded: "skipped; window not over",
		MonthOf: "due day", Provider: trust, Source: "approved local protocol"}, surveillanceDone},
	{&pb.IndicatorDefinition{Id: "M28", Name: "Surveillance overdue now", Unit: percent,
		Numerator: "not performed, window over; over by more than 30 days", Denominator: "items due by today", Excluded: "skipped",
		MonthOf: asOfNow, Provider: trust, Split: "overdue or over 30 days", Source: "approved local protocol"}, surveillanceOverdue},
	{&pb.IndicatorDefinition{Id: "M29", Name: "Days from result to patient told", Unit: inDays,
		Denominator: "results told", Excluded: "none",
		MonthOf: "patient told", Provider: trust, Source: "NICE 2008; local", Ruleset: "RESULT-TOLD"}, resultToPatient},
	{&pb.IndicatorDefinition{Id: "M30", Name: "Lost follow-up sentinels", Unit: percent,
		Numerator: "a follow-up was intended and none booked after 14 days", Denominator: "appointments attended; discharges from a ward", Excluded: "14 days not over; follow-up ended by a person's decision",
		MonthOf: "attendance or discharge", Provider: "trust of the site", Split: "attended or discharged", Source: "HSSIB: intended but not booked", Ruleset: "TO-BOOK"}, lostFollowUp},
	{&pb.IndicatorDefinition{Id: "M31", Name: "Did not attend", Unit: percent,
		Numerator: "did not attend, or came too late to be seen", Denominator: "appointments attended or missed", Excluded: "cancelled",
		MonthOf: "appointment", Provider: "trust of the site", Source: "NHS Data Dictionary"}, didNotAttend},
	{&pb.IndicatorDefinition{Id: "M31b", Name: "Contact after a missed appointment", Unit: percent,
		Numerator: "the task to contact the patient ended by its day, by a new appointment or by a person's decision", Denominator: "appointments missed", Excluded: "2 working days not over; died; no task was raised",
		MonthOf: "appointment", Provider: "trust of the site", Source: platform, Ruleset: "DNA-CONTACT"}, contactAfterMissed},
	{&pb.IndicatorDefinition{Id: "M32", Name: "Referrals without an answer after a working day", Unit: percent,
		Numerator: "not received, accepted or refused by the next working day", Denominator: "referrals sent", Excluded: "the working day not over",
		MonthOf: "sent", Provider: "organisation referred to", Source: platform, Ruleset: "1 working day"}, unanswered},
	{&pb.IndicatorDefinition{Id: "M32b", Name: "Hours until a referral is answered", Unit: inHours,
		Denominator: "referrals received, accepted or refused", Excluded: "none yet",
		MonthOf: "sent", Provider: "organisation referred to", Source: platform}, hoursToResponse},
	{&pb.IndicatorDefinition{Id: "M33", Name: "Signposted to a charity", Unit: percent,
		Numerator: "offered services of the directory; accepted an offer; referred to a charity", Denominator: "patients told of a diagnosis", Excluded: "none",
		MonthOf: "diagnosis told", Provider: "trust that told the patient", Split: "offered, accepted or referred", Source: platform}, signposted},
	{&pb.IndicatorDefinition{Id: "M34", Name: "Prehabilitation before treatment", Unit: percent,
		Numerator: "before the first treatment started: referred to prehabilitation; screened for it; found to need a level", Denominator: "patients with a decision to treat", Excluded: "none",
		MonthOf: "decision to treat", Provider: "trust of the decision", Split: "referred, screened, or the level", Source: platform}, prehabilitated},
}

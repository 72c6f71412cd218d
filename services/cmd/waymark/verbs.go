package main

import "slices"

// columns are what a list shows of each row, by "noun verb"; lists are tables
// where nothing else is asked for. See columnsOf for how they are written; a
// civil date goes before the instant at which it ends.
var columns = map[string]string{
	"pathway timeline":   "position recorded organisation role_code? text",
	"pathway list":       "pathway_id next_action.kind:NEXT next_action.on|next_action.due:DUE age_days overdue",
	"pathway overdue":    "pathway_id deadline.kind:WHAT deadline.on|deadline.due:DUE days_overdue:DAYS holder.name:HOLDER deadline.about",
	"pathway deadlines":  "pathway_id deadline.kind:WHAT deadline.on|deadline.due:DUE holder.name:HOLDER deadline.about",
	"handover list":      "pathway_id handover.from.name:FROM handover.to.id:TO handover.to.name:NAME handover.answer_due overdue",
	"lead list":          "lead_id party.name party.organisation state taken capacity",
	"neighbourhood list": "neighbourhood_id name organisation fallback_pool.name:POOL fallback_until:UNTIL",
	"referral list":      "referral_id human_id content.kind state",
	"message list":       "message_id state reason.code:REASON reason.field:FIELD? type facility received_at:RECEIVED",
	"appointment list":   "appointment_id status booking.start:START booking.end:END booking.site:SITE booking.medium:MEDIUM wanted_by? request_status:ASKED? version",
	"appointment tasks":  "pathway_id task.task_id task.cause task.due overdue holder.name:HOLDER",
	"slot list":          "slot_id start end",
	"slot find":          "session_id slot.slot_id:SLOT_ID slot.start:START slot.end:END site treatment_function:SERVICE medium cancer_priority_reason:KEPT_FOR?",
	"indicator list":     "id name unit not_served:NOT_SERVED_BECAUSE?",
	"indicator show":     "id month? provider? tumour_group? route? split? numerator? denominator? excluded? value unit p90? longest?",
}

// verb is a command of a noun: one method of the services, with what it needs
// in the order in which people say it. Whatever else its request holds can be
// given as field=value after that.
type verb struct {
	noun, name, method string
	args               string // fields of the positional arguments; one with "?" may be left out
	flags              string // flag=field ...; a flag with "!" must be given, a field with "*" is a moment (a time, a date or a log position), one with "^" an instant (a time or a date), one with "[]" a list of PATH=VALUE
	preset             string // field=value ...; $today, $now, $organisation and $1 are filled in
	short, example     string
	fill               string // what is looked up: the open "offer", the newest "summary", the "plan" as it is; or "slots" to be read
}

const person, pathway, ledger = "person_id", "pathway_id", "pathway_id"

// verbs are listed in the order in which help shows them. The README walks
// through most of them.
var verbs = []verb{
	{"person", "register", "person.RegisterPerson", "nhs_number", "family=demographics.name.family given=demographics.name.given born=demographics.birth_date practice=demographics.practice status=nhs_number_status",
		"nhs_number_status=01 source.kind=LOCAL source.system=$organisation/waymark source.sent_at=$now", "Register a person, or find the one with that NHS number", "9990000018 --family Testcase --born 1961-05-04 --practice G85004", ""},
	{"person", "find", "person.FindPerson", "nhs_number", "", "", "Find the person with an NHS number", "9990000018", ""},
	{"person", "show", "person.GetPerson", person, "", "", "Show a person", "PERSON", ""},
	{"person", "death", "person.NoteDeath", person, "status!=status on=died_on", "", "Note a death: status 1 informal, 2 formal, U retracted", "PERSON --status 1 --on 2026-03-02", ""},
	{"person", "moved", "person.NoteMove", person, "practice=practice area=area", "source.kind=LOCAL source.system=$organisation/waymark source.sent_at=$now", "Note another GP practice or area", "PERSON --practice G85005", ""},
	{"person", "merge", "person.MergePersons", "surviving_person_id merged_person_id", "open-ledgers=open_ledgers", "", "Merge the second person into the first", "PERSON OTHER", ""},
	{"person", "approve-merge", "person.ApproveMerge", "merged_person_id merge_id", "", "", "Approve a merge that waits for a second person", "OTHER MERGE --user 555000222", ""},

	{"pathway", "start", "referral.StartPathway", person, "team!=facts.responsible_team.name code=facts.responsible_team.code received=facts.received_on",
		"facts.received_on=$today facts.priority=3 facts.referral_type=01 facts.source=03 facts.responsible_team.organisation=$organisation", "Start a suspected-cancer pathway on receipt of the referral", "PERSON --team 'RJ1 Breast'", ""},
	{"pathway", "show", "pathway.GetPathway", pathway, "as-of=as_of* occurred=with_occurred", "", "Show a pathway now, or as it was known then", "PATHWAY --as-of 2026-03-02T12:00:00Z", ""},
	{"pathway", "timeline", "pathway.GetTimeline", pathway, "as-of=as_of* least=at_least", "", "List what happened on a pathway", "PATHWAY --least CLINICAL", ""},
	{"pathway", "who", "pathway.WhoWasAccountable", pathway, "at=at*", "", "Show who is accountable, or was at a moment", "PATHWAY --at 2026-03-02T12:00:00Z", ""},
	{"pathway", "list", "pathway.ListCaseload", "party_id", "overdue=overdue_only at=organisation", "", "List the pathways a party is accountable for, with what is next", "lead-1", ""},
	{"pathway", "overdue", "pathway.ListOverdue", "", "party=party_id kind=kind", "", "List what is overdue", "", ""},
	{"pathway", "deadlines", "pathway.ListDeadlines", "", "party=party_id kind=kind category=category before=due_before^", "", "List open deadlines", "--before 2026-04-01", ""},
	{"pathway", "clocks", "referral.GetPathway", pathway, "", "", "Show the clocks of a pathway and the facts they rest on", "PATHWAY", ""},
	{"pathway", "seen", "referral.RecordFirstSeen", pathway, "on=facts.on", "facts.on=$today facts.organisation=$organisation", "Record that the patient was first seen", "PATHWAY --on 2026-03-02", ""},
	{"pathway", "missed", "referral.RecordFirstAppointmentMissed", pathway, "on=facts.on attendance=facts.attendance rebooked=facts.rebooked_on", "facts.on=$today facts.attendance=3", "Record that the first appointment was missed", "PATHWAY --on 2026-03-02 --rebooked 2026-03-09", ""},
	{"pathway", "diagnosed", "referral.CommunicateDiagnosis", pathway, "on=facts.told.on group!=facts.tumour_group method=facts.told.method", "facts.told.on=$today facts.told.method=FACE_TO_FACE facts.told.organisation=$organisation", "Record that the patient was told: cancer", "PATHWAY --group 01", ""},
	{"pathway", "ruled-out", "referral.CommunicateCancerRuledOut", pathway, "on=facts.told.on method=facts.told.method", "facts.told.on=$today facts.told.method=FACE_TO_FACE facts.told.organisation=$organisation facts.end_reason=02", "Record that the patient was told: no cancer", "PATHWAY --on 2026-03-29", ""},
	{"pathway", "decided", "referral.RecordDecisionToTreat", pathway, "on=facts.on", "facts.on=$today facts.organisation=$organisation", "Record the decision to treat", "PATHWAY", ""},
	{"pathway", "treated", "referral.StartTreatment", pathway, "on=facts.on modality=facts.modality event=facts.event_type", "facts.on=$today facts.event_type=01 facts.modality=01 facts.setting=DAY_CASE facts.organisation=$organisation", "Record that treatment started", "PATHWAY --modality 01", ""},
	{"pathway", "treatment-ended", "referral.EndTreatmentPeriod", pathway, "on=facts.on last=facts.last_period", "facts.on=$today facts.organisation=$organisation facts.last_period=true", "Record that a period of treatment ended", "PATHWAY", ""},
	{"pathway", "follow-up", "referral.StartFollowUp", pathway, "on=facts.on arrangement!=facts.arrangement", "facts.on=$today", "Record that follow-up started", "PATHWAY --arrangement PATIENT_INITIATED", ""},
	{"pathway", "close", "referral.ClosePathway", pathway, "on=facts.on because!=facts.reason", "facts.on=$today", "Close a pathway", "PATHWAY --because FOLLOW_UP_COMPLETE", ""},

	{"handover", "list", "pathway.ListHandovers", "", "to=to_party_id from=from_party_id overdue=overdue_only", "", "List open offers", "--overdue=true", ""},
	{"handover", "show", "carelead.GetLedger", ledger, "", "", "Show who is accountable, and what is on offer", "PATHWAY", "ledger"},
	{"handover", "prepare", "carelead.PrepareHandover", ledger, "kind=kind informed=patient_informed consent=consent_to_share override=override_reason second=override_second_person", "kind=TO_LEAD patient_informed=true consent_to_share=true", "Prepare a handover: the checklist", "PATHWAY", "ledger"},
	{"handover", "offer", "carelead.OfferHandover", ledger, "lead=lead_id kind=kind neighbourhood=neighbourhood_id summary=summary_version plan=plan_version", "kind=TO_LEAD", "Offer the pathway to a lead; nothing passes before it is accepted", "PATHWAY --lead lead-1", "plan"},
	{"handover", "seen", "carelead.AcknowledgeOffer", ledger, "", "", "Acknowledge the open offer", "PATHWAY --user 555000333", "offer"},
	{"handover", "accept", "carelead.AcceptHandover", ledger, "summary=summary_version plan=plan_version", "", "Accept the open offer: from that moment the acceptor is accountable", "PATHWAY --user 555000333", "offer"},
	{"handover", "decline", "carelead.DeclineHandover", ledger, "because!=reason text=text suggest=suggestion", "", "Decline the open offer, and say why", "PATHWAY --because CAPACITY --user 555000333", "offer"},
	{"handover", "withdraw", "carelead.WithdrawHandover", ledger, "because!=reason", "", "Withdraw the open offer", "PATHWAY --because 'offered to the wrong team'", "offer"},
	{"handover", "contact", "carelead.RecordFirstContact", ledger, "on=on medium=medium made=made", "on=$today medium=TELEPHONE made=true", "Record the first contact with the patient, or --made=false an attempt", "PATHWAY --medium TELEPHONE", ""},
	{"handover", "patient", "carelead.RecordPatientDecision", ledger, "wants-lead!=wants_lead on=on ask-again=ask_again_on", "on=$today", "Record whether the patient wants a lead", "PATHWAY --wants-lead=false --ask-again 2026-09-01", ""},
	{"handover", "cover", "carelead.ArrangeCover", ledger, "lead!=cover_lead_id from!=starts until!=ends", "", "Arrange that another lead stands in", "PATHWAY --lead LEAD --from 2026-04-01T08:00:00Z --until 2026-04-14T18:00:00Z", ""},
	{"handover", "accept-cover", "carelead.AcceptCover", "pathway_id cover_id", "", "", "Agree to stand in", "PATHWAY COVER --user 555000444", ""},
	{"handover", "close", "carelead.CloseLedger", ledger, "because!=reason evidence=evidence", "", "Close the ledger: nobody is accountable any more", "PATHWAY --because FOLLOW_UP_COMPLETE --evidence 'discharge letter 2031'", ""},
	{"handover", "task-done", "carelead.CompleteTask", "pathway_id task_id", "", "", "Close a task that a person has looked at", "PATHWAY TASK", ""},
	{"handover", "timers", "waymark.carelead.v1.HandoverService.RunTimers", ledger, "", "", "Do what is due on a ledger now", "PATHWAY", ""},

	{"plan", "show", "plan.GetPlan", pathway, "", "", "Show the plan, the assessments, the summaries and the surveillance of a pathway", "PATHWAY", ""},
	{"plan", "concern", "plan.RecordConcern", "pathway_id code", "score=score priority=patient_priority", "", "Record a concern of the patient", "PATHWAY CODE --score 4", ""},
	{"plan", "concern-decided", "plan.DecideConcern", "pathway_id concern_id", "decision!=decision action=action_id", "", "Decide what becomes of a concern", "PATHWAY CONCERN --decision WATCH", ""},
	{"plan", "agreed", "plan.RecordPatientAgreement", pathway, "on=on agreed=agreed by=agreed_by because=reason", "on=$today agreed=true agreed_by=patient", "Record that the patient agreed to the plan, or not", "PATHWAY", "plan"},
	{"plan", "publish", "plan.PublishPlan", pathway, "review!=review_due shared=shared_with_patient revision=seen_revision", "shared_with_patient=true", "Publish the next version of the plan", "PATHWAY --review 2026-09-01", "plan"},
	{"plan", "alert-closed", "plan.CloseAlert", "pathway_id response_id", "did!=outcome on=on note=note", "on=$today", "Record what was done about an alert of a questionnaire", "PATHWAY RESPONSE --did patient_contacted --role R0600", ""},
	{"plan", "step", "plan.RecordCareStep", "pathway_id step_id", "outcome!=outcome on=on", "on=$today", "Record that a step of personalised care was done, declined or does not apply", "PATHWAY STEP --outcome done", ""},
	{"plan", "no-surveillance", "plan.RecordSurveillanceNotNeeded", pathway, "because!=reason", "", "Record that no surveillance is needed", "PATHWAY --because 'discharged to the GP'", "plan"},
	{"plan", "summary", "plan.DraftSummary", "pathway_id", "summary=summary_id content!=content", "", "Draft the end-of-treatment summary", "PATHWAY --content @summary.json", "summary"},
	{"plan", "summary-ready", "plan.MarkSummaryReady", pathway, "summary=summary_id", "", "Hand the draft to its approver", "PATHWAY", "summary"},
	{"plan", "summary-approve", "plan.ApproveSummary", pathway, "summary=summary_id registration!=approver_registration version=seen_version", "", "Approve the summary, as a registered clinician", "PATHWAY --registration 1234567 --user 555000222 --role R0050", "summary"},
	{"plan", "summary-issue", "plan.IssueSummary", pathway, "summary=summary_id to=recipients on=on", "on=$today recipients=[\"RECIPIENT_KIND_PATIENT\",\"RECIPIENT_KIND_GP\",\"RECIPIENT_KIND_LEAD_OR_TEAM\"]", "Issue the approved summary", "PATHWAY", "summary"},

	{"lead", "register", "carelead.RegisterLead", "lead_id", "name!=party.name sds!=party.sds_user_id neighbourhood!=neighbourhood_ids capacity=capacity language=languages phone=party.telephone",
		"party.kind=PERSON_IN_ROLE party.id=$1 party.organisation=$organisation party.role_code=R9801 capacity=20", "Invite a care lead", "lead-1 --name 'C. Okafor' --sds 555000333 --neighbourhood peckham", ""},
	{"lead", "activate", "carelead.ActivateLead", "lead_id", "", "", "Let a lead be offered pathways", "lead-1", ""},
	{"lead", "show", "carelead.GetLead", "lead_id", "", "", "Show a lead", "lead-1", ""},
	{"lead", "list", "carelead.ListLeads", "", "neighbourhood=neighbourhood_id with-place=with_place language=language", "", "List leads", "--with-place=true", ""},
	{"lead", "capacity", "carelead.ChangeCapacity", "lead_id capacity", "", "", "Change a lead's largest caseload", "lead-1 25", ""},
	{"lead", "leave", "carelead.BookLeave", "lead_id starts ends", "", "", "Book leave", "lead-1 2026-04-01T08:00:00Z 2026-04-14T18:00:00Z", ""},
	{"lead", "sick", "carelead.ReportSickness", "lead_id expected_back", "", "", "Report that a lead is sick", "lead-1 2026-04-14T08:00:00Z", ""},
	{"lead", "back", "carelead.ReturnFromLeave", "lead_id", "", "", "A lead is back early", "lead-1", ""},
	{"lead", "deactivate", "carelead.DeactivateLead", "lead_id", "cause=cause", "cause=by_request", "End a lead's role", "lead-1 --cause role_ended", ""},

	{"neighbourhood", "define", "carelead.DefineNeighbourhood", "neighbourhood_id", "name!=name practice!=practices manager!=manager.name manager-sds!=manager.sds_user_id alliance-contact!=alliance_contact.name alliance-sds!=alliance_contact.sds_user_id alliance=alliance",
		"organisation=$organisation manager.kind=PERSON_IN_ROLE manager.id=$1-manager manager.organisation=$organisation alliance_contact.kind=PERSON_IN_ROLE alliance_contact.id=$1-alliance alliance_contact.organisation=$organisation",
		"Define a neighbourhood and who answers for it", "peckham --name Peckham --practice G85004 --manager 'M. Patel' --manager-sds 555000444 --alliance-contact 'S. Brown' --alliance-sds 555000555", ""},
	{"neighbourhood", "pool", "carelead.AcceptFallback", "neighbourhood_id", "name!=pool.name until!=until phone=pool.telephone hours=pool.hours out-of-hours=out_of_hours_message",
		"pool.kind=FALLBACK_POOL pool.id=$1-pool pool.organisation=$organisation", "Accept standing responsibility as the fallback pool", "peckham --name 'Peckham duty pool' --until 2027-03-31T23:00:00Z --out-of-hours 'Call 111'", ""},
	{"neighbourhood", "show", "carelead.GetNeighbourhood", "neighbourhood_id", "", "", "Show a neighbourhood", "peckham", ""},
	{"neighbourhood", "find", "carelead.FindNeighbourhood", "practice", "", "", "Find the neighbourhood that serves a GP practice", "G85004", ""},
	{"neighbourhood", "list", "carelead.ListNeighbourhoods", "", "", "", "List neighbourhoods", "", ""},

	{"referral", "draft", "referral.DraftReferral", pathway, "kind!=content.kind to!=content.target.organisation why=content.reason priority=content.priority",
		"content.requester.user=555000111 content.requester.organisation=$organisation content.target.channel=MANUAL content.priority=ROUTINE", "Draft a referral", "PATHWAY --kind ALLIED_HEALTH --to RRV --why 'Shoulder stiffness'", ""},
	{"referral", "send", "referral.SendReferral", "pathway_id referral_id", "", "nhs_number_status=01", "Send a draft", "PATHWAY REFERRAL", ""},
	{"referral", "received", "referral.AcknowledgeReceipt", "pathway_id referral_id", "", "", "Acknowledge receipt", "PATHWAY REFERRAL --organisation RRV", ""},
	{"referral", "accept", "referral.AcceptReferral", "pathway_id referral_id", "", "", "Accept", "PATHWAY REFERRAL --organisation RRV", ""},
	{"referral", "reject", "referral.RejectReferral", "pathway_id referral_id", "because!=rejection_reason note=note", "", "Reject, and say why", "PATHWAY REFERRAL --because 01 --organisation RRV", ""},
	{"referral", "show", "referral.GetReferral", "pathway_id referral_id", "", "", "Show one referral", "PATHWAY REFERRAL", ""},
	{"referral", "list", "referral.ListReferrals", pathway, "", "", "List the referrals of a pathway", "PATHWAY", ""},

	{"session", "open", "appointment.OpenSession", "", "slots!=slots site!=site service!=treatment_function modality=modality medium=medium clinician=practitioner_role cancer=cancer_priority_reason id=session_id",
		"organisation=$organisation modality=consultation medium=FACE_TO_FACE", "Open a clinic session with its slots", "--site RJ101 --service 103 --slots '2026-12-01 09:00-12:00 every 20m'", "slots"},
	{"session", "show", "appointment.GetSession", "session_id", "", "", "Show a session and who has each slot", "SESSION", ""},
	{"session", "suspend", "appointment.SuspendSession", "session_id", "because!=reason", "", "Suspend a session: whoever has a slot is cancelled and is to be booked anew", "SESSION --because 'no clinician'", ""},
	{"session", "resume", "appointment.ResumeSession", "session_id", "because=reason", "", "Let a suspended session be booked again", "SESSION", ""},
	{"session", "close", "appointment.CloseSession", "session_id", "because=reason", "", "Close a session that nobody waits for", "SESSION", ""},
	{"slot", "list", "appointment.ListFreeSlots", "session_id", "", "", "List the free slots of a session", "SESSION", ""},

	{"slot", "find", "appointment.FindSlots", "", "service=treatment_function site=site trust=organisation medium=medium modality=modality from=from to=to cancer=cancer_priority_reason limit=limit", "",
		"Find free slots of all sessions; with --cancer those kept for cancer too", "--service 103 --from 2026-12-01 --to 2026-12-08 --cancer usc", ""},
	{"slot", "hold", "appointment.HoldSlot", "pathway_id session_id slot_id", "appointment=appointment_id", "", "Keep a slot for two minutes, while the patient is asked; then book it with --hold", "PATHWAY SESSION SLOT", ""},

	{"appointment", "request", "appointment.RequestAppointment", pathway, "for=purpose service=treatment_function by=wanted_by referral=referral_id need=needs cancer=cancer_priority_reason", "",
		"Say that an appointment is wanted: it is to be booked", "PATHWAY --for 'Results clinic' --by 2026-12-01", ""},
	{"appointment", "book", "appointment.BookAppointment", "pathway_id place.slot.session_id place.slot.slot_id", "requested=appointment_id hold=place.slot.hold_id task=task_id series=series_id for=purpose referral=referral_id need=needs unmet=unmet_needs overlap-because=overlap_override_reason", "",
		"Book a slot of a session", "PATHWAY SESSION SLOT --task TASK", ""},
	{"appointment", "booked-elsewhere", "appointment.BookAppointment", pathway, "start!=place.external.start end!=place.external.end site!=place.external.site medium=place.external.medium system=pas_system id=pas_id task=task_id for=purpose overlap-because=overlap_override_reason",
		"place.external.medium=FACE_TO_FACE", "Record what another system booked", "PATHWAY --start 2026-12-01T09:00 --end 2026-12-01T09:20 --site RJ101", ""},
	{"appointment", "reschedule", "appointment.RescheduleAppointment", "pathway_id appointment_id to.slot.session_id to.slot.slot_id", "because!=reason version=seen_version overlap-because=overlap_override_reason", "",
		"Move an appointment to another slot", "PATHWAY APPOINTMENT SESSION SLOT --because 'the patient asked'", ""},
	{"appointment", "cancel", "appointment.CancelAppointment", "pathway_id appointment_id", "by!=by because!=reason version=seen_version teller=teller", "", "Cancel an appointment; it is to be booked anew", "PATHWAY APPOINTMENT --by PATIENT --because 'away that week'", ""},
	{"appointment", "stop-series", "appointment.StopSeries", "pathway_id series_id", "by!=by because!=reason from=from teller=teller", "", "Cancel what is still to come of a series", "PATHWAY SERIES --by PROVIDER --because 'treatment changed'", ""},
	{"appointment", "confirm", "appointment.ConfirmAttendance", "pathway_id appointment_id", "", "", "Record that the patient means to come", "PATHWAY APPOINTMENT", ""},
	{"appointment", "asked", "appointment.RequestChange", "pathway_id appointment_id", "for!=request", "", "Record what the patient asks for; the booking stands", "PATHWAY APPOINTMENT --for RESCHEDULE", ""},
	{"appointment", "arrived", "appointment.RecordArrival", "pathway_id appointment_id", "at=at", "", "Record that the patient is there", "PATHWAY APPOINTMENT", ""},
	{"appointment", "outcome", "appointment.RecordOutcome", "pathway_id appointment_id", "code!=outcome_code attendance=attendance_code on=on next=next_appointment_id", "attendance_code=5 on=$today",
		"Record that the patient was seen: 1 discharged, 2 next appointment given, 3 to be made later", "PATHWAY APPOINTMENT --code 3", ""},
	{"appointment", "no-show", "appointment.RecordNoShow", "pathway_id appointment_id", "attendance=attendance_code on=on", "attendance_code=3 on=$today", "Record that the patient did not attend", "PATHWAY APPOINTMENT", ""},
	{"appointment", "in-error", "appointment.EnterInError", "pathway_id appointment_id", "", "", "Strike an appointment that should not be there", "PATHWAY APPOINTMENT", ""},
	{"appointment", "list", "appointment.ListAppointments", pathway, "", "", "List the appointments of a pathway", "PATHWAY", ""},
	{"appointment", "show", "appointment.GetAppointment", "pathway_id appointment_id", "", "", "Show one appointment", "PATHWAY APPOINTMENT", ""},
	{"appointment", "tasks", "pathway.ListToBeBooked", "", "party=party_id overdue=overdue_only", "", "List what is to be booked, soonest due first", "--overdue=true", ""},
	{"appointment", "task-done", "appointment.EndTask", "pathway_id task_id", "because!=reason_code why!=reason", "", "Decide, as a person in a role, that no appointment is needed", "PATHWAY TASK --because patient_declined --why 'prefers the GP' --user 555000111 --role R0260", ""},

	{"indicator", "list", "pathway.ListIndicators", "", "", "", "List every indicator, and why some are not served", "", ""},
	{"indicator", "show", "pathway.GetIndicators", "ids?", "from=from_month to=to_month by=by provider=provider tumour=tumour_group export=export", "", "Show indicators, or all that are served", "M08,M01 --from 2026-01 --to 2026-03 --by PROVIDER", ""},

	{"message", "list", "edge.ListMessages", "", "state=state because=reason_code size=page_size", "", "List messages and count them by state and reason", "--state MESSAGE_STATE_PARKED", ""},
	{"message", "show", "edge.GetMessage", "message_id", "", "", "Show a message field by field, and what became of it", "MESSAGE", ""},
	{"message", "gaps", "edge.ListGaps", "", "", "", "List the sequence numbers (MSH-13) that senders left out", "", ""},
	{"message", "redrive", "edge.RedriveMessage", "message_id", "set=corrections[]", "", "Apply a parked or refused message again, corrected or as it was", "MESSAGE --set PID-3.1=9990000018", ""},
}

// nouns are the nouns of verbs, with what they are.
var nouns = [][2]string{
	{"person", "Who the patient is"},
	{"pathway", "A cancer pathway, its clocks and who is accountable"},
	{"handover", "Who is accountable for a pathway, and passing that on"},
	{"lead", "Care leads: invite, leave, capacity"},
	{"neighbourhood", "Neighbourhoods, their practices and fallback pools"},
	{"referral", "Referrals of a pathway"},
	{"plan", "The Personalised Cancer Plan, assessments, summary"},
	{"message", "Messages of other systems: what became of them, and mending them"},
	{"appointment", "Appointments of a pathway, and what is to be booked"},
	{"session", "Clinic sessions: open, suspend, close"},
	{"slot", "Free slots of clinic sessions"},
	{"indicator", "What dashboards count: waits, offers, handovers"},
}

// verbsOf returns the verbs of a noun.
func verbsOf(noun string) []verb {
	return slices.DeleteFunc(slices.Clone(verbs), func(v verb) bool { return v.noun != noun })
}

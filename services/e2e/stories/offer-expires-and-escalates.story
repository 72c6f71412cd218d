Story: An offer that nobody answers goes up level by level, and nobody is made accountable by silence
# Seen in one working day, answered in two; then the duty pool of the
# neighbourhood is asked, then its manager, then the alliance.

given a patient at the end of treatment

at 2026-09-14 09:00, Monday: offered to Joy Okafor, who does not look
  Nurse Bello calls carelead.OfferHandover
    pathway_id = $pathway
    kind = TO_LEAD
    lead_id = $joy
    summary_version = 1
    plan_version = 1
    keep handover = ledger.handover.handover_id
  then carelead records HandoverOffered

at 2026-09-16 08:00, Tuesday is over: a reminder
  then carelead records HandoverReminderSent
  then accountable is Lung clinic

at 2026-09-17 08:00, Wednesday is over: the duty pool is asked
  then carelead records HandoverExpired, HandoverEscalated, HandoverOffered
  then accountable is Lung clinic
  then carelead.GetLedger shows
    ledger.handover.state = OFFERED
    ledger.handover.escalation_level = 1
    ledger.handover.to = Peckham duty pool
    keep second = ledger.handover.handover_id
  then carelead.GetLead shows for lead_id = $joy
    lead.taken = 0

at 2026-09-17 09:00, it is too late for the first offer
  Joy Okafor calls carelead.AcceptHandover
    pathway_id = $pathway
    handover_id = $handover
    summary_version = 1
    plan_version = 1
    refused carelead.handover.not_open

at 2026-09-18 10:00, the pool accepts
  Sam Reid calls carelead.AcceptHandover
    pathway_id = $pathway
    handover_id = $second
    summary_version = 1
    plan_version = 1
  then accountable is Peckham duty pool
  then accountable at 2026-09-18 09:59 is Lung clinic
  then carelead records HandoverAccepted, AccountabilityTransferred, PatientNoticeDue

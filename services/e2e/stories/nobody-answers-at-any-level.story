Story: An offer is answered by nobody at any level, and the treating team stays accountable
# At the end of the chain a person is told that a person must act.

given a patient at the end of treatment

at 2026-09-14 09:00, Monday
  Nurse Bello calls carelead.OfferHandover
    pathway_id = $pathway
    kind = TO_LEAD
    lead_id = $joy
    summary_version = 1
    plan_version = 1

at 2026-10-05 09:00, three weeks later
  then carelead records
    HandoverOffered
    HandoverReminderSent
    HandoverExpired
    HandoverEscalated
    HandoverOffered
    HandoverReminderSent
    HandoverExpired
    HandoverEscalated
    HandoverOffered
    HandoverReminderSent
    HandoverExpired
    HandoverEscalated
    HandoverOffered
    HandoverReminderSent
    HandoverExpired
    HandoverEscalated
    ReviewTaskRaised
  then accountable is Lung clinic
  then carelead.GetLedger shows
    ledger.handover.state = EXPIRED
    ledger.tasks = escalation_exhausted

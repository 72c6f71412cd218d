Story: A lead declines for want of capacity, and another accepts
given a patient at the end of treatment

at 2026-09-14 09:00, Monday
  Nurse Bello calls carelead.OfferHandover
    pathway_id = $pathway
    kind = TO_LEAD
    lead_id = $joy
    summary_version = 1
    plan_version = 1
    keep handover = ledger.handover.handover_id
  then carelead records HandoverOffered

at 2026-09-14 15:00, she cannot take the patient, and suggests who can
  Joy Okafor calls carelead.DeclineHandover
    pathway_id = $pathway
    handover_id = $handover
    reason = CAPACITY
    suggestion = Sam Reid
  then carelead records HandoverDeclined, ReviewTaskRaised
  then accountable is Lung clinic
  then carelead.GetLedger shows
    ledger.handover.state = DECLINED
    ledger.tasks = handover_declined
  then carelead.GetLead shows for lead_id = $joy
    lead.taken = 0

at 2026-09-14 16:00, a full caseload is not even asked
  Manager Ward calls carelead.ChangeCapacity
    lead_id = $joy
    capacity = 0
  Nurse Bello calls carelead.OfferHandover
    pathway_id = $pathway
    kind = TO_LEAD
    lead_id = $joy
    summary_version = 1
    plan_version = 1
    refused carelead.lead.no_capacity

at 2026-09-15 09:00, offered to Sam Reid
  Nurse Bello calls carelead.OfferHandover
    pathway_id = $pathway
    kind = TO_LEAD
    lead_id = $sam
    summary_version = 1
    plan_version = 1
    keep handover = ledger.handover.handover_id
  Sam Reid calls carelead.AcceptHandover
    pathway_id = $pathway
    handover_id = $handover
    summary_version = 1
    plan_version = 1
  then carelead records HandoverOffered, HandoverAccepted, AccountabilityTransferred, PatientNoticeDue
  then accountable is Sam Reid
  then accountable at 2026-09-15 08:59 is Lung clinic

Story: A patient does not want a lead, stays with the treating team, and thinks again
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

at 2026-09-14 11:00, the patient says no: the offer ends, and the team keeps the patient
  Nurse Bello calls carelead.RecordPatientDecision
    pathway_id = $pathway
    wants_lead = no
    on = 2026-09-14
    ask_again_on = 2026-12-14
  then carelead records HandoverVoided, LeadDeclinedByPatient
  then accountable is Lung clinic
  then carelead.GetLedger shows
    ledger.open = yes
    ledger.lead_declined = yes
    ledger.handover.state = VOID
  Joy Okafor calls carelead.AcceptHandover
    pathway_id = $pathway
    handover_id = $handover
    summary_version = 1
    plan_version = 1
    refused carelead.handover.not_open
  Nurse Bello calls carelead.OfferHandover
    pathway_id = $pathway
    kind = TO_LEAD
    lead_id = $joy
    summary_version = 1
    plan_version = 1
    refused carelead.lead.patient_declined

at 2026-12-14 10:00, asked again, the patient wants one
  Nurse Bello calls carelead.RecordPatientDecision
    pathway_id = $pathway
    wants_lead = yes
    on = 2026-12-14
  Nurse Bello calls carelead.OfferHandover
    pathway_id = $pathway
    kind = TO_LEAD
    lead_id = $joy
    summary_version = 1
    plan_version = 1
    keep handover = ledger.handover.handover_id
  Joy Okafor calls carelead.AcceptHandover
    pathway_id = $pathway
    handover_id = $handover
    summary_version = 1
    plan_version = 1
  then carelead records LeadRequestedByPatient, HandoverOffered, HandoverAccepted, AccountabilityTransferred, PatientNoticeDue
  then accountable is Joy Okafor

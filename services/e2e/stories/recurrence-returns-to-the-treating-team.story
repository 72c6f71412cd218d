Story: The cancer returns, and the lead gives the patient back to the treating team
given a patient with a lead

at 2027-04-12 09:00, Monday: a recurrence; the lead asks the clinic to take the patient back
  Joy Okafor calls carelead.OfferHandover
    pathway_id = $pathway
    kind = TO_TREATING_TEAM
    keep handover = ledger.handover.handover_id
  then carelead records HandoverOffered
  then accountable is Joy Okafor
  then carelead.GetLedger shows
    ledger.handover.to = Lung clinic
    ledger.handover.answer_due = 2027-04-14 00:00

at 2027-04-13 10:00, within a working day the clinic accepts
  Nurse Bello calls carelead.AcceptHandover
    pathway_id = $pathway
    handover_id = $handover
  then carelead records HandoverAccepted, AccountabilityTransferred, PatientNoticeDue
  then accountable is Lung clinic
  then accountable at 2027-04-12 12:00 is Joy Okafor
  then carelead.GetLead shows for lead_id = $joy
    lead.taken = 0

at 2027-04-20 09:00, another treatment begins, by its own 31-day clock
  Dr Lindqvist calls referral.RecordDecisionToTreat
    pathway_id = $pathway
    facts.on = 2027-04-14
    facts.organisation = RJ1
  Dr Lindqvist calls referral.StartTreatment
    pathway_id = $pathway
    facts.on = 2027-04-20
    facts.event_type = 03
    facts.modality = 05
    facts.setting = OUTPATIENT
    facts.organisation = RJ1
  then referral.GetPathway shows
    pathway.state = IN_TREATMENT
    pathway.treatments[1].started.on = 2027-04-20
  then accountable is Lung clinic

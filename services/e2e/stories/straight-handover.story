Story: The treating team hands over to a neighbourhood lead, who accepts
# An offer changes nothing: only the acceptance does, in the same instant.

given a patient at the end of treatment

at 2026-09-14 09:00, Monday: the clinic offers the patient to Joy Okafor
  Nurse Bello calls carelead.OfferHandover
    pathway_id = $pathway
    kind = TO_LEAD
    lead_id = $joy
    summary_version = 1
    plan_version = 1
    keep handover = ledger.handover.handover_id
  then carelead records HandoverOffered
  then accountable is Lung clinic
  then carelead.GetLedger shows
    ledger.handover.state = OFFERED
    ledger.handover.to = Joy Okafor
    ledger.handover.seen_due = 2026-09-16 00:00
    ledger.handover.answer_due = 2026-09-17 00:00

at 2026-09-14 14:00, she has read it; the clinic is still accountable
  Joy Okafor calls carelead.AcknowledgeOffer
    pathway_id = $pathway
    handover_id = $handover
  then accountable is Lung clinic

at 2026-09-15 09:00, nobody else can accept for her, nor can she what she has not read
  Sam Reid calls carelead.AcceptHandover
    pathway_id = $pathway
    handover_id = $handover
    summary_version = 1
    plan_version = 1
    refused carelead.handover.not_addressee
  Joy Okafor calls carelead.AcceptHandover
    pathway_id = $pathway
    handover_id = $handover
    summary_version = 0
    plan_version = 1
    refused carelead.handover.stale_version
  then carelead records HandoverOfferSeen

at 2026-09-15 09:30, she accepts
  Joy Okafor calls carelead.AcceptHandover
    pathway_id = $pathway
    handover_id = $handover
    summary_version = 1
    plan_version = 1
  then carelead records HandoverAccepted, AccountabilityTransferred, PatientNoticeDue
  then accountable is Joy Okafor
  then accountable at 2026-09-15 09:29 is Lung clinic
  then accountable at 2026-07-06 09:00 is Lung clinic
  then carelead.GetLedger shows
    ledger.holder = Joy Okafor
    ledger.since = 2026-09-15 09:30
    ledger.first_contact_due = 2026-09-30 00:00
  then carelead.GetLead shows for lead_id = $joy
    lead.taken = 1

at 2026-09-21 11:00, the first contact
  Joy Okafor calls carelead.RecordFirstContact
    pathway_id = $pathway
    made = yes
    on = 2026-09-21
    medium = TELEPHONE
  then carelead records FirstContactMade

at 2026-10-05 09:00, nothing is overdue
  then carelead records nothing
  then accountable is Joy Okafor

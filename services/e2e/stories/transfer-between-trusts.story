Story: Another trust takes over the treatment, and with it the patient
# The clinic of the first trust answers for the patient until the other one's
# team accepts. The clocks learn of the transfer by its own date.

given an urgent lung referral
Dr Haddad is user 555000301 in role R0050 of RRV
Thoracic surgery is team THORACIC of RRV

at 2026-07-31 15:00, day 25: told of cancer
  Dr Lindqvist calls referral.CommunicateDiagnosis
    pathway_id = $pathway
    facts.told.on = 2026-07-31
    facts.told.method = FACE_TO_FACE
    facts.told.organisation = RJ1
    facts.tumour_group = 03

at 2026-08-10 09:00, offered to the other trust's team; nothing has changed yet
  Nurse Bello calls carelead.OfferHandover
    pathway_id = $pathway
    kind = BETWEEN_TEAMS
    to = Thoracic surgery
    keep handover = ledger.handover.handover_id
  then carelead records HandoverOffered
  then accountable is Lung clinic

at 2026-08-11 09:00, day 36: the other trust records the transfer before its team has answered
  Nurse Bello calls referral.TransferToTreatingProvider
    pathway_id = $pathway
    facts.on = 2026-08-11
    facts.investigating_provider = RJ1
    facts.treating_provider = RRV
  then carelead records ReviewTaskRaised
  then accountable is Lung clinic
  then carelead.GetLedger shows
    ledger.tasks = treating_provider_changed

at 2026-08-11 11:00, the team accepts
  Dr Haddad calls carelead.AcceptHandover
    pathway_id = $pathway
    handover_id = $handover
  then carelead records HandoverAccepted, TreatingProviderChanged, AccountabilityTransferred, PatientNoticeDue
  then accountable is Thoracic surgery
  then accountable at 2026-08-11 10:59 is Lung clinic
  then carelead.GetLedger shows
    ledger.treating_team = Thoracic surgery

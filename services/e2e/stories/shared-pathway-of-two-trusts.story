Story: One trust investigates, another treats, and the breach is the second one's
# The transfer on day 36 is within its 38 days, the treatment 33 days later is
# not within its 24: scenario 4 of the breach allocation.

given an urgent lung referral
Dr Haddad is user 555000301 in role R0050 of RRV

at 2026-07-16 10:00, day 10: seen
  Nurse Bello calls referral.RecordFirstSeen
    pathway_id = $pathway
    facts.on = 2026-07-16
    facts.organisation = RJ1

at 2026-07-31 15:00, day 25: told of cancer
  Dr Lindqvist calls referral.CommunicateDiagnosis
    pathway_id = $pathway
    facts.told.on = 2026-07-31
    facts.told.method = FACE_TO_FACE
    facts.told.organisation = RJ1
    facts.tumour_group = 03

at 2026-08-11 09:00, day 36: the other trust receives the patient
  Nurse Bello calls referral.TransferToTreatingProvider
    pathway_id = $pathway
    facts.on = 2026-08-11
    facts.investigating_provider = RJ1
    facts.treating_provider = RRV

at 2026-08-20 09:00, day 45: decision to treat
  Dr Haddad calls referral.RecordDecisionToTreat
    pathway_id = $pathway
    facts.on = 2026-08-20
    facts.organisation = RRV

at 2026-09-13 09:00, day 69: radiotherapy begins
  Dr Haddad calls referral.StartTreatment
    pathway_id = $pathway
    facts.on = 2026-09-13
    facts.event_type = 01
    facts.modality = 05
    facts.setting = OUTPATIENT
    facts.organisation = RRV
  then pathway records
    FirstSeen
    DiagnosisCommunicated
    TransferredToTreatingProvider
    DecisionToTreatMade
    TreatmentStarted
  then the clocks say
    fds28 = 25 days, met
    d31 = 24 days, met
    d62 = 69 days, breached
    d38 = 36 days, met
    d24 = 33 days, breached
    investigating = 0 of 0 in time
    treating = 0 of 1 in time

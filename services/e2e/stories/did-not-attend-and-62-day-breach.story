Story: A missed first appointment, its adjustment, and a 62-day breach all the same
# Not attending the first appointment takes days off the clock, from receipt to
# the day the patient made a new appointment. It never ends the pathway.

given an urgent lung referral

at 2026-07-15 10:00, day 9: the patient does not attend, and rebooks two days later
  Nurse Bello calls referral.RecordFirstAppointmentMissed
    pathway_id = $pathway
    facts.on = 2026-07-15
    facts.attendance = 3

at 2026-07-17 12:00
  Nurse Bello calls referral.SetFirstSeenAdjustment
    pathway_id = $pathway
    facts.days = 11
    facts.reason = 3
  then accountable is Lung clinic
  then referral.GetPathway shows
    pathway.state = REFERRED
    pathway.closed = none
    pathway.clocks[kind=D62].status = RUNNING

at 2026-07-24 15:00, day 18: seen
  Nurse Bello calls referral.RecordFirstSeen
    pathway_id = $pathway
    facts.on = 2026-07-24
    facts.organisation = RJ1

at 2026-08-12 14:00, day 37: told of cancer; 37 less 11 days are within the 28
  Dr Lindqvist calls referral.CommunicateDiagnosis
    pathway_id = $pathway
    facts.told.on = 2026-08-12
    facts.told.method = FACE_TO_FACE
    facts.told.organisation = RJ1
    facts.tumour_group = 03
    facts.icd10 = C34.1
  then the clocks say
    fds28 = 26 days, met

at 2026-08-21 14:00, day 46: decision to treat
  Dr Lindqvist calls referral.RecordDecisionToTreat
    pathway_id = $pathway
    facts.on = 2026-08-21
    facts.organisation = RJ1

at 2026-09-18 08:00, day 74: surgery, 63 days after the adjustment
  Dr Lindqvist calls referral.StartTreatment
    pathway_id = $pathway
    facts.on = 2026-09-18
    facts.event_type = 01
    facts.modality = 01
    facts.setting = ORDINARY_ADMISSION
    facts.organisation = RJ1
  then pathway records
    FirstAppointmentMissed
    FirstSeenAdjustmentSet
    FirstSeen
    DiagnosisCommunicated
    DecisionToTreatMade
    TreatmentStarted
  then the clocks say
    fds28 = 26 days, met
    d31 = 28 days, met
    d62 = 63 days, breached

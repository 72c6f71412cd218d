Story: A missed first appointment, its adjustment, and a 62-day breach all the same
# Not attending the first appointment takes days off the clock, from receipt to
# the day the patient made a new appointment. It never ends the pathway.

given an urgent lung referral

at 2026-07-07 09:00, the clinic opens and the patient is booked for day 9
  Nurse Bello calls appointment.OpenSession
    organisation = RJ1
    site = RJ101
    treatment_function = 340
    modality = clinic
    medium = FACE_TO_FACE
    slots[0].start = 2026-07-15T10:00
    slots[0].end = 2026-07-15T10:30
    slots[1].start = 2026-07-24T14:30
    slots[1].end = 2026-07-24T15:00
    keep session = session.session_id
    keep first = session.slots[0].slot.slot_id
    keep second = session.slots[1].slot.slot_id
  Nurse Bello calls appointment.BookAppointment
    pathway_id = $pathway
    place.slot.session_id = $session
    place.slot.slot_id = $first
    keep appointment = appointment.appointment_id
  then appointment records AppointmentBooked

at 2026-07-15 11:00, day 9: the patient does not attend; that is no discharge, but a task
  Nurse Bello calls appointment.RecordNoShow
    pathway_id = $pathway
    appointment_id = $appointment
    attendance_code = 3
    on = 2026-07-15
    outcome_code = 1
    refused appointment.no_show.discharge
  Nurse Bello calls appointment.RecordNoShow
    pathway_id = $pathway
    appointment_id = $appointment
    attendance_code = 3
    on = 2026-07-15
    keep task = open_tasks[0].task_id
  then appointment records
    PatientDidNotAttend
    ToBeBookedTaskRaised
    ClockAdjustmentProposed
    HolderToldOfMissedAppointment
  then pathway records FirstAppointmentMissed
  then accountable is Lung clinic

at 2026-07-17 12:00, day 11: the patient makes a new appointment; a nurse sets the adjustment
  Nurse Bello calls appointment.BookAppointment
    pathway_id = $pathway
    task_id = $task
    place.slot.session_id = $session
    place.slot.slot_id = $second
  then appointment records AppointmentBooked, ToBeBookedTaskBooked, ClockAdjustmentProposed
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
    FirstSeenAdjustmentSet
    FirstSeen
    DiagnosisCommunicated
    DecisionToTreatMade
    TreatmentStarted
  then the clocks say
    fds28 = 26 days, met
    d31 = 28 days, met
    d62 = 63 days, breached

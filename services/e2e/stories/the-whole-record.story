Story: A patient's whole record, and what may no longer be shown of it
# Everything that another system can read of one patient: needs, plan, assessment,
# outcomes, referrals, appointments, the summary and its letters. In the end the
# patient's record is restricted, and one section of the plan is withheld.

given a patient with a lead

at 2026-09-16 09:00, the practice sends what it knows, and the patient says what they need
  PDS feed calls person.UpdateDemographics
    person_id = $person
    demographics.name.family = Testcase
    demographics.name.given = Ann, Mary
    demographics.birth_date = 1961-05-04
    demographics.address.lines = 1 High Street
    demographics.address.postcode = SE15 1AA
    demographics.telecoms.items[0].system = phone
    demographics.telecoms.items[0].value = 020 7946 0001
    demographics.telecoms.items[0].use = home
    demographics.ethnic_category = A
    demographics.contact_preference = 9
    local_identifiers[0].assigner = RJ1
    local_identifiers[0].value = H0001
    source.kind = PDS
    source.system = PDS
    source.version = 2
    source.sent_at = 2026-09-16 08:59
  Joy Okafor calls person.RecordNeeds
    person_id = $person
    communication[0].code = 204331000000107
    communication[0].language = bfi
    adjustments[0].code = 1108151000000106
    adjustments[0].category = 001
    review_due = 2027-03-16
  then person records
    DemographicsUpdated
    LocalIdentifierAdded
    CommunicationNeedRecorded
    AdjustmentRecorded
    NeedsReviewDue

at 2026-09-16 10:00, the assessment and the plan
  Joy Okafor calls plan.OfferAssessment
    pathway_id = $pathway
    point = 04
    staff_role = 04
    on = 2026-09-16
    offered_status = 03
    expires = 2026-10-16
    keep assessment = subject_id
  Joy Okafor calls plan.StartAssessment
    pathway_id = $pathway
    assessment_id = $assessment
    on = 2026-09-16
  Joy Okafor calls plan.SubmitAssessment
    pathway_id = $pathway
    assessment_id = $assessment
    on = 2026-09-16
    concerns[0].code = physical.breathing
    concerns[0].score = 6
    concerns[0].patient_priority = 1
    author = patient
  Joy Okafor calls plan.RecordConcern
    pathway_id = $pathway
    code = physical.breathing
    score = 6
    patient_priority = 1
    keep concern = subject_id
  Joy Okafor calls plan.AgreeGoal
    pathway_id = $pathway
    description = Walk to the park & back
    target_on = 2026-12-01
    concern_ids = $concern
    keep goal = subject_id
  Joy Okafor calls plan.AddAction
    pathway_id = $pathway
    description = Breathing exercises
    required_role = R9801
    due = 2026-10-01
    concern_ids = $concern
    goal_id = $goal
    keep action = subject_id
  Joy Okafor calls plan.DecideConcern
    pathway_id = $pathway
    concern_id = $concern
    decision = ACTION
    action_id = $action
  Joy Okafor calls plan.WriteSection
    pathway_id = $pathway
    code = family
    text = Lives with a brother
  Joy Okafor calls plan.WriteSection
    pathway_id = $pathway
    code = work
    text = Wants to be back in May
  Joy Okafor calls plan.SubmitResponse
    pathway_id = $pathway
    instrument = eq-5d-5l
    instrument_version = 1
    answers[0].item = mobility
    answers[0].value = 3
    answers[1].item = self_care
    answers[1].value = 1
    answers[2].item = usual_activities
    answers[2].value = 2
    answers[3].item = pain
    answers[3].value = 2
    answers[4].item = anxiety
    answers[4].value = 2
    answers[5].item = vas
    answers[5].value = 70
    author = patient
    on = 2026-09-16

at 2026-09-17 09:00, a referral to physiotherapy, and an appointment that is moved and then cancelled
  Nurse Bello calls referral.DraftReferral
    pathway_id = $pathway
    content.kind = ALLIED_HEALTH
    content.requester.user = 555000101
    content.requester.organisation = RJ1
    content.target.organisation = RRV
    content.target.channel = MANUAL
    content.contacts[0].rank = 1
    content.contacts[0].kind = PROFESSIONAL
    content.contacts[0].methods[0].rank = 1
    content.contacts[0].methods[0].system = PHONE
    content.contacts[0].methods[0].value = 020 7946 0000
    content.priority = ROUTINE
    content.reason = Breathless on stairs
    content.requirements = 204331000000107
    keep referral = referral.referral_id
  Nurse Bello calls referral.SendReferral
    pathway_id = $pathway
    referral_id = $referral
    nhs_number_status = 01
  Nurse Bello calls appointment.OpenSession
    organisation = RJ1
    site = RJ101
    treatment_function = 340
    modality = clinic
    medium = FACE_TO_FACE
    slots[0].start = 2026-10-15T10:00
    slots[0].end = 2026-10-15T10:30
    slots[1].start = 2026-10-24T14:30
    slots[1].end = 2026-10-24T15:00
    keep session = session.session_id
    keep first = session.slots[0].slot.slot_id
    keep second = session.slots[1].slot.slot_id
  Nurse Bello calls appointment.BookAppointment
    pathway_id = $pathway
    referral_id = $referral
    place.slot.session_id = $session
    place.slot.slot_id = $first
    needs = 204331000000107
    keep appointment = appointment.appointment_id
  Nurse Bello calls appointment.RescheduleAppointment
    pathway_id = $pathway
    appointment_id = $appointment
    to.slot.session_id = $session
    to.slot.slot_id = $second
    reason = clinic moved
  Nurse Bello calls appointment.CancelAppointment
    pathway_id = $pathway
    appointment_id = $appointment
    by = PATIENT
    reason = on holiday
  Nurse Bello calls appointment.RequestAppointment
    pathway_id = $pathway
    treatment_function = 340
    wanted_by = 2026-11-30
  then appointment records
    AppointmentBooked
    AppointmentRescheduled
    AppointmentCancelled
    ToBeBookedTaskRaised
    AppointmentRequested
    ToBeBookedTaskRaised

at 2026-09-18 09:00, the summary goes out to the patient, the practice and the lead
  Dr Lindqvist calls plan.IssueSummary
    pathway_id = $pathway
    summary_id = $summary
    recipients = PATIENT, GP, LEAD_OR_TEAM
    on = 2026-09-18
  Nurse Bello calls plan.RecordDelivery
    pathway_id = $pathway
    summary_id = $summary
    version = 1
    recipient = GP
    delivered = no
    failure_reason = the practice has moved
  Nurse Bello calls plan.RecordDelivery
    pathway_id = $pathway
    summary_id = $summary
    version = 1
    recipient = PATIENT
    delivered = yes

at 2026-09-21 09:00, from now on less may be shown
  PDS feed calls person.SetRestriction
    person_id = $person
    code = R
  then person records RestrictionSet
  Joy Okafor calls plan.WithholdSection
    pathway_id = $pathway
    code = family
    reason = the patient asked for it
  then person.GetPerson shows for person_id = $person
    person.address = none

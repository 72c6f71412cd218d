# A patient who was treated for lung cancer in summer 2026. The plan is published,
# the end-of-treatment summary is approved, and it was decided how the patient is
# followed up: what has to be so before a lead can be asked.

given a neighbourhood with two leads
given an urgent lung referral

at 2026-07-14 10:00
  Nurse Bello calls referral.RecordFirstSeen
    pathway_id = $pathway
    facts.on = 2026-07-14
    facts.organisation = RJ1

at 2026-07-24 15:00
  Dr Lindqvist calls referral.CommunicateDiagnosis
    pathway_id = $pathway
    facts.told.on = 2026-07-24
    facts.told.method = FACE_TO_FACE
    facts.told.organisation = RJ1
    facts.tumour_group = 03
    facts.icd10 = C34.1

at 2026-07-31 15:00
  Dr Lindqvist calls referral.RecordDecisionToTreat
    pathway_id = $pathway
    facts.on = 2026-07-31
    facts.organisation = RJ1

at 2026-08-20 08:00
  Dr Lindqvist calls referral.StartTreatment
    pathway_id = $pathway
    facts.on = 2026-08-20
    facts.event_type = 01
    facts.modality = 01
    facts.setting = ORDINARY_ADMISSION
    facts.organisation = RJ1

at 2026-08-24 12:00
  Dr Lindqvist calls referral.EndTreatmentPeriod
    pathway_id = $pathway
    facts.on = 2026-08-24
    facts.last_period = yes
    facts.organisation = RJ1

at 2026-09-07 10:00
  Nurse Bello calls plan.RecordPatientAgreement
    pathway_id = $pathway
    agreed = yes
    on = 2026-09-07
    agreed_by = patient
  Nurse Bello calls plan.PublishPlan
    pathway_id = $pathway
    review_due = 2026-12-07
    shared_with_patient = yes
  then plan.GetPlan shows
    keep summary = record.summaries[0].summary_id
  Nurse Bello calls plan.DraftSummary
    pathway_id = $pathway
    summary_id = $summary
    content.diagnosed_on = 2026-07-24
    content.staging = Stage 1
    content.treatment = Lobectomy
    content.periods[0].modality = 01
    content.periods[0].started_on = 2026-08-20
    content.periods[0].ended_on = 2026-08-24
    content.intent = CURATIVE
    content.toxicities_and_late_effects = Breathlessness on stairs
    content.red_flag_symptoms = Coughing blood; a cough for three weeks; weight loss
    content.re_access_contact = Lung nurse specialists, 020 7946 0000
    content.other_referrals = none
    content.ongoing_management = Clinic at six months
    content.stratified_pathway = clinic
    content.gp_actions = Cancer care review
    content.support = Lung cancer support group
    content.responsible = treating team remains responsible
    content.plain_language = Your operation took out the cancer.
    content.language = en
    content.format = letter
  Nurse Bello calls plan.MarkSummaryReady
    pathway_id = $pathway
    summary_id = $summary
  Dr Lindqvist calls plan.ApproveSummary
    pathway_id = $pathway
    summary_id = $summary
    approver_registration = 1234567
    seen_version = 1
  Dr Lindqvist calls plan.RecordSurveillanceNotNeeded
    pathway_id = $pathway
    reason = Clinic visits, no tests at home

at 2026-09-08 10:00
  Nurse Bello calls carelead.PrepareHandover
    pathway_id = $pathway
    kind = TO_LEAD
    patient_informed = yes
    consent_to_share = yes

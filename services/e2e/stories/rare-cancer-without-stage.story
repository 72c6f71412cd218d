Story: A rare cancer that nobody can stage is counted like any other
# Unknown is a value. The plan opens, the clocks count, nothing waits for a stage.

given an urgent lung referral

at 2026-07-30 14:00, day 24: a thymic tumour
  Dr Lindqvist calls referral.CommunicateDiagnosis
    pathway_id = $pathway
    facts.told.on = 2026-07-30
    facts.told.method = FACE_TO_FACE
    facts.told.organisation = RJ1
    facts.tumour_group = 14
    facts.icd10 = C37
  then plan records PlanOpened, CareStepBecameDue, CareStepBecameDue, CareStepBecameDue, AssessmentBecameDue
  then plan.GetPlan shows
    record.plan.diagnosis.icd10 = C37
    record.plan.diagnosis.stage = unstaged
    record.plan.diagnosis.unstaged_reason = not recorded yet
    record.assessments[point=01].due = 2026-08-30
  then the clocks say
    fds28 = 24 days, met

at 2026-08-14 14:00
  Dr Lindqvist calls referral.RecordDecisionToTreat
    pathway_id = $pathway
    facts.on = 2026-08-14
    facts.organisation = RJ1

at 2026-09-04 08:00, day 60: surgery
  Dr Lindqvist calls referral.StartTreatment
    pathway_id = $pathway
    facts.on = 2026-09-04
    facts.event_type = 01
    facts.modality = 01
    facts.setting = ORDINARY_ADMISSION
    facts.organisation = RJ1
  then the clocks say
    fds28 = 24 days, met
    d31 = 21 days, met
    d62 = 60 days, met
  then accountable is Lung clinic

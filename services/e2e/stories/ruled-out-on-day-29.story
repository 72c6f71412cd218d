Story: Cancer is ruled out on day 29, and the Faster Diagnosis Standard is breached
# One day later than in the other story. Asking the GP to call the patient in is
# not telling the patient; neither may the pathway end before the patient knows.

given an urgent lung referral

at 2026-07-17 11:00, first seen
  Nurse Bello calls referral.RecordFirstSeen
    pathway_id = $pathway
    facts.on = 2026-07-17
    facts.organisation = RJ1

at 2026-08-03 16:00, day 28: the result is there, but nobody has told the patient
  Dr Lindqvist calls referral.CommunicateCancerRuledOut
    pathway_id = $pathway
    facts.told.on = 2026-08-03
    facts.told.method = ASKED_TO_SEE_GP
    facts.told.organisation = RJ1
    facts.end_reason = 02
    refused cwt.fds.not_communicated
  Nurse Bello calls referral.ClosePathway
    pathway_id = $pathway
    facts.on = 2026-08-03
    facts.reason = CANCER_RULED_OUT
    refused pathway.clock_running
  then accountable is Lung clinic
  then the clocks say
    fds28 = none

at 2026-08-04 09:30, day 29: a telephone call
  Dr Lindqvist calls referral.CommunicateCancerRuledOut
    pathway_id = $pathway
    facts.told.on = 2026-08-04
    facts.told.method = TELEPHONE
    facts.told.organisation = RJ1
    facts.end_reason = 02
  then pathway records FirstSeen, CancerRuledOutCommunicated
  then the clocks say
    fds28 = 29 days, breached

Story: Cancer is ruled out on day 28, within the Faster Diagnosis Standard
# Day 0 is the day the referral is received; the patient must know by day 28.

given an urgent lung referral

at 2026-07-06 09:05, both national clocks run, and somebody answers for the patient
  then accountable is Lung clinic
  then referral.GetPathway shows
    pathway.state = REFERRED
    pathway.route = USC
    pathway.clocks[kind=FDS28].status = RUNNING
    pathway.clocks[kind=D62].status = RUNNING

at 2026-07-17 11:00, first seen
  Nurse Bello calls referral.RecordFirstSeen
    pathway_id = $pathway
    facts.on = 2026-07-17
    facts.organisation = RJ1

at 2026-08-03 16:00, day 28: the patient is told in clinic that it is not cancer
  Dr Lindqvist calls referral.CommunicateCancerRuledOut
    pathway_id = $pathway
    facts.told.on = 2026-08-03
    facts.told.method = FACE_TO_FACE
    facts.told.organisation = RJ1
    facts.end_reason = 02
  then pathway records FirstSeen, CancerRuledOutCommunicated
  then the clocks say
    fds28 = 28 days, met
    d62 = none
  then referral.GetPathway shows
    pathway.state = RULED_OUT
    pathway.clocks[kind=FDS28].status = STOPPED
    pathway.clocks[kind=FDS28].end_on = 2026-08-03

at 2026-08-04 09:00, the pathway ends for that reason
  Nurse Bello calls referral.ClosePathway
    pathway_id = $pathway
    facts.on = 2026-08-04
    facts.reason = CANCER_RULED_OUT
  then pathway records PathwayClosed

Story: A story that expects a breach where there is none

Nurse Bello is user 555000101 in role R0600 of RJ1
Lung clinic is team LUNG of RJ1
Breast clinic is team BREAST of RJ1

at 2026-07-06 09:00
  Nurse Bello calls referral.StartPathway
    person_id = 6f1c1d9e-52a1-4c53-9a65-0f0a4b7d6a01
    facts.received_on = 2026-07-06
    facts.priority = 3
    facts.referral_type = 03
    facts.source = 03
    facts.responsible_team = Lung clinic
    keep pathway = pathway.pathway_id
  Nurse Bello calls referral.CommunicateCancerRuledOut
    pathway_id = $pathway
    facts.told.on = 2026-07-06
    facts.told.method = TELEPHONE
    facts.told.organisation = RJ1
    facts.end_reason = 02
  then the clocks say
    fds28 = 29 days, breached

# says:
# stories/wrong-clock.story:23: fds28
#   expected: 29 days, breached
#   seen:     0 days, met

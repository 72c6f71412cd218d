Story: A story that expects a refusal of what is taken

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
  Nurse Bello calls referral.RecordFirstSeen
    pathway_id = $pathway
    facts.on = 2026-07-06
    facts.organisation = RJ1
    refused pathway.closed

# says:
# stories/wrong-refusal.story:20: referral.RecordFirstSeen
#   expected: refused with pathway.closed
#   seen:     done

# A GP refers a patient with a suspicious chest X-ray on 6 July 2026. The lung
# clinic of trust RJ1 answers for the patient from the first moment.

GP Dr Osei is user 555000001 in role R0260 of A81001
Nurse Bello is user 555000101 in role R0600 of RJ1
Dr Lindqvist is user 555000102 in role R0050 of RJ1
Lung clinic is team LUNG of RJ1
PDS feed is system pds of X26

at 2026-07-06 09:00
  Nurse Bello calls person.RegisterPerson
    nhs_number = 9990000018
    nhs_number_status = 01
    source.kind = PDS
    source.system = PDS
    source.sent_at = 2026-07-06 08:59
    demographics.practice = A81001
    keep person = person.person_id
  Nurse Bello calls referral.StartPathway
    person_id = $person
    facts.received_on = 2026-07-06
    facts.priority = 3
    facts.referral_type = 03
    facts.source = 03
    facts.pathway_identifier = LUNG2026001
    facts.pathway_identifier_issuer = RJ1
    facts.responsible_team = Lung clinic
    keep pathway = pathway.pathway_id

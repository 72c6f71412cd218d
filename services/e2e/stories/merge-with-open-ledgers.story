Story: Two records prove to be one person, and both had somebody accountable
# The merge waits for a second pair of eyes. The two pathways carry one patient
# pathway identifier, so one ledger goes on and the other ends in its favour; at
# no instant is nobody accountable. The merge can be undone.

given an urgent lung referral
Clerk Ndiaye is user 555000601 in role R8008 of RRV
Chest clinic is team CHEST of RRV

at 2026-07-08 10:00, the other trust registers the patient again, without a number
  Clerk Ndiaye calls person.RegisterPerson
    nhs_number_status = 07
    source.kind = LOCAL
    source.system = PAS
    source.sent_at = 2026-07-08 10:00
    keep twin = person.person_id
  Clerk Ndiaye calls referral.StartPathway
    person_id = $twin
    facts.received_on = 2026-07-06
    facts.priority = 3
    facts.referral_type = 03
    facts.source = 03
    facts.pathway_identifier = LUNG2026001
    facts.pathway_identifier_issuer = RJ1
    facts.responsible_team = Chest clinic
    keep other = pathway.pathway_id
  then carelead-$other records LedgerOpened
  then accountable for $other is Chest clinic

at 2026-07-20 09:00, somebody notices; because both have a holder, the merge is held
  Clerk Ndiaye calls person.MergePersons
    surviving_person_id = $person
    merged_person_id = $twin
    open_ledgers = yes
    keep merge = merge.merge_id
  then person-$twin records PersonRegistered, MergeHeldForReview
  then accountable is Lung clinic
  then accountable for $other is Chest clinic
  Clerk Ndiaye calls person.ApproveMerge
    merged_person_id = $twin
    merge_id = $merge
    refused person.merge.second_person

at 2026-07-20 15:00, a second person approves
  Nurse Bello calls person.ApproveMerge
    merged_person_id = $twin
    merge_id = $merge
  then person-$twin records MergeApproved, PersonMergedInto
  then person records PersonsMerged
  then carelead records LedgerMerged, ReviewTaskRaised
  then carelead-$other records LedgerPersonChanged, LedgerClosed
  then accountable is Lung clinic
  then accountable for $other is nobody
  then accountable for $other at 2026-07-20 14:59 is Chest clinic
  then carelead.GetLedger shows
    ledger.open = yes
    ledger.tasks = holders_differ
  then carelead.GetLedger shows for pathway_id = $other
    ledger.close_reason = SUPERSEDED
    ledger.superseded_by = $pathway
  then person.GetPerson shows for person_id = $twin
    person.person_id = $person

at 2026-07-22 09:00, they were two people after all
  Nurse Bello calls person.UnmergePersons
    merged_person_id = $twin
    merge_id = $merge
  then carelead-$other records LedgerPersonChanged, LedgerReopened, ReviewTaskRaised
  then accountable is Lung clinic
  then accountable for $other is Chest clinic

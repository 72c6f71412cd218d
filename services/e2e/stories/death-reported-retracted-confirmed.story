Story: A death is reported, retracted, and in the end confirmed
# An informal report stops letters to the patient and nothing else. Only a formal
# notice ends accountability.

given a patient with a lead

at 2026-10-05 09:00, somebody told PDS that the patient died
  PDS feed calls person.NoteDeath
    person_id = $person
    status = 1
  then person records DeathReportedInformally
  then carelead records PatientNoticesStopped
  then accountable is Joy Okafor
  then carelead.GetLedger shows
    ledger.open = yes
    ledger.notices_stopped = NOTICE_SUPPRESSION_DEATH
  Joy Okafor calls carelead.CloseLedger
    pathway_id = $pathway
    reason = DIED
    evidence = said on the telephone
    refused carelead.end.reason_not_valid

at 2026-10-05 15:00, it was a mistake
  PDS feed calls person.NoteDeath
    person_id = $person
    status = U
  then person records DeathNotificationRetracted
  then carelead records PatientNoticesResumed
  then accountable is Joy Okafor
  then carelead.GetLedger shows
    ledger.notices_stopped = none

at 2027-02-01 09:00, the patient has died; now it is formal
  PDS feed calls person.NoteDeath
    person_id = $person
    status = 2
    died_on = 2027-01-30
  then person records DeathConfirmed
  then carelead records PatientNoticesStopped, LedgerClosed, ReviewTaskRaised
  then accountable is nobody
  then accountable at 2027-02-01 08:59 is Joy Okafor
  then carelead.GetLedger shows
    ledger.open = no
    ledger.close_reason = DIED
    ledger.tasks = bereavement
  then carelead.GetLead shows for lead_id = $joy
    lead.taken = 0

at 2027-02-03 09:00, even a formal notice can be wrong: the last holder has it again
  PDS feed calls person.NoteDeath
    person_id = $person
    status = U
  then carelead records PatientNoticesResumed, LedgerReopened, ReviewTaskDone
  then accountable is Joy Okafor
  then accountable at 2027-02-02 09:00 is nobody
  then carelead.GetLead shows for lead_id = $joy
    lead.taken = 1

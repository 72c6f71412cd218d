Story: A lead goes on leave without cover, and the pool that agreed in advance steps in
given a patient with a lead

at 2026-10-01 09:00, she books leave and arranges nobody
  Joy Okafor calls carelead.BookLeave
    lead_id = $joy
    starts = 2026-10-12 00:00
    ends = 2026-10-26 00:00
  then accountable is Joy Okafor

at 2026-10-12 08:00, her leave has begun
  then carelead records CoverMissing, ReviewTaskRaised, AccountabilityTransferred, PatientNoticeDue
  then accountable is Peckham duty pool
  then accountable at 2026-10-11 23:59 is Joy Okafor
  then carelead.GetLedger shows
    ledger.acting_for = Joy Okafor
    ledger.tasks = cover_missing
  then carelead.GetLead shows for lead_id = $joy
    lead.state = ON_LEAVE

at 2026-10-26 08:00, she is back and has it again
  then carelead records AccountabilityTransferred, PatientNoticeDue
  then accountable is Joy Okafor
  then accountable at 2026-10-25 12:00 is Peckham duty pool
  then carelead.GetLedger shows
    ledger.acting_for = none

Story: A lead goes on leave, and a colleague who agreed covers for her
given a patient with a lead

at 2026-10-01 09:00, she asks Sam Reid
  Joy Okafor calls carelead.BookLeave
    lead_id = $joy
    starts = 2026-10-12 00:00
    ends = 2026-10-26 00:00
  Joy Okafor calls carelead.ArrangeCover
    pathway_id = $pathway
    cover_lead_id = $sam
    starts = 2026-10-12 00:00
    ends = 2026-10-26 00:00
    keep cover = ledger.covers[0].cover_id
  then carelead records CoverArranged

at 2026-10-02 09:00, he agrees; nobody can agree for him
  Joy Okafor calls carelead.AcceptCover
    pathway_id = $pathway
    cover_id = $cover
    refused carelead.cover.not_addressee
  Sam Reid calls carelead.AcceptCover
    pathway_id = $pathway
    cover_id = $cover
  then carelead records CoverAccepted
  then accountable is Joy Okafor

at 2026-10-12 08:00
  then carelead records CoverStarted, AccountabilityTransferred, PatientNoticeDue
  then accountable is Sam Reid

at 2026-10-26 08:00
  then carelead records CoverEnded, AccountabilityTransferred, PatientNoticeDue
  then accountable is Joy Okafor
  then accountable at 2026-10-20 12:00 is Sam Reid

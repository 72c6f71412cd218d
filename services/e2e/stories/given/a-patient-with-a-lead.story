# The same patient, after the handover: Joy Okafor has accepted on 15 September
# 2026 and has made the first contact.

given a patient at the end of treatment

at 2026-09-14 09:00
  Nurse Bello calls carelead.OfferHandover
    pathway_id = $pathway
    kind = TO_LEAD
    lead_id = $joy
    summary_version = 1
    plan_version = 1
    keep handover = ledger.handover.handover_id

at 2026-09-15 09:30
  Joy Okafor calls carelead.AcceptHandover
    pathway_id = $pathway
    handover_id = $handover
    summary_version = 1
    plan_version = 1
  Joy Okafor calls carelead.RecordFirstContact
    pathway_id = $pathway
    made = yes
    on = 2026-09-15
    medium = TELEPHONE

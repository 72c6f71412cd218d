# Peckham's neighbourhood team serves the patient's practice. Its duty pool has
# agreed in advance to step in for a lead who is away, until September 2027.

Joy Okafor is user 555000401 in role R9801 of RYX
Sam Reid is user 555000402 in role R9815 of RYX
Manager Ward is user 555000403 in role R8008 of RYX
Peckham duty pool is pool PECKHAM-POOL of RYX
Alliance nurse Cole is user 555000501 in role R0600 of RRV

at 2026-07-06 08:00
  Manager Ward calls carelead.DefineNeighbourhood
    name = Peckham
    organisation = RYX
    practices = A81001, A81002
    manager = Manager Ward
    alliance_contact = Alliance nurse Cole
    keep neighbourhood = neighbourhood.neighbourhood_id
  Manager Ward calls carelead.AcceptFallback
    neighbourhood_id = $neighbourhood
    pool = Peckham duty pool
    until = 2027-09-01 00:00
    out_of_hours_message = Call 111 outside working hours
  Manager Ward calls carelead.RegisterLead
    party = Joy Okafor
    neighbourhood_ids = $neighbourhood
    languages = en, yo
    capacity = 20
    keep joy = lead.lead_id
  Manager Ward calls carelead.ActivateLead
    lead_id = $joy
  Manager Ward calls carelead.RegisterLead
    party = Sam Reid
    neighbourhood_ids = $neighbourhood
    languages = en
    capacity = 20
    keep sam = lead.lead_id
  Manager Ward calls carelead.ActivateLead
    lead_id = $sam

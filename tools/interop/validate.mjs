#!/usr/bin/env node
// Checks FHIR R4 resources with two validators of others. Input: NDJSON, on
// stdin or in files. Prints type, path and kind of each fault, never a value.
import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { check, finish } from './check.mjs'
import { asleep, flatten, validators } from './validators.mjs'

const blind = asleep()
check('the validators see planted faults', blind.length === 0, blind.join('; '))

const counts = {}
let line = 0
for (const input of process.argv.length > 2 ? process.argv.slice(2).map(f => createReadStream(f)) : [process.stdin]) {
  for await (const text of createInterface({ input, crlfDelay: Infinity })) {
    line++
    if (!text.trim()) continue
    let parsed
    try {
      parsed = JSON.parse(text)
    } catch {
      check(`line ${line} is JSON`, false)
      continue
    }
    for (const resource of flatten(parsed)) {
      const type = resource?.resourceType ?? 'no resourceType'
      const count = counts[type] ??= { read: 0, ...Object.fromEntries(Object.keys(validators).map(v => [v, 0])) }
      count.read++
      for (const [name, validate] of Object.entries(validators)) {
        const faults = validate(resource)
        if (faults.length === 0) count[name]++
        for (const f of faults.slice(0, 5)) console.log(`      line ${line} ${type} ${name} ${f.path}: ${f.message}`)
      }
    }
  }
}
for (const [type, c] of Object.entries(counts).sort()) {
  const each = Object.keys(validators).map(v => `${c[v]} pass ${v}`).join(', ')
  check(`${type}: ${c.read} read, ${each}`, Object.keys(validators).every(v => c[v] === c.read))
}
check('there were resources', Object.keys(counts).length > 0)
finish()

#!/usr/bin/env node
// Starts waymark dev --demo in a folder of its own, lets clients and validators
// of others try it, and stops it. `make interop` runs it.
//   INTEROP_PORT_OFFSET  added to every port (default 18000)
import { spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { within } from './check.mjs'

const here = dirname(fileURLToPath(import.meta.url))
const root = join(here, '..', '..')
const waymark = join(root, 'bin', 'waymark')
const offset = Number(process.env.INTEROP_PORT_OFFSET ?? 18000)
const data = mkdtempSync(join(tmpdir(), 'waymark-interop-'))
const testdata = join(root, 'services', 'edge', 'testdata')

const server = spawn(waymark, ['dev', '--demo', '--data', join(data, 'data'), '--port-offset', String(offset)], { stdio: ['ignore', 'pipe', 'pipe'] })
const ended = new Promise(resolve => server.on('exit', resolve))
const ready = new Promise((resolve, reject) => {
  server.on('exit', code => reject(new Error(`waymark dev ended with ${code} before it was ready`)))
  createInterface({ input: server.stdout }).on('line', line => {
    console.log('  | ' + line)
    if (line.startsWith('Ctrl-C stops it')) resolve() // its last line: everything answers
  })
})

// The rest of the demonstration comes after it is ready; what is read must stand still.
const seeded = new Promise(resolve => {
  createInterface({ input: server.stderr }).on('line', line => {
    console.log('  | ' + line)
    if (line.startsWith('the demonstration has')) resolve()
  })
})

let passed = 0, failed = 0
function run(name, script, ...args) {
  console.log(`-- ${name}`)
  return new Promise(resolve => {
    const child = spawn(process.execPath, [join(here, script), ...args.map(String)], { stdio: ['ignore', 'pipe', 'inherit'], timeout: 300_000 })
    let last = ''
    createInterface({ input: child.stdout }).on('line', line => { console.log(line); last = line }).on('close', () => {
      const count = /^(\d+) passed, (\d+) failed$/.exec(last)
      if (count) { passed += Number(count[1]); failed += Number(count[2]) }
      else { failed++; console.log(`FAIL  ${name} ended without a count`) }
      resolve()
    })
  })
}

try {
  await ready
  await run('HL7 v2 over MLLP, by node-hl7-client', 'hl7.mjs', 2575 + offset,
    ...readdirSync(testdata).filter(f => f.endsWith('.hl7')).sort().map(f => join(testdata, f)))
  await within(240_000, 'the demonstration', seeded)
  await run('FHIR R4 and BaRS over HTTP, by fhir-kit-client', 'fhir.mjs', `http://127.0.0.1:${7450 + offset}/fhir/R4`, waymark, `127.0.0.1:${7400 + offset}`)
} catch (e) {
  failed++
  console.log(`FAIL  ${e.message}`)
} finally {
  server.kill('SIGINT')
  const stuck = setTimeout(() => server.kill('SIGKILL'), 30_000)
  await ended
  clearTimeout(stuck)
  rmSync(data, { recursive: true, force: true })
}
console.log(`${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 && passed > 0 ? 0 : 1

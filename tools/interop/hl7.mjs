#!/usr/bin/env node
// Sends HL7 v2 over MLLP with a client of others and checks what is acknowledged.
//   node hl7.mjs PORT FILE...
// The files' messages must all be accepted; then messages made from the first one
// are sent that must be repeated, refused or not known.
import { readFileSync } from 'node:fs'
import { Client, Message } from 'node-hl7-client'
import { check, finish, within } from './check.mjs'

const [port, ...files] = process.argv.slice(2)
const client = new Client({ host: '127.0.0.1' })
let answered
const connection = client.createConnection({ port: Number(port), waitAck: true }, response => answered(response.getMessage()))
await within(10_000, 'connecting', new Promise(resolve => connection.on('connect', resolve)))

const segments = text => text.split(/\r\n|\r|\n/).filter(Boolean)
const split = text => segments(text).reduce((all, s) => (s.startsWith('MSH') ? all.push([s]) : all.at(-1)?.push(s), all), [])
async function send(text) {
  const answer = new Promise(resolve => { answered = resolve })
  await connection.sendMessage(new Message({ text: segments(text).join('\r') }))
  return within(15_000, 'an acknowledgement', answer)
}
const code = ack => ack.get('MSA.1').toString()

const first = {}
for (const file of files) {
  for (const [i, message] of split(readFileSync(file, 'utf8')).entries()) {
    const name = `${file.split('/').pop()}${i ? ` #${i + 1}` : ''}`
    const [msh] = message
    const f = msh.split(msh[3])
    const ack = await send(message.join('\r'))
    check(`${name} ${f[8]} is accepted`, code(ack) === 'AA', `${code(ack)} ${ack.get('ERR.5').toString()} at ${ack.get('ERR.7').toString()}`)
    check(`${name} the acknowledgement names the message and turns the addresses round`,
      ack.get('MSA.2').toString() === f[9] && ack.get('MSH.5').toString() === f[2] && ack.get('MSH.6').toString() === f[3] && ack.get('MSH.3').toString() === f[4])
    first[name] ??= { message, ack }
  }
}
check('there were messages', Object.keys(first).length > 0)

for (const [name, { message, ack }] of Object.entries(first)) {
  const again = await send(message.join('\r'))
  check(`${name} again gets the first answer`, again.toString() === ack.toString())
}

const base = Object.values(first)[0].message
const made = (n, change) => {
  const sep = base[0][3]
  const msh = base[0].split(sep)
  msh[9] = `INTEROP${n}`
  return change([msh.join(sep), ...base.slice(1)]).join('\r')
}
const withField = (message, segment, n, value) => message.map(s => {
  if (!s.startsWith(segment)) return s
  const f = s.split('|')
  while (f.length <= n) f.push('')
  f[segment === 'MSH' ? n - 1 : n] = value
  return f.join('|')
})
const cases = [
  ['a changed message under a new control id', m => m, 'AA', ''],
  ['an NHS number with a wrong check digit', m => withField(m, 'PID', 3, '9990000019^^^NHS'), 'AE', 'PID-3'],
  ['a birth date that does not exist', m => withField(m, 'PID', 7, '19611350'), 'AE', 'PID-7'],
  ['no PID segment', m => m.filter(s => !s.startsWith('PID')), 'AE', 'PID-3'],
  ['a type that nobody knows', m => withField(m, 'MSH', 9, 'ZZZ^Z99'), 'AR', 'MSH-9'],
  ['a version that nobody knows', m => withField(m, 'MSH', 12, '9.9'), 'AR', 'MSH-12'],
]
for (const [i, [name, change, want, field]] of cases.entries()) {
  const ack = await send(made(i, change))
  check(`${name} is answered ${want}${field ? ' and names ' + field : ''}`,
    code(ack) === want && ack.get('ERR.7').toString().startsWith(field), `${code(ack)} ${ack.get('ERR.5').toString()} at ${ack.get('ERR.7').toString()}`)
}
await connection.close()
client.closeAll()
finish()

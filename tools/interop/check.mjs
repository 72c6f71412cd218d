// What the scripts here share: a line for each check, and the count at the end.
let passed = 0, failed = 0

export function check(name, ok, detail = '') {
  if (ok) {
    passed++
    console.log(`ok    ${name}`)
  } else {
    failed++
    console.log(`FAIL  ${name}${detail ? ': ' + detail : ''}`)
  }
  return ok
}

// finish prints the count; a script that checked nothing has failed.
export function finish() {
  if (passed + failed === 0) check('something was checked', false)
  console.log(`${passed} passed, ${failed} failed`)
  process.exitCode = failed === 0 ? 0 : 1
}

// within rejects when a promise takes longer than ms.
export function within(ms, what, promise) {
  let timer
  return Promise.race([
    promise,
    new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`${what}: nothing for ${ms} ms`)), ms) }),
  ]).finally(() => clearTimeout(timer))
}

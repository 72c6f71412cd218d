#!/usr/bin/env bash
# Every check that is not a test, one line for each; the output of those that
# fail follows. Run it as `make check`, which installs what it needs first.
set -uo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C
tools=$PWD/bin/tools
passed=0 failed=0

check() { # check NAME COMMAND...
  local name=$1 start=$SECONDS out; shift
  if out=$("$@" 2>&1); then
    passed=$((passed + 1)); printf 'ok    %-52s %4d s\n' "$name" $((SECONDS - start))
  else
    failed=$((failed + 1)); printf 'FAIL  %-52s %4d s\n%s\n' "$name" $((SECONDS - start)) "$out"
  fi
}

formatted() { # gofmt says nothing; every Go file outside generated code and downloads
  local out
  out=$(git ls-files -co --exclude-standard '*.go' | grep -v '\.pb\.go$' | xargs gofmt -l) || return 1
  [ -z "$out" ] || { echo "not gofmt-ed (gofmt -w does it):"; echo "$out"; return 1; }
}
linted() { # lint MODULE
  cd "$1" && "$tools/staticcheck" ./...
}
generated() { # make gen changes nothing
  local before after
  before=$(fingerprint)
  make -s gen || return 1
  after=$(fingerprint)
  [ "$before" = "$after" ] || { echo "generated code was not what the contracts say; it is now: commit it"; git status --short proto services/edge/fhir; return 1; }
}
fingerprint() {
  find proto services -name '*.pb.go' -o -name '*_gen.go' | sort | while read -r f; do echo "$f $(git hash-object "$f")"; done
}
contracts() { cd proto && ../tools/node_modules/.bin/buf lint; }
alone() { # MODULE builds and vets outside the workspace, as others who import it see it
  cd "$1" && GOWORK=off go build ./... && GOWORK=off go vet ./...
}
scripts() {
  bash -n .ci/run && for f in tools/*.sh; do bash -n "$f" || return 1; done
  for f in tools/interop/*.mjs; do node --check "$f" || return 1; done
}
plain() { # nothing of one machine or one author's tools is committed
  local bad
  bad=$(git grep -nIE '(^|[^A-Za-z0-9._-])/(work|home|root|Users)/[A-Za-z]' -- . ':!tools/check.sh' ':!*.sum' ':!tools/package-lock.json')
  [ -z "$bad" ] || { echo "paths of one machine:"; echo "$bad"; return 1; }
}

check "gofmt" formatted
check "go vet, both modules" go vet work
check "services builds with GOWORK=off" alone services
check "proto builds with GOWORK=off" alone proto
check "tools builds with GOWORK=off" alone tools
check "staticcheck services" linted services
check "staticcheck proto" linted proto
check "buf lint" contracts
check "make gen leaves no difference" generated
check "scripts parse" scripts
check "no path of one machine" plain
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]

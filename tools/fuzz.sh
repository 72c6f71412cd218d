#!/usr/bin/env bash
# Runs every fuzz target of the tree for FUZZTIME (10000 inputs) each, FUZZJOBS (2)
# at once with one worker each. FUZZTIME may be a time, such as 10m; but go then
# fails a target now and then with "context deadline exceeded", when the time ends
# between two inputs. Targets are found, never listed:
# none found is a failure. A failing input is written beside its test, in testdata/fuzz. Coverage
# of targets with a server behind them wavers, and go would spend the whole time
# on making "interesting" inputs smaller: fuzzminimizetime bounds that.
set -uo pipefail
cd "$(dirname "$0")/.."
export FUZZTIME=${FUZZTIME:-10000x}
jobs=${FUZZJOBS:-2}
out=$(mktemp -d); trap 'rm -rf "$out"' EXIT
export out

targets=$(grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' proto services | sed -E 's#^(.*)/[^/]*:[0-9]+:func (.*)#\1 \2#' | sort -u)
[ -n "$targets" ] || { echo "no fuzz target found: that is a failure"; echo "0 passed, 1 failed"; exit 1; }

# One instrumented binary for each package; go test would build it for each target.
echo "$targets" | cut -d' ' -f1 | sort -u | while read -r dir; do
  name=$(echo "$dir" | tr / _)
  go -C "$dir" test -c -fuzz=. -o "$out/$name.test" . >"$out/$name.build" 2>&1 || cat "$out/$name.build"
done

one() { # one DIR TARGET
  local name; name=$(echo "$1" | tr / _)
  if (cd "$1" && "$out/$name.test" -test.run='^$' -test.fuzz="^$2\$" -test.fuzztime="$FUZZTIME" \
      -test.parallel=1 -test.fuzzminimizetime=10x -test.fuzzcachedir="$out/corpus/$name") >"$out/$name.$2.log" 2>&1; then
    execs=$(grep -oE 'execs: [0-9]+' "$out/$name.$2.log" | tail -1 | cut -d' ' -f2)
    if [ "${execs:-0}" -gt 0 ]; then echo "ok    $1 $2: $execs inputs"; else echo "FAIL  $1 $2: tried no input"; fi
  else
    echo "FAIL  $1 $2"; sed 's/^/      /' "$out/$name.$2.log"
  fi
}
export -f one
echo "$targets" | xargs -P "$jobs" -L 1 bash -c 'one "$@"' _ | tee "$out/result"
passed=$(grep -c '^ok' "$out/result"); failed=$(($(echo "$targets" | wc -l) - passed))
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]

#!/usr/bin/env bash
# Runs the long fault tests, each with its control, and prints one line of what
# each has shown; the last line counts. SOAK_ROUNDS=small takes a few minutes.
# What cannot run here (the power cut and the full disk need root) is named.
set -uo pipefail
cd "$(dirname "$0")/../services"
out=$(mktemp); trap 'rm -f "$out"' EXIT
tty=; [ ! -t 2 ] || tty=1 # people are shown the name of what runs
soak() { # soak PACKAGE PATTERN [TAG]
  go test -tags "${3-soak}" -count=1 -timeout 60m -run "$2" -v "$1" 2>&1 | tee -a "$out" | while IFS= read -r line; do
    [ -z "$tty" ] || printf '\r\033[K' >&2
    case $line in
    '=== RUN '*) [ -z "$tty" ] || printf '%s ' "${line##* }" >&2 ;;
    '=== '* | PASS | 'ok  '* | '--- PASS'* | *' --- PASS'*) ;;
    *) [[ ! $line =~ ^\ +[a-z_]+_test\.go:[0-9]+:\ (.*) ]] || line=${BASH_REMATCH[1]}; printf '%s\n' "$line" ;;
    esac
  done
}
soak ./eventstore '^TestSoak'
soak ./bench '^TestSoak'
soak ./kit/run '^TestOutage'
bus=soak; [ "${SOAK_ROUNDS:-}" != small ] || bus= # its tag makes twenty times the events
soak ./kit/bus '^(TestThreeRelays|TestZombies|TestRelayFaults|TestRebuildUnderConsumers|TestConsumerCrash)$' "$bus"
soak ./allinone '^TestKillAndStartAgain$'
passed=$(grep -cE '^--- PASS: ' "$out"); failed=$(grep -cE '^(--- FAIL: |FAIL[[:space:]].*\[)' "$out"); absent=$(grep -cE ' NOT RUN: ' "$out")
echo "soak: $((passed - absent)) rounds passed, $failed failed, $absent not run here"
[ "$failed" -eq 0 ] && [ "$passed" -gt "$absent" ]

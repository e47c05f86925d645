#!/usr/bin/env bash
# mixed.test.sh: does examples/mixed run each of its tasks on the lane that its kind asks for?
# SHUNT_EXAMPLES names the directory of the built examples (default: build/examples; in build/, examples).
set -euo pipefail

examples=${SHUNT_EXAMPLES:-build/examples}
[ -x "$examples/mixed" ] || examples=examples
fail() {
  echo "FAILED: $*" >&2
  exit 1
}
[ -x "$examples/mixed" ] || fail 'there is no mixed; run make, or set SHUNT_EXAMPLES'

output=$("$examples/mixed") || fail "exit status $?"
echo "$output"

expect() { grep -qE "^$1 +[0-9]+\.[0-9] ms +$2\$" <<<"$output" || fail "expected: $1, and: $2"; }
expect loop 'waited without a thread'
expect thread 'blocked a thread'
expect process 'counted 78498 primes below 1000000'
[ "$(wc -l <<<"$output")" = 3 ] || fail 'expected 3 lines'

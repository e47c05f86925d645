#!/usr/bin/env bash
# mixed.test.sh: does examples/mixed run each of its tasks on the lane that its kind asks for?
# SHUNT_EXAMPLES names the directory of the built examples (default: build/examples, or examples when run in build/).
set -euo pipefail

examples=${SHUNT_EXAMPLES:-build/examples}
[ -x "$examples/mixed" ] || examples=examples
[ -x "$examples/mixed" ] || { echo "no mixed in build/examples or examples: run make, or set SHUNT_EXAMPLES" >&2; exit 1; }

status=0
output=$("$examples/mixed") || status=$?
echo "$output"

expect() { grep -qE "^$1 +[0-9]+\.[0-9] ms +$2\$" <<<"$output" || { echo "expected a line: $1 … ms $2" >&2; exit 1; }; }

[ "$status" = 0 ] || { echo "mixed: exit status $status" >&2; exit 1; }
expect loop 'waited without a thread'
expect thread 'blocked a thread'
expect process 'counted 78498 primes below 1000000'
[ "$(wc -l <<<"$output")" = 3 ] || { echo "expected 3 lines" >&2; exit 1; }

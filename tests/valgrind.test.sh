#!/usr/bin/env bash
# valgrind finds no leak and no error in examples/mixed: fibers, threads and a worker process, start to stop.
set -euo pipefail

examples=${SHUNT_EXAMPLES:-examples}
if ! command -v valgrind >/dev/null; then echo "skipped: valgrind is not installed (Debian: valgrind)"; exit 77; fi
if [ -n "${SANITIZERS-}" ]; then echo "skipped: valgrind does not run a build with $SANITIZERS"; exit 77; fi

kinds=definite,indirect,possible
log=$(mktemp)
trap 'rm -f "$log"' EXIT
./libtool --mode=execute valgrind --quiet --child-silent-after-fork=yes --leak-check=full \
  --show-leak-kinds=$kinds --errors-for-leak-kinds=$kinds --error-exitcode=99 "$examples/mixed" >"$log" 2>&1 ||
  { cat "$log"; exit 1; }
grep -q '^process .* counted 78498 primes' "$log" || { cat "$log"; exit 1; }

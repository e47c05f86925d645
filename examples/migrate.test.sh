#!/usr/bin/env bash
# migrate.test.sh: does every step of examples/migrate give the same answers, and wait for as many sources?
# Prints what each takes while it waits for all of them: docs/migrating.md has these figures.
# SHUNT_EXAMPLES names the directory of the built examples (default: build/examples; in build/, examples).
set -euo pipefail
export LC_ALL=C

examples=${SHUNT_EXAMPLES:-build/examples}
[ -x "$examples/migrate/step0" ] || examples=examples
[ -x "$examples/migrate/step0" ] || { echo 'FAILED: there is no migrate/step0; run make first' >&2; exit 1; }
steps=$(realpath "$examples/migrate")

# As many descriptors as we may have: a source takes one, and in step 2 the thread that waits for it another.
ulimit -Sn "$(ulimit -Hn)"
limit=$(ulimit -n)
many=2000
[ -z "${SANITIZERS-}" ] || many=200
if [ "$limit" != unlimited ] && [ "$limit" -lt $((2 * many + 100)) ]; then many=$((limit / 2 - 50)); fi

sources=$(realpath "$(dirname "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
failures=0

fail() {
  echo "FAILED: step $step: $*"
  sed 's/^/    out: /' stdout
  sed 's/^/    err: /' stderr
  failures=$((failures + 1))
}

# tally STATUS ARGUMENT...: runs the step, keeps what it prints, and wants that exit status.
tally() {
  local wanted=$1 status=0
  shift
  "$steps/step$step" "$@" >stdout 2>stderr </dev/null || status=$?
  [ "$status" = "$wanted" ] || fail "exit status $status instead of $wanted"
}

# says SOURCE LINES MATCHING...: that, in this order, and nothing else.
says() {
  printf '%8d lines %8d matching  %s\n' "$@" >wanted
  diff wanted stdout || fail 'wrong answer'
}
complains() { grep -qiE -- "^tally: $1" stderr || fail "expected on stderr: tally: $1"; }

# ---- the same input, the same output -----------------------------------------------------------------------

seq 50000 >large
: >empty
printf 'error\nfine\nno end of line, but an error' >unfinished
head -c 40000 /dev/zero | tr '\0' x >long # two blocks and a piece
printf '%s\n' {1..4000}' error' >errors

answers() {
  tally 0 'error|^1' large empty unfinished long errors
  says 50000 11111 large 0 0 empty 3 2 unfinished 3 0 long 4000 4000 errors
  [ ! -s stderr ] || fail 'nothing was wrong'

  # Lines that come in pieces, from several programs at once.
  tally 0 a.b <(printf 'a-'; /bin/printf 'b\nab'; /bin/printf '\n') <(cat large errors) <(:)
  sed -i 's| /dev/fd/.*| pipe|' stdout
  says 2 1 pipe 54000 0 pipe 0 0 pipe
}

mistakes() {
  tally 1
  complains 'usage: tally PATTERN SOURCE\.\.\.'
  tally 1 x
  complains 'usage'
  tally 1 '(' large
  complains '\(: Unmatched \('
  tally 1 error nowhere errors . # and the others all the same
  complains 'nowhere: no such file or directory'
  complains '\.: .*directory'
  says 4000 4000 errors
  if [ -e /dev/full ]; then
    "$steps/step$step" error errors 2>stderr >/dev/full && fail 'did not notice a full disk'
    complains 'standard output: no space left on device'
  fi
}

# ---- many that wait ----------------------------------------------------------------------------------------

# A program that has each pipe open, has sent a line and a half, and finishes when told to.
hold='for pipe; do exec {fd}<>"$pipe"; printf "an error\nand an " >&"$fd"; fds+=("$fd"); done
echo ready; read -r
for fd in "${fds[@]}"; do echo error >&"$fd"; done'

in_status() { awk -v "key=$1:" '$1 == key { print $2 }' "/proc/$pid/status" 2>/dev/null || echo 0; }
opened() { find "/proc/$pid/fd" -lname "$work/pipe*" 2>/dev/null | wc -l; }

waiting() {
  local status=0 ready threads pid holding
  coproc holder { exec bash -c "$hold" hold "${pipes[@]}"; }
  holding=$holder_PID
  read -r ready <&"${holder[0]}" || fail "$ready: the pipes could not be had"
  "$steps/step$step" error "${pipes[@]}" >stdout 2>stderr </dev/null &
  pid=$!
  until [ "$(opened)" = "$many" ]; do
    kill -0 "$pid" || { fail "it ended with only $(opened) of $many open"; break; }
    ((SECONDS < 250)) || { fail "only $(opened) of $many were open"; kill "$pid"; break; }
  done
  threads=$(in_status Threads)
  printf 'step %d: %d sources waiting, %4d threads, %4d descriptors, %d KB, page tables of %d KB\n' "$step" \
    "$many" "$threads" "$(find "/proc/$pid/fd" -type l | wc -l)" "$(in_status VmRSS)" "$(in_status VmPTE)"
  echo go >&"${holder[1]}"
  wait "$pid" || status=$?
  wait "$holding"
  [ "$status" = 0 ] || fail "exit status $status"
  says "${many_answers[@]}"
  if [ "$step" -ge 3 ] && [ "$threads" -gt $((many / 4)) ]; then fail "$threads threads"; fi
}

mapfile -t pipes < <(seq -f "$work/pipe%04g" "$many")
mkfifo "${pipes[@]}"
for pipe in "${pipes[@]}"; do many_answers+=(2 2 "$pipe"); done

for step in 0 1 2 3 4; do
  answers
  mistakes
  waiting
done

# ---- what the documentation shows --------------------------------------------------------------------------

# Its differences are those of the files, but for the line in each that names the step.
shown() { sed -n '/^```diff$/,/^```$/ { /^[-+]/p }' "$sources/../docs/migrating.md"; }
differences() {
  local i
  for i in 0 1 2 3; do
    diff -U0 "$sources/migrate/step$i.c" "$sources/migrate/step$((i + 1)).c" || true
  done | grep '^[-+]' | grep -vE '^(---|\+\+\+) |^. \* docs/'
}
if ! diff <(differences) <(shown); then
  echo 'FAILED: docs/migrating.md does not show what differs'
  failures=$((failures + 1))
fi

[ "$failures" = 0 ] || { echo "$failures failures"; exit 1; }
echo 'all is well'

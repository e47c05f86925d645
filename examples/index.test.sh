#!/usr/bin/env bash
# index.test.sh: does examples/index find what is there, name what is not right, and leave nothing behind?
# SHUNT_EXAMPLES names the directory of the built examples (default: build/examples; in build/, examples).
# What a machine does not allow (mounting, another user, no sqlite3 program) is skipped, and said so.
set -euo pipefail
export LC_ALL=C

examples=${SHUNT_EXAMPLES:-build/examples}
[ -x "$examples/index" ] || examples=examples
[ -x "$examples/index" ] || { echo "index was not built: it needs zlib and SQLite"; exit 77; }
index=$(realpath "$examples/index")

work=$(mktemp -d)
tree=$work/tree db=$work/out/test.db
clean_up() {
  if mountpoint -q "$work/small" 2>/dev/null; then umount "$work/small"; fi
  rm -rf "$work"
}
trap clean_up EXIT
chmod 755 "$work"
mkdir "$work/out" "$tree"
failures=0

# ---- how to ask --------------------------------------------------------------------------------------------

fail() {
  echo "FAILED: $*"
  sed 's/^/    out: /' "$work/stdout"
  sed 's/^/    err: /' "$work/stderr"
  failures=$((failures + 1))
}

# run STATUS COMMAND...: runs it, keeps what it prints, and wants that exit status.
run() {
  local wanted=$1 status=0
  shift
  "$@" >"$work/stdout" 2>"$work/stderr" </dev/null || status=$?
  [ "$status" = "$wanted" ] || fail "${*/#$index/index}: exit status $status instead of $wanted"
}

says() { grep -qF -- "$1" "$work/stdout" || fail "expected on stdout: $1"; }
complains() { grep -qF -- "$1" "$work/stderr" || fail "expected on stderr: $1"; }
nothing_left() {
  [ -z "$(find "$work/out" -name '*.part' -o -name '*.again')" ] || fail 'temporary files are left'
}

# much TEXT BYTES: the same line again and again. (yes ends by SIGPIPE, which is no failure here.)
much() { (set +o pipefail; yes "$1" | head -c "$2"); }

# finds WORD LINE...: --find WORD prints these lines, "COUNT PATH" each, in this order.
finds() {
  local word=$1
  shift
  run 0 "$index" --out "$db" --find "$word"
  sed "s|^ *||; s|  $tree/| |" "$work/stdout" >"$work/got"
  diff <(printf '%s\n' "$@") "$work/got" || fail "--find $word"
}

# ---- a tree with everything in it --------------------------------------------------------------------------

mkdir -p "$tree/sub/deeper" "$tree/odd"
printf 'alpha beta beta, Gamma_1! ALPHA; a x\n' >"$tree/plain.txt"
printf 'alpha alpha alpha' | gzip >"$tree/sub/packed.gz"
printf 'beta' >"$tree/sub/deeper/leaf"
printf 'alpha\0hidden' >"$tree/sub/binary"
: >"$tree/empty"
printf '\303\204pfel und \303\204pfel' >"$tree/sub/utf8"
for name in 'two words' $'new\nline' "quo'te" 'dou"ble' $'\303\274ml' '-dash' '%s' '\'; do
  printf 'oddity' >"$tree/odd/$name"
done
much 'large text' 5000000 >"$tree/large"
ln -s plain.txt "$tree/link"
ln -s . "$tree/loop"
ln -s /nowhere "$tree/dangling"
mkfifo "$tree/pipe"
good=$(find "$tree" -type f -printf . | wc -c)

run 0 "$index" --out "$db" --compare "$tree"
says "$good files, "
says 'both indexes are equal'
for lane in loop thread process; do says "$lane "; done
grep -q skipped "$work/stdout" "$work/stderr" && fail 'nothing was to be skipped'
nothing_left

finds alpha '3 sub/packed.gz' '2 plain.txt'
finds BETA '2 plain.txt' '1 sub/deeper/leaf'
finds gamma_1 '1 plain.txt'
finds $'\303\204pfel' '2 sub/utf8'
finds large "$((4194304 / 11)) large" # in the first 4 MiB
run 0 "$index" --out "$db" --find oddity
[ "$(grep -c '^ *1  ' "$work/stdout")" = 8 ] || fail 'not all odd names were found'
says 'odd/two words'
run 1 "$index" --out "$db" --find hidden
complains 'hidden: in no file'

# A directory within another, or named twice, makes no file count twice.
run 0 "$index" --out "$db" "$tree/sub" "$tree" "$tree/./odd" "$tree"
says "$good files, "
finds alpha '3 sub/packed.gz' '2 plain.txt'

# More than fit: the first 20 of 25.
mkdir "$work/many"
for i in {1..25}; do much plenty $((7 * i)) >"$work/many/$i"; done
run 0 "$index" --out "$db" "$work/many"
run 0 "$index" --out "$db" --find plenty
[ "$(head -n 1 "$work/stdout")" = "      25  $work/many/25" ] || fail 'the most frequent is not the first'
[ "$(wc -l <"$work/stdout")" = 20 ] || fail 'not 20 lines'
complains 'the first 20 of 25 files'

# The index itself is left out.
mkdir "$work/here"
echo local >"$work/here/file"
for _ in first again; do
  run 0 env -C "$work/here" "$index" --compare .
  says '1 files, '
done

# ---- SHA-256, by comparison with sha256sum -----------------------------------------------------------------

mkdir "$work/sha"
for size in 0 1 3 55 56 57 63 64 65 119 120 127 128 1000 100000; do
  much 'a b' "$size" >"$work/sha/$size"
done
much abc 70000 | gzip >"$work/sha/packed.gz"
run 0 "$index" --out "$work/out/sha.db" "$work/sha"
if command -v sqlite3 >/dev/null; then
  sqlite3 "$work/out/sha.db" "SELECT lower(hex(sha256)) || '  ' || path FROM files ORDER BY path" >"$work/got"
  for file in "$work"/sha/*; do
    gzip -dcf "$file" | sha256sum | sed "s|-|$file|"
  done >"$work/wanted"
  diff "$work/wanted" "$work/got" || fail 'wrong SHA-256'
else
  echo 'skipped: SHA-256 (no sqlite3 program to read the index with)'
fi

# ---- bad input ---------------------------------------------------------------------------------------------

run 0 "$index" --help
says 'usage: index'
run 2 "$index" --nonsense
complains "unrecognized option '--nonsense'"
run 2 "$index" --out
run 2 "$index" --out "$db" "$work/nowhere"
complains "$work/nowhere: no such file or directory"
run 2 "$index" --out "$db" "$tree/plain.txt"
complains 'plain.txt: not a directory'
run 2 "$index" --out "$work/nowhere/x.db" "$tree"
complains 'x.db: no such file or directory'
run 2 "$index" --out "$tree" "$tree"
complains 'not an index made by this program'
run 2 "$index" --out "$tree/plain.txt" "$tree"
complains 'plain.txt: not an index made by this program'
grep -q 'alpha beta beta' "$tree/plain.txt" || fail 'a foreign file was overwritten'
run 2 "$index" --out /dev/null "$tree"
complains '/dev/null: not an index'
run 2 "$index" --out "$work/missing.db" --find alpha
complains 'missing.db: no such index'
run 2 "$index" --out "$tree/plain.txt" --find alpha
complains 'not an index made by this program'
run 2 "$index" --out "$db" --find 'two words'
complains 'takes one word'
run 2 "$index" --out "$db" --find alpha "$tree"
run 2 "$index" --out "$db" --find alpha --compare
if [ -e /dev/full ]; then
  run 2 bash -c '"$1" --out "$2" --find plenty >/dev/full' - "$index" "$db"
  complains 'standard output: no space left on device'
fi

mkdir "$work/bad"
printf 'good text' >"$work/bad/good"
head -c 100000 /dev/urandom | gzip >"$work/whole.gz"
head -c 50000 "$work/whole.gz" >"$work/bad/short.gz"
{ head -c -8 "$work/whole.gz"; printf 'notitscrc'; } >"$work/bad/wrong.gz"
echo 'not packed' >"$work/bad/fake.gz"
run 0 "$index" --out "$db" --compare "$work/bad"
says '1 files, '
says '3 skipped'
says 'both indexes are equal'
complains "skipped $work/bad/short.gz: damaged .gz: it ends too early"
complains "skipped $work/bad/wrong.gz: damaged .gz"
complains "skipped $work/bad/fake.gz: damaged .gz"

# Root may read everything, so this is for somebody else.
other=()
if [ "$(id -u)" = 0 ]; then other=(setpriv --reuid=65534 --regid=65534 --clear-groups); fi
mkdir "$work/closed" "$work/closed/dir" "$work/open"
chmod 777 "$work/open"
echo text | tee "$work/closed/file" >"$work/closed/secret"
chmod 000 "$work/closed/secret" "$work/closed/dir"
if "${other[@]}" "$index" --help >/dev/null 2>&1; then
  run 0 "${other[@]}" "$index" --out "$work/open/x.db" "$work/closed"
  complains "skipped $work/closed/secret: permission denied"
  complains "skipped $work/closed/dir: permission denied"
  says '1 files, '
  says '2 skipped'
else
  echo 'skipped: unreadable files (root, and cannot run the example as another user)'
fi

# ---- what happens in the middle of a run -------------------------------------------------------------------

# Many names for one file of many words: seconds of work, and little disk.
mkdir "$work/long" "$work/short"
head -c 1000000 /dev/urandom | base64 -w 9 >"$work/words"
for i in {1..60}; do ln "$work/words" "$work/long/$i"; done
for i in {1..6}; do ln "$work/words" "$work/short/$i"; done

# start COMMAND...: runs it in the background as $pid, and returns once it reports progress.
start() {
  rm -f "$work/errors"
  mkfifo "$work/errors"
  "$@" >"$work/stdout" 2>"$work/errors" </dev/null &
  pid=$!
  exec 3<"$work/errors"
  read -r -t 60 line <&3 || fail "no progress within a minute: $*"
  echo "$line" >"$work/stderr"
}

# finish STATUS
finish() {
  local status=0
  cat <&3 >>"$work/stderr"
  wait "$pid" || status=$?
  [ "$status" = "$1" ] || fail "exit status $status instead of $1"
}

run 0 "$index" --out "$db" "$work/many"
for signal in INT:130 TERM:143; do
  start "$index" --out "$db" "$work/long"
  kill -"${signal%:*}" "$pid"
  finish "${signal#*:}"
  complains 'test.db: interrupted'
  nothing_left
done
run 0 "$index" --out "$db" --find plenty # the old index is as it was

# The workers are no children of ours, but they have our environment.
kill_workers() {
  local process
  for process in /proc/[0-9]*; do
    [ "$(cat "$process/comm" 2>/dev/null)" = shunt-worker ] || continue
    grep -qF "INDEX_TEST=$work" "$process/environ" 2>/dev/null || continue
    kill -KILL "${process#/proc/}" && killed=$((killed + 1))
  done
}

# A killed worker's text is done again by another.
killed=0
INDEX_TEST=$work "$index" --out "$db" --compare "$work/short" >"$work/stdout" 2>"$work/stderr" </dev/null &
pid=$!
while [ "$killed" = 0 ] && kill -0 "$pid" 2>/dev/null; do kill_workers; done
status=0
wait "$pid" || status=$?
[ "$status" = 0 ] || fail "exit status $status after $killed workers were killed"
[ "$killed" -gt 0 ] || fail 'found no worker to kill'
says '6 files, '
says 'both indexes are equal'

# ---- a full disk -------------------------------------------------------------------------------------------

mkdir "$work/small"
if mount -t tmpfs -o size=1m tmpfs "$work/small" 2>/dev/null; then
  run 2 "$index" --out "$work/small/x.db" "$work/short"
  complains 'x.db: database or disk is full'
  [ -z "$(ls -A "$work/small")" ] || fail 'temporary files are left on the full disk'
  run 0 "$index" --out "$work/small/x.db" "$work/many"
else
  echo 'skipped: full disk (may not mount one)'
fi

[ "$failures" = 0 ] || { echo "$failures failures"; exit 1; }
echo 'all is well'

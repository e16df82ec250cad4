#!/bin/sh
# tools/train/zoo.sh TEXT.bz2 TOKENIZER.json WORK [SECONDS] - trains every model of family.py on one GPU, PROCS (4) at a time,
# TOKENS (30000000) each, until SECONDS (540) are over; a second call goes on. NAMES are the models, all of them otherwise.
# Prints what is done.
set -eu
[ $# -ge 3 ] || { sed -n '2,4s/^# //p' "$0"; exit 1; }
here=$(dirname "$0")
text=$1
tokenizer=$2
work=$3
end=$(($(date +%s) + ${4:-540}))
mkdir -p "$work/out"
if [ ! -s "$work/names" ]; then
    # a mechanism whose torch form differs from the reference is not trained
    # shellcheck disable=SC2086  # a list
    python3 "$here/family.py" check ${NAMES:-} | tee "$work/check.log" || true
    sed -n 's/^agree: //p' "$work/check.log" | tr ' ' '\n' >"$work/names.part"
    mv "$work/names.part" "$work/names"
fi
[ -s "$work/data/train.npy" ] || python3 "$here/family.py" data "$text" "$tokenizer" "$work/data"
worker() {
    while read -r name; do
        [ "$(date +%s)" -lt "$end" ] || break
        mkdir "$work/lock-$name" 2>/dev/null || continue
        python3 "$here/family.py" train "$name" "$work/data" "$work/out" "${TOKENS:-30000000}" >"$work/$name.log" 2>&1 ||
            { tail -n 3 "$work/$name.log"; }
    done <"$work/names"
}
i=0
while [ "$i" -lt "${PROCS:-4}" ]; do
    worker &
    i=$((i + 1))
done
wait
cat "$work"/out/*/result.json 2>/dev/null | sed 's/}/}\n/g'

#!/bin/sh
# tools/measure.sh MODEL OUT_DIR [SECONDS] - every figure of docs/performance.md for one model on this machine, as JSON
# files of latent-bench in OUT_DIR, most wanted first; what does not fit into SECONDS (default 1200) is left out.
# Files that are there already are kept, so that a second run goes on where the first ended. Plots come
# from them by tools/plot.mjs. LATENT_BENCH names the program, build/latent-bench otherwise; THREADS is how many
# threads it uses where they are not what is measured.
# shellcheck disable=SC2086  # $on is no word or two
set -eu
[ $# -ge 2 ] || { sed -n '2,6s/^# //p' "$0"; exit 1; }
model=$1
out=$2
limit=${3:-1200}
bench=${LATENT_BENCH:-$(dirname "$0")/../build/latent-bench}
on=${THREADS:+--threads $THREADS}
end=$(($(date +%s) + limit))
mkdir -p "$out"
{
    date -u +%Y-%m-%dT%H:%MZ
    uname -mr
    grep -m 1 'model name' /proc/cpuinfo || true
    echo "processors $(nproc), transparent huge pages $(cat /sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null || echo none)"
    git -C "$(dirname "$0")" rev-parse HEAD 2>/dev/null || true
} >"$out/machine.txt"

# NAME MODE ARGS...: OUT_DIR/NAME.json
take() {
    name=$1
    mode=$2
    shift 2
    [ -s "$out/$name.json" ] && return
    left=$((end - $(date +%s)))
    [ "$left" -gt 0 ] || { echo "left out: $name"; return; }
    begin=$(date +%s)
    if timeout "$left" "$bench" "$mode" --json "$@" >"$out/$name.part" 2>"$out/$name.err"; then
        mv "$out/$name.part" "$out/$name.json"
        rm -f "$out/$name.err"
        echo "$name: $(($(date +%s) - begin)) s"
    else
        rm -f "$out/$name.part"
        echo "failed or out of time: $name $(head -n 1 "$out/$name.err")"
    fi
}

# The table of one level; NAME is part of the files' names.
table() {
    suffix=$1
    shift
    take "decode$suffix" decode --model "$model" $on --context 0,6144 --repeat 5 --profile "$@"
    take "prefill$suffix" prefill --model "$model" $on --tokens 512 --context 0,6144 --repeat 3 --profile "$@"
    take "batch$suffix" decode --model "$model" $on --batch 16 --context 1024 --repeat 3 --profile "$@"
    take "shared$suffix" shared --model "$model" $on --batch 16 --shared 8192 --repeat 3 --profile "$@"
}

levels=generic
for level in avx2 avx512 amx neon; do
    # a level that cannot run is refused before anything is measured
    "$bench" kernels --cpu "$level" --kernel rms_norm --repeat 1 --json >/dev/null 2>&1 && levels="$level $levels"
done
best=${levels%% *}

table ""
for level in $levels; do
    [ "$level" = "$best" ] || [ "$level" = generic ] || table "-$level" --cpu "$level"
done
counts=
n=1
while [ "$n" -le "$(nproc)" ]; do
    counts="${counts:+$counts,}$n"
    n=$((2 * n))
done
take attention kernels --kernel attention
take threads-decode decode --model "$model" --threads "$counts" --repeat 3
take threads-prefill prefill --model "$model" --tokens 512 --threads "$counts" --repeat 3
take context decode --model "$model" $on --context 0,512,1024,2048,4096,8192,16384 --repeat 3
take sequences decode --model "$model" $on --batch 1,2,4,8,16,32 --context 1024 --repeat 2
take prompts prefill --model "$model" $on --tokens 512 --context 0,1024,2048,4096,8192,16384 --repeat 2
take prefixes shared --model "$model" $on --batch 1,2,4,8,16,32 --shared 8192 --repeat 2
take threads-batch decode --model "$model" --batch 16 --context 1024 --threads "$counts" --repeat 2
for type in $("$bench" --help | sed -n 's/^ *--cache-type \(.*\) (the first).*/\1/p' | cut -d ' ' -f 3-); do
    take "context-$type" decode --model "$model" $on --context 0,6144,16384 --cache-type "$type" --repeat 3
done
take serve serve --model "$model" $on --batch 1,8 --context 256 --tokens 64 --repeat 3
take kernels kernels

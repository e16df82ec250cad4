#!/bin/sh
# latent-convert as a program: options, exit statuses, plans, damaged files, an interrupted run. TAP.
# shellcheck disable=SC2317 # functions are called through check
set -eu
top=${top_srcdir:-$(dirname "$0")/../..}
convert=${top_builddir:-.}/latent-convert
folder=$top/tests/data/hf/deepseek_v3
dir=$(mktemp -d ./t_cli.XXXXXX)
trap 'rm -rf "$dir"' EXIT
n=0
failed=0

check() { # NAME COMMAND...: passes when the command does
    n=$((n + 1))
    name=$1
    shift
    if "$@" >"$dir/log" 2>&1; then
        echo "ok $n - $name"
    else
        echo "not ok $n - $name"
        sed 's/^/# /' "$dir/log" "$dir/out" | head -n 20
        failed=1
    fi
}

run() { # STATUS ARGUMENTS...: the program ends with this status
    want=$1
    shift
    status=0
    "$convert" "$@" >"$dir/out" 2>"$dir/err" || status=$?
    cat "$dir/err"
    [ "$status" -eq "$want" ]
}
says() { grep -q -e "$1" "$dir/out" "$dir/err"; }
left_behind() { find "$dir" -name '*.tmp*' | grep -q .; }

helps() { run 0 --help && says 'to-gguf' && run 0 --version; }
check "--help and --version" helps

# /dev/full takes nothing
told() { [ ! -e /dev/full ] || ! "$convert" "$@" >/dev/full 2>"$dir/err"; }
lost() { told --version && told info "$folder" && told verify "$folder" && says 'cannot write'; }
check "what could not be said is a failure" lost

wrong_use() {
    run 1 && run 1 to-gguf "$folder" && run 1 frobnicate a b && run 1 quantize a b &&
        says 'needs --type' && run 1 to-gguf a b --type q9 && says 'q4_k_m' &&
        run 1 to-gguf a b --threads 0 && run 1 to-gguf a b --split-size 3 &&
        run 1 to-gguf a b --tensor-type x && run 1 to-gguf "$dir/none" "$dir/x.gguf" && says 'none'
}
check "mistakes are named" wrong_use

plan() {
    run 0 to-gguf "$folder" "$dir/m.gguf" --type q4_k --dry-run && says 'attn_k_b' &&
        says 'not Q4_K' && says 'on disk' && [ ! -e "$dir/m.gguf" ]
}
check "--dry-run shows the plan and writes nothing" plan

writes() {
    run 0 to-gguf "$folder" "$dir/m.gguf" --type q8_0 && run 0 verify "$dir/m.gguf" && says ': well' &&
        run 1 to-gguf "$folder" "$dir/m.gguf" && says 'force' && ! left_behind
}
check "to-gguf writes, verify agrees, nothing is replaced" writes

inspects() {
    run 0 info "$dir/m.gguf" && says 'blk.0.attn_k_b.weight' && says 'Q8_0' && says 'bytes per token' &&
        run 0 info "$folder" && says 'model.embed_tokens.weight' && run 0 info "$dir/m.gguf" --json
}
check "info of a file and of a folder" inspects

family() { # what docs/attention.md says that a token takes
    run 0 info "$top/models/zoo/mtla" && says '^attention  *mtla$' && says '^cache  *480 bytes' &&
        run 0 info "$top/models/zoo/cca" && says '^cache  *1848 bytes' &&
        run 0 info "$top/models/zoo/cla" --json && says '"attention":\["gqa"\],"cache_bytes_per_token":768,'
}
check "info of models of the attention family" family

full() {
    for what in "info $dir/m.gguf" "verify $dir/m.gguf" "to-gguf $dir/m.gguf $dir/full.gguf --dry-run"; do
        status=0
        # shellcheck disable=SC2086 # words
        "$convert" $what >/dev/full 2>"$dir/err" || status=$?
        [ "$status" -eq 1 ] && grep -q 'standard output' "$dir/err" || return 1
    done
}
if [ -c /dev/full ]; then
    check "what cannot be printed is no success" full
else
    n=$((n + 1))
    echo "ok $n - what cannot be printed is no success # SKIP no /dev/full"
fi

if [ -n "${NODE:-}" ]; then
    # shellcheck disable=SC2016  # JavaScript
    json() {
        run 0 info "$dir/m.gguf" --json && "$NODE" -e '
            const o = JSON.parse(require("fs").readFileSync(process.argv[1], "utf8"))
            if (o.architecture !== "deepseek_v3" || o.tensors.length < 60 || !(o.tensor_bytes > 0) ||
                o.cache_bytes_per_token !== 4 * 80 * 2) process.exit(1)' "$dir/out"
    }
    check "info --json is JSON" json
else
    n=$((n + 1))
    echo "ok $n - info --json is JSON # SKIP no node"
fi

quantizes() {
    run 0 quantize "$dir/m.gguf" "$dir/q.gguf" --type q4_0 --split-size 1M --quiet &&
        [ -e "$dir/q-00001-of-00002.gguf" ] && run 0 verify "$dir/q-00001-of-00002.gguf" &&
        run 0 verify "$dir/m.gguf" "$dir/q-00001-of-00002.gguf" && says 'Q4_0' &&
        run 1 verify "$dir/q-00002-of-00002.gguf" && says 'part 2 of 2, and the first' &&
        run 0 verify "$folder" "$dir/m.gguf"
}
check "quantize in parts, verify side by side" quantizes

# Keys count too: a vocabulary takes a megabyte and more.
fits() {
    run 0 quantize "$top/models/latent-mini.q8_0.gguf" "$dir/s.gguf" --type q8_0 --split-size 8M --quiet &&
        [ -e "$dir/s-00001-of-00005.gguf" ] && ! find "$dir" -name 's-*' -size +8000000c | grep . &&
        run 0 verify "$dir/s-00001-of-00005.gguf" && rm -f "$dir"/s-*
}
check "no part is larger than --split-size" fits

# A byte in the middle of the data; a file that ends early; a file of zeros.
damaged() {
    size=$(wc -c <"$dir/m.gguf")
    cp "$dir/m.gguf" "$dir/bad.gguf"
    printf 'XYZ' | dd of="$dir/bad.gguf" bs=1 seek=$((size - size / 3)) conv=notrunc 2>/dev/null
    run 1 verify "$dir/bad.gguf" && says 'is damaged' && says 'NOT well' &&
        head -c $((size / 2)) "$dir/m.gguf" >"$dir/cut.gguf" && run 1 info "$dir/cut.gguf" &&
        run 1 verify "$dir/cut.gguf" && run 1 quantize "$dir/cut.gguf" "$dir/y.gguf" --type q4_0 &&
        head -c 4096 /dev/zero >"$dir/zero.gguf" && run 1 info "$dir/zero.gguf" && ! left_behind
}
check "damaged files are refused" damaged

# Enough work that the signal arrives before the end: the run ends with 130 and leaves nothing, or had
# ended by itself.
interrupted() {
    "$convert" quantize "$top/models/latent-mini.q8_0.gguf" "$dir/i.gguf" --type q5_k --threads 1 \
        >"$dir/out" 2>"$dir/err" &
    pid=$!
    while ! ls "$dir"/i.gguf.tmp* >/dev/null 2>&1 && kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
    kill -TERM "$pid" 2>/dev/null || true
    status=0
    wait "$pid" || status=$?
    ! left_behind && if [ "$status" -eq 0 ]; then [ -e "$dir/i.gguf" ]; else
        [ "$status" -eq 130 ] && [ ! -e "$dir/i.gguf" ] && says interrupted; fi
}
check "a signal leaves nothing behind" interrupted

echo "1..$n"
exit $failed

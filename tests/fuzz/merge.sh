#!/bin/sh
# Takes over what fuzzing found into the committed corpora, as few and small inputs as keep the coverage
# beyond the seeds: merge.sh [NAME..] in the build folder, after `make fuzz`.
set -eu
here=${top_srcdir:?}/tests/fuzz
max_bytes=${MERGE_MAX_BYTES:-150000}
export ASAN_OPTIONS="${ASAN_OPTIONS-allocator_may_return_null=1}"
[ $# -gt 0 ] || set -- gguf safetensors tokenizer config template disk access http body grammar
for name in "$@"; do
    rm -rf fuzz/merged fuzz/known/"$name"
    mkdir -p "fuzz/work/$name" "fuzz/known/$name" "$here/crashes/$name" "$here/corpus" fuzz/merged
    "tests/replay_$name" --unpack fuzz/merged "$here/seeds/$name"
    "tests/replay_$name" --unpack "fuzz/known/$name" "$here/corpus/$name"
    # what the seeds and the crashes cover needs no other input
    cp "$here/crashes/$name"/* fuzz/merged/ 2>/dev/null || true
    (cd fuzz/merged && ls) >fuzz/merged.seeds
    "fuzz/fuzz_$name" -merge=1 -max_len="${MERGE_MAX_LEN:-4096}" -timeout=5 fuzz/merged "fuzz/known/$name" \
        "fuzz/work/$name" >fuzz/merge.log 2>&1
    (cd fuzz/merged && tr '\n' '\0' | xargs -0 rm -f) <fuzz/merged.seeds
    # smallest first, up to the limit of a corpus
    total=0
    n=0
    : >fuzz/merged.pack
    for file in $(cd fuzz/merged && ls -Sr); do
        size=$(wc -c <"fuzz/merged/$file")
        total=$((total + size))
        [ $total -le "$max_bytes" ] || break
        n=$((n + 1))
        {
            printf '%s %d\n' "$(printf %s "$file" | cut -c 1-12)" "$size"
            cat "fuzz/merged/$file"
            echo
        } >>fuzz/merged.pack
    done
    mv fuzz/merged.pack "$here/corpus/$name"
    echo "$name: $n inputs, $(wc -c <"$here/corpus/$name") bytes"
done

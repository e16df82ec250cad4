#!/bin/sh
# Fuzzes one harness after the other for a while each: run.sh SECONDS [NAME..]. Called by `make fuzz-run` in
# the build folder. New inputs go to fuzz/work/NAME; what breaks to tests/fuzz/crashes/NAME of the sources.
# The status is that of the first harness that found something.
set -u
seconds=$1
shift
here=${top_srcdir:-.}/tests/fuzz
failed=0
# a report by the sanitizers ends the run; memory is limited so that a small file cannot ask for much
export ASAN_OPTIONS="${ASAN_OPTIONS-allocator_may_return_null=1:detect_stack_use_after_return=0}"
[ $# -gt 0 ] || set -- gguf safetensors tokenizer config template disk access http body grammar
for name in "$@"; do
    mkdir -p "fuzz/work/$name" "fuzz/known/$name" "$here/crashes/$name"
    "tests/replay_$name" --unpack "fuzz/known/$name" "$here/seeds/$name" "$here/corpus/$name"
    case $name in gguf) max=16384 ;; safetensors) max=8192 ;; *) max=12288 ;; esac
    "fuzz/fuzz_$name" -max_total_time="$seconds" -max_len=$max -timeout=5 -report_slow_units=2 \
        -rss_limit_mb=1024 -malloc_limit_mb=256 -print_final_stats=1 -dict="$here/$name.dict" \
        -artifact_prefix="$here/crashes/$name/" \
        "fuzz/work/$name" "fuzz/known/$name" "$here/crashes/$name" \
        >"fuzz/$name.log" 2>&1
    status=$?
    executed=$(sed -n 's/^stat::number_of_executed_units: *//p' "fuzz/$name.log")
    speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "fuzz/$name.log")
    cover=$(grep -o 'cov: [0-9]*' "fuzz/$name.log" | tail -n 1)
    echo "$name: status $status, ${executed:-?} inputs, ${speed:-?}/s, ${cover:-no coverage}"
    if [ $status -ne 0 ]; then
        grep -m 3 -E 'ERROR:|SUMMARY:|broken:|runtime error' "fuzz/$name.log"
        echo "see fuzz/$name.log"
        [ $failed -ne 0 ] || failed=$status
    fi
done
exit $failed

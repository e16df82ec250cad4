#!/bin/sh
# The NEON level where there is no ARM machine: the kernels and their checker are built by the cross
# compiler, with shim/check.h for libcheck, and run under qemu-aarch64. Plain C must compute there what
# it computes here: its digests of the same seed are compared (t_kernels.c says of which
# kernels). A CPU without the dot product must get plain C. TAP.
# Sources come from make: NEON_SOURCES, NEON_FLAGS. NEON_CASES of each kernel.
set -eu
src=${top_srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
build=${top_builddir:-.}
cc=aarch64-linux-gnu-gcc
emulator=qemu-aarch64
for tool in $cc $emulator; do
    if ! command -v "$tool" >/dev/null 2>&1; then
        echo "1..0 # SKIP $tool is not installed"
        exit 0
    fi
done
seed=${LATENT_TEST_SEED:-$(date +%s)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "1..5"
echo "# seed $seed (LATENT_TEST_SEED)"

failed=0
result() { # STATUS NUMBER NAME
    [ "$1" = 0 ] || failed=1
    [ "$1" = 0 ] && echo "ok $2 - $3" || echo "not ok $2 - $3"
}

# This build's configuration, but for its instruction sets.
grep -v HAVE_SIMD "$build/config.h" >"$work/config.h"
echo '#define HAVE_SIMD_NEON 1' >>"$work/config.h"

# compile FILE FLAGS...: FILE is relative to the sources
compile() {
    object=$work/$(echo "$1" | tr / _).o
    file=$src/$1
    shift
    # shellcheck disable=SC2086  # a list of flags
    $cc -std=gnu11 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
        -Wwrite-strings -Wundef -Wvla -Werror -fno-strict-aliasing -ffp-contract=off -O2 "$@" \
        -I"$work" -I"$src/tests/kernels/shim" -I"$src" -c "$file" -o "$object"
}

status=0
for file in $NEON_SOURCES; do
    case $file in *.c) compile "$file" || status=1 ;; esac
done >"$work/log" 2>&1
# shellcheck disable=SC2086  # a list of flags
compile engine/kernels/neon.c -O3 $NEON_FLAGS >>"$work/log" 2>&1 || status=1
[ $status = 0 ] && { $cc -static -o "$work/t_kernels" "$work"/*.o -lm -lpthread >>"$work/log" 2>&1 || status=1; }
sed 's/^/# /' "$work/log" | head -n 40
result $status 1 "builds without warnings"
if [ $status != 0 ]; then
    for n in 2 3 4 5; do result 1 $n "not built"; done
    exit 1
fi

checker() { # PROGRAM...
    LATENT_TEST_SEED=$seed LATENT_TEST_CASES=${NEON_CASES:-20} "$@"
}
digests() { # in the order of the table
    awk '$2 == "generic" && /digest/ { print $3, $NF }' "$1"
}

status=0
checker $emulator "$work/t_kernels" >"$work/neon" 2>&1 || status=1
grep -E '^not ok|^# .*(\(case|signal)' "$work/neon" | sed 's/^#* */# /' | head -n 40
result $status 2 "every kernel agrees with plain C and float64"
status=0
grep -q '^# neon ' "$work/neon" || status=1
result $status 3 "the level was there"

status=0
CK_TAP_LOG_FILE_NAME=/dev/null checker "$build/tests/t_kernels" >"$work/here" 2>&1 || true
digests "$work/here" >"$work/digests_here"
digests "$work/neon" >"$work/digests_neon"
[ -s "$work/digests_here" ] || status=1
diff "$work/digests_here" "$work/digests_neon" >"$work/diff" || status=1
sed 's/^/# /' "$work/diff" | head -n 40
result $status 4 "plain C computes the same bits on both machines ($(wc -l <"$work/digests_here") kernels)"

status=0
NEON_CASES=1 checker $emulator -cpu cortex-a53 "$work/t_kernels" >"$work/old" 2>&1 || status=1
grep -q '^# neon ' "$work/old" && status=1
result $status 5 "a CPU without the dot product gets plain C"
exit $failed

#!/bin/sh
# Every header compiles alone, and twice in one file; *_template.h are sources that others include. TAP.
# CC, LINT_CPPFLAGS and LINT_SIMD_* come from make; a header whose name holds an instruction set is
# compiled with that set's flags.
set -eu
src=${top_srcdir:-$(cd "$(dirname "$0")/../.." && pwd)}
cc=${CC:-cc}
n=0
failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for header in $(cd "$src" && find base kvcache engine api server tools tests -name "*.h" ! -name "*_template.h" | sort); do
    n=$((n + 1))
    simd=
    case $header in
    *amx*)
        simd=${LINT_SIMD_AMX:-}
        [ -n "$simd" ] || { echo "ok $n - $header # SKIP the compiler has no AMX"; continue; }
        ;;
    *avx512*)
        simd=${LINT_SIMD_AVX512:-}
        [ -n "$simd" ] || { echo "ok $n - $header # SKIP the compiler has no AVX-512"; continue; }
        ;;
    *avx2*)
        simd=${LINT_SIMD_AVX2:-}
        [ -n "$simd" ] || { echo "ok $n - $header # SKIP the compiler has no AVX2"; continue; }
        ;;
    *neon*)
        simd=${LINT_SIMD_NEON:-}
        [ -n "$simd" ] || { echo "ok $n - $header # SKIP the compiler has no NEON"; continue; }
        ;;
    esac
    printf '#include "%s"\n#include "%s"\ntypedef int translation_unit_is_not_empty;\n' \
        "$header" "$header" >"$work/unit.c"
    # shellcheck disable=SC2086  # flags are lists of words
    if $cc -std=gnu11 -fsyntax-only -Wall -Wextra -Werror -Wno-unused-function \
        -I"$src" -I"${top_builddir:-.}" ${LINT_CPPFLAGS:-} $simd "$work/unit.c" 2>"$work/err"; then
        echo "ok $n - $header"
    else
        echo "not ok $n - $header"
        sed 's/^/# /' "$work/err" | head -n 20
        failed=1
    fi
done
echo "1..$n"
exit $failed

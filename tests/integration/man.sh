#!/bin/sh
# The man pages tell every option that --help tells, and no other; latentd.conf(5) every key; groff has nothing
# to say about any of them. TAP.
set -eu
src=${top_srcdir:-.}
build=${top_builddir:-build}
man=$src/docs/man
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
n=0
failed=0

check() { # NAME FILE: passes when nothing was found
    n=$((n + 1))
    if [ ! -s "$2" ]; then
        echo "ok $n - man: $1"
    else
        echo "not ok $n - man: $1"
        head -n 20 "$2" | sed 's/^/# /'
        failed=1
    fi
}

for page in latentd.8 latentd-batch.1 latent-convert.1 latent-bench.1; do
    program=${page%.*} batch=
    [ "$program" != latentd-batch ] || { program=latentd batch=batch; }
    # --help itself is told by the page and by not every --help
    "$build/$program" $batch --help | grep -oE -e '--[a-z][a-z-]+' | sort -u | grep -vxE -e '--(help|version)' >"$work/help"
    sed 's/\\-/-/g' "$man/$page" | grep -oE -e '--[a-z][a-z-]+' | sort -u | grep -vxE -e '--(help|version)' >"$work/page"
    diff "$work/help" "$work/page" >"$work/found" || true
    [ -s "$work/help" ] || echo "no options in --help" >>"$work/found"
    check "$page tells the options of --help" "$work/found"
    "$build/$program" --version | grep -q "^$program [0-9]" || echo "no version" >"$work/found"
    # /dev/full takes nothing
    [ ! -e /dev/full ] || ! "$build/$program" --version >/dev/full 2>/dev/null ||
        echo "a version that nobody got" >>"$work/found"
    check "$program tells its version" "$work/found"
done

"$build/latentd" --print-default-config >"$work/conf"
LC_ALL=C awk -f "$man/conf.awk" "$work/conf" >"$work/conf.5"
diff "$work/conf.5" "$build/docs/man/latentd.conf.5" >"$work/found" 2>&1 || true
check "latentd.conf.5 is that of the program's own table" "$work/found"
sed -nE 's/^#([a-z_]+) = .*/\1/p' "$work/conf" >"$work/keys"
sed -nE 's/^\.B ([a-z_]+)$/\1/p' "$work/conf.5" | diff "$work/keys" - >"$work/found" || true
[ "$(wc -l <"$work/keys")" -gt 50 ] || echo "few keys" >>"$work/found"
check "every key of the configuration stands in it" "$work/found"

if command -v man >/dev/null && command -v groff >/dev/null; then
    : >"$work/found"
    for page in "$man"/*.[158] "$work/conf.5"; do
        LC_ALL=C.UTF-8 MANWIDTH=100 man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2>>"$work/found" >/dev/null
    done
    check "groff has nothing to say" "$work/found"
else
    n=$((n + 1))
    echo "ok $n - man: groff # SKIP no man or no groff"
fi
echo "1..$n"
exit $failed

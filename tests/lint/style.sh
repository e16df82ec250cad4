#!/bin/sh
# House style that a program can check (docs/design.md, "Style"). TAP.
set -eu
cd "${top_srcdir:-$(dirname "$0")/../..}"
n=0
failed=0
tab=$(printf '\t')
found=$(mktemp)
trap 'rm -f "$found"' EXIT

report() { # NAME: passes when nothing was found
    n=$((n + 1))
    if [ ! -s "$found" ]; then
        echo "ok $n - $1"
    else
        echo "not ok $n - $1"
        head -n 40 "$found" | sed 's/^/# /'
        failed=1
    fi
}

c_files() { find base kvcache engine api server tools tests \( -name '*.c' -o -name '*.h' \) | sort; }
scripts() { find tests quickstart autogen.sh \( -name '*.sh' -o -name quickstart \) | sort; }
below_server() { find base kvcache engine api -name '*.c' | sort; }

c_files | xargs awk '
    FNR == 1 { if (file) check(); file = FILENAME }
    { lines = FNR }
    END { check() }
    function check() { if (lines > 900) print file ": " lines " lines; split it by idea" }
' >"$found" || true
report "files have at most 900 lines"

c_files | xargs grep -n "$tab" /dev/null >"$found" || true
report "C has no tabs"
c_files | xargs grep -nE '[[:space:]]+$' /dev/null >"$found" || true
report "C has no trailing space"
# 100 is the rule; a word that sticks out a little is not worth breaking a line for
c_files | xargs grep -nE '^.{111,}$' /dev/null | cut -c 1-100 >"$found" || true
report "C has at most 100 columns, give or take a word"

# One head comment a file: what it owns and how it works.
for file in $(c_files); do
    head -n 1 "$file" | grep -q '^/\*' || echo "$file"
done >"$found" || true
report "every C file begins with a comment"

# Libraries answer with an error; only the server and the programs print, and nobody ends the process
# but main. kvcache/check.c is the one assertion walker: its message is its purpose. log.c prints.
# shellcheck disable=SC2016
below_server | grep -v -e '^base/log\.c$' -e '^kvcache/check\.c$' | xargs awk '
    FNR == 1 { comment = 0 }
    { line = $0; gsub(/"([^"\\]|\\.)*"/, "\"\"", line) }
    comment { if (!sub(/^.*\*\//, "", line)) next; comment = 0 }
    { gsub(/\/\*([^*]|\*[^\/])*\*\//, "", line); sub(/\/\/.*/, "", line) }
    line ~ /\/\*/ { sub(/\/\*.*/, "", line); comment = 1 }
    line ~ /(^|[^a-zA-Z0-9_.>])(printf|puts|perror|exit|_exit|abort|quick_exit)[ ]*\(/ ||
    line ~ /(^|[^a-zA-Z0-9_])fprintf[ ]*\([ ]*std(out|err)/ ||
    line ~ /(^|[^a-zA-Z0-9_])LOG_(ERROR|WARN|INFO)[ ]*\(/ { print FILENAME ":" FNR ": " $0 }
' >"$found" || true
report "libraries do not print, log or exit"

c_files | grep -v '^tests/' |
    xargs grep -nE '(^|[^a-zA-Z0-9_])(strcpy|strcat|sprintf|vsprintf|gets|alloca|setjmp)[ ]*\(' /dev/null >"$found" || true
report "no unbounded string functions, no alloca"

# What is written here must build and read the same anywhere.
find . \( -name .git -o -name 'build*' -o -name '_build' -o -name '_inst' -o -name autom4te.cache -o -name node_modules \) -prune -o -type f \
    \( -name '*.[ch]' -o -name '*.def' -o -name '*.mk' -o -name '*.am' -o -name '*.ac' -o -name '*.m4' \
    -o -name '*.sh' -o -name '*.md' -o -name '*.mjs' -o -name '*.py' -o -name '*.conf' -o -name '*.service.in' \
    -o -name quickstart \) -print | grep -v '/tests/lint/style\.sh$' | sort |
    xargs grep -nE '(^|[^A-Za-z0-9_.])/(work|root|home/[a-z]+)/|/tmp/b-' /dev/null >"$found" || true
report "no path of somebody's machine"

if command -v shellcheck >/dev/null 2>&1; then
    scripts | xargs shellcheck >"$found" 2>&1 || true
    report "shellcheck has nothing to say"
else
    n=$((n + 1))
    echo "ok $n - shellcheck # SKIP not installed"
fi

echo "1..$n"
exit $failed

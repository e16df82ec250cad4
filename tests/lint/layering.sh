#!/bin/sh
# The house has one direction (docs/design.md): server > api > engine > kvcache > base. This reads every
# #include and compares it with the rows below. TAP.
set -eu
cd "${top_srcdir:-$(dirname "$0")/../..}"

# Folder | what its files may include, as an extended regular expression | why that much.
# The longest folder that matches a file's path decides. Headers of the C library and POSIX are in
# the rows of `system` below.
rules() {
    cat <<'EOF'
base|base/
kvcache|base/|kvcache/
engine/kernels|base/|engine/kernels/|engine/model/tensor\.h$
engine/model|base/|engine/model/
engine/tokenizer|base/|engine/tokenizer/|engine/model/(checkpoint|tensor|json|map)\.h$
engine/grammar|base/|engine/grammar/|engine/tokenizer/tokenizer\.h$
engine/attention|base/|kvcache/kvcache\.h$|engine/
engine|base/|kvcache/kvcache\.h$|engine/
api|base/|api/|engine/engine\.h$|engine/grammar/grammar\.h$|engine/tokenizer/tokenizer\.h$
server|base/|server/|api/api\.h$|engine/engine\.h$
tools|base/|tools/|kvcache/kvcache\.h$|engine/|server/conf\.def$
EOF
}

# Third-party header | the only folders that may include it.
system() {
    cat <<'EOF'
uv\.h|server
llhttp\.h|server
openssl/|server
systemd/|server
cjson/|server api engine/model engine/tokenizer engine/grammar
cJSON|server api engine/model engine/tokenizer engine/grammar
pcre2\.h|engine/tokenizer
xxhash\.h|base
sys/socket\.h|server
netinet/|server
check\.h|tests
EOF
}

folders='base kvcache engine/kernels engine/model engine/tokenizer engine/grammar engine/attention engine api server tools'
n=0
failed=0
found=$(mktemp)
trap 'rm -f "$found"' EXIT

report() { # NAME: passes when nothing was found
    n=$((n + 1))
    if [ ! -s "$found" ]; then
        echo "ok $n - $1"
    else
        echo "not ok $n - $1"
        sed 's/^/# /' "$found"
        failed=1
    fi
}

# Files of folder $1 that no deeper row claims.
files_of() {
    case $1 in
    engine) find engine -maxdepth 1 -name '*.[ch]' -o -maxdepth 1 -name '*.def' ;;
    *) find "$1" -name '*.[ch]' -o -name '*.def' ;;
    esac | sort
}

# Text on stdin, as file $1: includes that $2 does not allow.
wrong_includes() {
    awk -v file="$1" -v allowed="^($2)" '
        /^[ \t]*#[ \t]*include[ \t]*"/ {
            split($0, part, "\"")
            # config.h is for sources, first; headers must not depend on it
            if (part[2] == "config.h") {
                if (file ~ /\.h$/) print file ":" FNR ": config.h in a header"
                next
            }
            if (part[2] !~ allowed) print file ":" FNR ": may not include " part[2]
        }'
}

for folder in $folders; do
    allowed=$(rules | awk -F'|' -v f="$folder" '$1 == f { sub(/^[^|]*\|/, ""); print; exit }')
    files_of "$folder" | while read -r file; do
        # shellcheck disable=SC2094  # the first is only its name
        wrong_includes "$file" "$allowed" <"$file"
    done >"$found"
    report "$folder includes only what lies below it"
done

system | while IFS='|' read -r header where; do
    for folder in $folders; do
        case " $where " in *" $folder "*) continue ;; esac
        files_of "$folder" | xargs -r grep -nE "^[[:space:]]*#[[:space:]]*include[[:space:]]*<$header" /dev/null || true
    done
done >"$found"
report "libraries are known only to the folder that owns them"

# A test links only its layer and what is below, so that an upward call does not link.
awk '
    /^LIBS_KV[ =]/ && /libengine|libapi|libserver/ { print "Makefile.am:" FNR ": " $0 }
    /^LIBS_ENGINE[ =]/ && /libapi|libserver/ { print "Makefile.am:" FNR ": " $0 }
    /^LIBS_API[ =]/ && /libserver|\(UV_LIBS\)/ { print "Makefile.am:" FNR ": " $0 }
' Makefile.am >"$found"
report "link lines go downward"

# The rules are worth something only if they can fail.
[ -n "$(printf '# include "server/server.h"\n' | wrong_includes probe.c 'base/|kvcache/')" ] ||
    echo "an upward include went unseen" >"$found"
[ -n "$(printf '#include "config.h"\n' | wrong_includes probe.h 'base/')" ] ||
    echo "config.h in a header went unseen" >>"$found"
report "an upward include is caught"

echo "1..$n"
exit $failed

#!/bin/sh
# Ours against Jinja2 itself, where Python has it. TAP.
: "${PYTHON3:=$(command -v python3 || true)}"
if [ -z "$PYTHON3" ]; then
    echo "1..0 # SKIP no python3"
    exit 0
fi
TZ=UTC exec "$PYTHON3" -W ignore "${top_srcdir:-.}/tests/template/jinja2_diff.py"

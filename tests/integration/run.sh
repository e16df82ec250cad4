#!/bin/sh
# Runs one integration test (a .mjs file) under Node.js; without Node.js the test is skipped.
: "${NODE:=$(command -v node || true)}"
if [ -z "$NODE" ]; then
    echo "1..0 # SKIP no node"
    exit 0
fi
if [ ! -x "${top_builddir:-.}/latentd" ]; then
    echo "Bail out! ${top_builddir:-.}/latentd is not built"
    exit 1
fi
exec "$NODE" "$@"

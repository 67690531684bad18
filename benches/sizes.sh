#!/usr/bin/env bash
# How many bytes a program with Poda has, by features: the table of docs/embedding.md. Each is built for size and stripped.
#
#   benches/sizes.sh [FEATURES ...]     (without: those of the table)
set -euo pipefail
cd "$(dirname "$0")/.."

size() {
    cargo build --quiet --profile small --example small --no-default-features --features "$1" "${@:2}"
    stat -c %s "${CARGO_TARGET_DIR:-target}/small/examples/small"
}

if [ $# = 0 ]; then
    set -- "" avx512 narrow structured kernels \
        control-flow images quantized selection sequences training types operators onnx full
fi
least=$(size "")
for features in "$@"; do
    bytes=$(size "$features")
    awk -v f="${features:-(none)}" -v b="$bytes" -v l="$least" \
        'BEGIN { printf "| %s | %.2f MB | %+.2f |\n", f, b / 1e6, (b - l) / 1e6 }'
done

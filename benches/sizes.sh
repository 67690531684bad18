#!/usr/bin/env bash
# How many bytes a program with Poda has, by features and optimisation: the table of docs/embedding.md.
set -euo pipefail
cd "$(dirname "$0")/.."

size() {
    local what=$1 profile=$2
    shift 2
    cargo build --quiet --profile "$profile" --example small --no-default-features "$@"
    echo "$what: $(stat -c %s "${CARGO_TARGET_DIR:-target}/$profile/examples/small") bytes"
}

size "artifacts, for size" small
size "artifacts, for speed" small --config 'profile.small.opt-level=3'
size "artifacts and ONNX, for size" small --features onnx

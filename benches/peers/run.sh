#!/usr/bin/env bash
# Times Poda beside other engines, taking turns, on the same weights and inputs.
#
#   benches/peers/run.sh layers [--layers 768x768x128,…] [--sparsities 50,90] …   single layers
#   benches/peers/run.sh models [--models minilm_b1,…] …                              whole networks
#   benches/peers/run.sh layers --help
#
# Environments, builds and results go to target/peers. Every engine has a Python environment or a program of its own, made
# when it is first needed; one that cannot be had is reported in the table, with the reason. DeepSparse's licence allows
# evaluation only.
set -euo pipefail
cd "$(dirname "$0")/../.."

case "${1:-}" in
    layers | models) ;;
    *) sed -n '2,10s/^# \{0,1\}//p' benches/peers/run.sh >&2; exit 2 ;;
esac
export PYTHONPYCACHEPREFIX="$PWD/target/peers/pycache"
driver=target/peers/driver
if ! cmp -s benches/peers/requirements.txt "$driver/requirements.txt"; then
    rm -rf "$driver"
    python3 -m venv "$driver"
    "$driver/bin/pip" install --quiet --disable-pip-version-check -r benches/peers/requirements.txt
    cp benches/peers/requirements.txt "$driver/requirements.txt"
fi
exec "$driver/bin/python" -u "benches/peers/$1.py" "${@:2}"

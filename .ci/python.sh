#!/usr/bin/env bash
# Builds the wheel and runs its tests, in a virtual environment under target/. What torch and transformers are held against is
# skipped where they are not installed, and pytest says so at its end.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$PWD/target/python
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade maturin pytest numpy safetensors tqdm pyarrow pandas polars duckdb \
    "ray[data]" nbclient ipykernel

# As the tests are built, not as users build it: the crates below are compiled already.
"$venv/bin/maturin" build --quiet --locked --profile dev --manifest-path python/Cargo.toml --out target/wheels \
    --interpreter "$venv/bin/python"
"$venv/bin/python" -m pip install --quiet --force-reinstall --no-deps target/wheels/selfie_rs-*-cp39-abi3-*.whl
cargo build --quiet --locked --package selfie-cli

# From here, where the folder selfie_rs of the sources is not found: the module that is installed is tested.
SELFIE_BIN=$PWD/target/debug/selfie "$venv/bin/python" -m pytest python/tests

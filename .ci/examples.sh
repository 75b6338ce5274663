#!/usr/bin/env bash
# Runs every example on the demo checkpoint.
set -euo pipefail
cd "$(dirname "$0")/.."

out=target/examples
rm -rf "$out"
mkdir -p "$out"
# The tests have built them already, if they are built for the whole workspace.
cargo build --quiet --locked --workspace --examples --bins
run() {
    echo "+ $*"
    "target/debug/examples/$2" "${@:3}"
}
# A run whose output has to say something.
says() {
    run "${@:2}" | tee "$out/said"
    grep --quiet --fixed-strings -- "$1" "$out/said"
}
# A wrong input is an error.
refuses() {
    if run "$@"; then
        echo "this was not refused" >&2
        exit 1
    fi
}

france="[INST] What is the capital of France? [/INST]"
says "relative error" selfie-kernels gemm 256 512 16
refuses selfie-kernels gemm 256 0 16
says "shared positions" selfie-kernels attention 64 4
refuses selfie-kernels attention 64
run selfie-demo write "$out/demo"
says "steered:  Rome." selfie-llama steer "$out/demo" "$france" France Italy 3
refuses selfie-llama steer "$out/demo" "$france" Spain Italy 3
run selfie-interp states 3 "$out/states.parquet" "$france"
refuses selfie-interp states 99 "$out/states.parquet" "$france"
says "reward +1" selfie-control reward France
says "Italy" selfie interpret "[INST] What is the capital of the country of the Colosseum? [/INST]"
refuses selfie interpret
target/debug/selfie interpret --prompt "$france" --out "$out/rows.jsonl"
run selfie-explorer page "$out/rows.jsonl" "$out/page.html"
refuses selfie-explorer page "$out/no-such-rows.jsonl" "$out/page.html"
run selfie-sweep million 10000

#!/usr/bin/env bash
# Checks what threads share in selfie-kernels: in Miri on the portable and the AVX2 path, and under ThreadSanitizer on all
# paths. Both need a nightly compiler; without one, this says so and checks nothing. Miri takes some six minutes a path, so
# .ci/run leaves this out: run it after a change of unsafe code.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! cargo +nightly miri --version > /dev/null 2>&1; then
    echo "SKIPPED: no nightly toolchain with Miri (rustup toolchain install nightly -c miri,rust-src)" >&2
    exit 0
fi
test=(--quiet --package selfie-kernels --no-default-features --test shared)
# Rayon's threads outlive the test, and crossbeam's lists are sound by tree borrows only. The clock is the machine's.
export MIRIFLAGS="-Zmiri-tree-borrows -Zmiri-ignore-leaks -Zmiri-disable-isolation"
cargo +nightly miri test "${test[@]}"
RUSTFLAGS="-Ctarget-feature=+avx2,+fma,+f16c" cargo +nightly miri test "${test[@]}"

target=$(rustc -vV | sed -n 's/^host: //p')
CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/thread-sanitizer" RUSTFLAGS="-Zsanitizer=thread" \
    cargo +nightly test -Zbuild-std --target "$target" "${test[@]}"

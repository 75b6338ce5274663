#!/usr/bin/env bash
# Checks the unsafe code of selfie-kernels: all its tests under AddressSanitizer; and what threads share, in Miri on the
# portable and the AVX2 path, and under ThreadSanitizer on all paths. Needs a nightly compiler with Miri and rust-src.
# It takes half an hour, so .ci/run leaves it out: run it after a change of unsafe code.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! cargo +nightly miri --version > /dev/null 2>&1; then
    echo "Miri is missing; install it with: rustup toolchain install nightly -c miri,rust-src" >&2
    exit 1
fi
host=$(rustc -vV | sed -n 's/^host: //p')
folder=${CARGO_TARGET_DIR:-target}
package=(--quiet --package selfie-kernels --no-default-features)
# Turn on the checks that the profile leaves out.
for check in debug-assertions overflow-checks; do
    package+=(--config "profile.dev.package.selfie-kernels.$check=true")
done

# Threads of the pool outlive the tests, so what they hold is no leak.
ASAN_OPTIONS=detect_leaks=0 CARGO_TARGET_DIR="$folder/address-sanitizer" RUSTFLAGS="-Zsanitizer=address" \
    cargo +nightly test --target "$host" "${package[@]}" --lib --tests

test=("${package[@]}" --test shared)
# Rayon's threads outlive the test, and crossbeam's lists are sound by tree borrows only. The clock is the machine's.
export MIRIFLAGS="-Zmiri-tree-borrows -Zmiri-ignore-leaks -Zmiri-disable-isolation"
cargo +nightly miri test "${test[@]}"
RUSTFLAGS="-Ctarget-feature=+avx2,+fma,+f16c" cargo +nightly miri test "${test[@]}"

CARGO_TARGET_DIR="$folder/thread-sanitizer" RUSTFLAGS="-Zsanitizer=thread" \
    cargo +nightly test -Zbuild-std --target "$host" "${test[@]}"

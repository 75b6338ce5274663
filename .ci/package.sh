#!/usr/bin/env bash
# The crates as their users get them: packaged, unpacked into a workspace of packages alone, and tested there.
set -euo pipefail
cd "$(dirname "$0")/.."

# A folder has the name of its crate.
crates=(selfie-ptx)
for folder in crates/selfie crates/selfie-*; do
    crates+=("$(basename "$folder")")
done

# Symbolic links do not survive a checkout on Windows, so each crate has the licences themselves.
for folder in kernels crates/selfie crates/selfie-*; do
    cmp LICENSE-MIT "$folder/LICENSE-MIT"
    cmp LICENSE-APACHE "$folder/LICENSE-APACHE"
done
if git ls-files --stage | grep '^120000'; then
    echo "these are symbolic links, which a checkout on Windows does not have" >&2
    exit 1
fi

target=${CARGO_TARGET_DIR:-target}
rm -rf "$target/package" "$target/packaged"
mkdir -p "$target/packaged"
packages=()
for crate in "${crates[@]}"; do
    packages+=(--package "$crate")
done
# What comes after this builds more than the check that is left out here.
cargo package --quiet --locked --no-verify --allow-dirty "${packages[@]}"

# The packages depend on each other as in a registry, but are taken from here. The profile is that of the workspace, so
# that what others wrote is compiled already; only selfie-kernels has all checks here. The unpacked files get the
# present time (-m), as cargo compiles what is younger than its build.
{
    printf '[workspace]\nresolver = "3"\nmembers = ["*"]\n\n[patch.crates-io]\n'
    for crate in "${crates[@]}"; do
        tar -xzmf "$target/package/$crate"-[0-9]*.crate -C "$target/packaged"
        printf '%s = { path = "%s" }\n' "$crate" "$(basename "$target/packaged/$crate"-[0-9]*)"
    done
    printf '\n'
    sed -n '/^\[profile.dev\]/,/^$/p' Cargo.toml
} > "$target/packaged/Cargo.toml"
cp Cargo.lock "$target/packaged"

# Unit tests, integration tests where a package has them, examples, doctests. One unit test of the program reads
# README.md and docs/, which no package has.
cargo test --quiet --offline --workspace --manifest-path "$target/packaged/Cargo.toml" --target-dir "$target" \
    -- --skip the_program_accepts_every_documented_command

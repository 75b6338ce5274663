#!/usr/bin/env bash
# What the crates of others may be: deny.toml. The list of advisories is a repository on GitHub.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
deny=target/tools/bin/cargo-deny
if [ "$("$deny" --version 2> /dev/null)" != "cargo-deny $version" ]; then
    # Unoptimised, as it runs for a second.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 cargo install --quiet --locked --root target/tools --target-dir target/tools/build \
        cargo-deny --version "$version"
    rm -rf target/tools/build
fi
"$deny" --locked check --hide-inclusion-graph licenses bans sources
if git ls-remote --quiet --exit-code https://github.com/RustSec/advisory-db HEAD > /dev/null 2>&1; then
    "$deny" --locked check --hide-inclusion-graph advisories
else
    echo "SKIPPED: the list of advisories could not be downloaded, so no crate was looked up in it" >&2
fi

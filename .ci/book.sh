#!/usr/bin/env bash
# Builds the book into target/book, after a check of every link and path in README, ARCHITECTURE and the book.
set -euo pipefail
cd "$(dirname "$0")/.."

python3 .ci/links.py

version=0.5.4
if ! target/tools/bin/mdbook --version 2> /dev/null | grep --quiet --fixed-strings "$version"; then
    # It renders some twenty pages: its own speed does not matter, the time to compile it does.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 cargo install --quiet --locked --root target/tools \
        --version "$version" mdbook
fi
# mdBook exits with 0 in spite of warnings.
target/tools/bin/mdbook build docs 2>&1 | tee target/book.log
if grep --quiet --extended-regexp "WARN|ERROR" target/book.log; then
    exit 1
fi

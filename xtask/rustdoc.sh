#!/bin/sh
# rustdoc with unstable options allowed: see src/api.rs.
RUSTC_BOOTSTRAP=1 exec rustdoc "$@"

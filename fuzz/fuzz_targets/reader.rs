//! Any bytes as an input of the kind `reader`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use selfie_hostile::{bounded, check, print_panics_briefly};

fuzz_target!(init: print_panics_briefly(), |bytes: &[u8]| {
    bounded(check("reader"), bytes);
});

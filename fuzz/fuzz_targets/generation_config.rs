//! Any bytes as an input of the kind `generation_config`.
#![no_main]

use std::panic;

use libfuzzer_sys::fuzz_target;
use selfie_hostile::{bounded, check};

fuzz_target!(
    // A panic that is caught and becomes an error is none. The memory of a backtrace would count as the check's.
    init: panic::set_hook(Box::new(|panic| eprintln!("{panic}"))),
    |bytes: &[u8]| {
        bounded(check("generation_config"), bytes);
    }
);

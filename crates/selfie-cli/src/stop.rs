//! Stopping a run early.

use std::ffi::c_int;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

#[cfg(unix)]
const SIGNALS: [c_int; 3] = [SIGINT, SIGTERM, signal_hook::consts::SIGHUP];
#[cfg(not(unix))]
const SIGNALS: [c_int; 2] = [SIGINT, SIGTERM];

/// Whether Ctrl-C was pressed, or a signal with the same meaning came: SIGTERM, or SIGHUP when the terminal closes.
#[derive(Clone)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Starts listening. A second signal ends the program at once.
    pub(crate) fn listen() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ignored = ignored();
        for signal in SIGNALS {
            // A signal that the program was started to ignore, by nohup or as a background job, does not end it.
            if ignored >> (signal - 1) & 1 == 0 {
                // If no handler can be set, the signal ends the program as usual.
                let _ = flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop));
                let _ = flag::register(signal, Arc::clone(&stop));
            }
        }
        Self(stop)
    }

    pub(crate) fn is_asked_for(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The ignored signals, one bit each, as Linux reports them; 0 elsewhere.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0)
}

//! Ending before the work is done.

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

/// Whether Ctrl-C was pressed, or a signal came that asks for the same: SIGTERM, or SIGHUP when the terminal is closed.
#[derive(Clone)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens from now on. A second signal ends the program at once.
    pub(crate) fn listen() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ignored = ignored();
        for signal in SIGNALS {
            // What the program was started to ignore, by nohup or as a job in the background, does not end it.
            if ignored >> (signal - 1) & 1 == 0 {
                // Without a handler a signal ends the program as ever.
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

/// The signals that are ignored, a bit each, as Linux tells; none elsewhere.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0)
}

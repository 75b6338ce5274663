//! Faults requested by the environment, and a trace for tests.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Counts calls down to the one that should fail.
pub(crate) struct Fault(Option<u64>);

impl Fault {
    /// Reads a variable that holds the number of the call, from 1.
    fn named(variable: &str) -> Self {
        let number = env::var(variable).ok();
        Self(number.map(|text| {
            text.parse()
                .unwrap_or_else(|e| panic!("{variable}={text}: {e}"))
        }))
    }

    /// Whether this call should fail.
    pub(crate) fn is_due(&mut self) -> bool {
        let left = self.0.as_mut();
        left.is_some_and(|left| {
            *left = left.wrapping_sub(1);
            *left == 0
        })
    }
}

/// The faults. The crate's documentation lists their variables.
pub(crate) struct Faults {
    pub(crate) not_supported: Fault,
    pub(crate) capture: Fault,
    pub(crate) illegal_address: Fault,
    pub(crate) memory: Fault,
}

impl Faults {
    pub(crate) fn from_environment() -> Self {
        Self {
            not_supported: Fault::named("CUDASIM_NOT_SUPPORTED"),
            capture: Fault::named("CUDASIM_FAIL_CAPTURE"),
            illegal_address: Fault::named("CUDASIM_ILLEGAL_ADDRESS"),
            memory: Fault::named("CUDASIM_OUT_OF_MEMORY"),
        }
    }
}

/// Appends a line to the file named by `CUDASIM_TRACE`, if it is set.
pub(crate) fn note(call: &str) {
    static TRACE: LazyLock<Option<Mutex<File>>> = LazyLock::new(|| {
        let path = env::var_os("CUDASIM_TRACE")?;
        let file = OpenOptions::new().append(true).create(true).open(&path);
        Some(Mutex::new(file.unwrap_or_else(|e| panic!("{path:?}: {e}"))))
    });
    if let Some(trace) = &*TRACE {
        let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
        // A test reports a missing line.
        let _ = writeln!(trace, "{call}");
    }
}

//! What a check costs: memory by an allocator that counts, and time of its thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::panic;
use std::time::Duration;

use crate::Check;

/// The memory of every program that links this crate is counted, each thread for itself.
#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes that a check may have allocated at a time whatever its input: the demo's tokenizer, tables of the families.
const BASE: usize = 32 << 20;
/// Bytes for each byte of the input. A JSON value takes 72 for the two of `0,`, and is read twice or thrice.
const EACH: usize = 256;

/// What a check may take of a processor.
const MOST_TIME: Duration = Duration::from_secs(1);

/// What a check took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// The most bytes that were allocated at a time.
    pub memory: usize,
    /// What the thread worked, not what it waited.
    pub time: Duration,
    /// Whether the input was taken.
    pub taken: bool,
}

/// The most that a check may allocate for an input of so many bytes.
pub fn most_memory(input: usize) -> usize {
    BASE + EACH * input
}

/// Runs a check and measures it.
///
/// # Panics
/// It allocated more than [`most_memory`], or worked for more than a second.
pub fn bounded(check: Check, bytes: &[u8]) -> Cost {
    let live = LIVE.get();
    PEAK.set(live);
    let begin = time_worked();
    let taken = check(bytes);
    let time = time_worked() - begin;
    let memory = usize::try_from(PEAK.get() - live).unwrap_or(0);
    let most = most_memory(bytes.len());
    assert!(
        memory <= most,
        "{memory} bytes were allocated for an input of {}; at most {most} may be",
        bytes.len()
    );
    assert!(
        time <= MOST_TIME,
        "it took {time:?}; at most {MOST_TIME:?} may be"
    );
    Cost {
        memory,
        time,
        taken,
    }
}

/// Prints every panic from now on without a backtrace. The program catches some panics, and makes errors of them: the
/// memory of their backtraces would count as the check's.
pub fn print_panics_briefly() {
    panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}

/// How long this thread has been on a processor, as Linux tells.
fn time_worked() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").expect("this needs Linux");
    let nanoseconds = stat.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number comes first"))
}

thread_local! {
    /// Bytes that this thread has allocated and not freed. Those that another thread frees are not seen.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

impl Counting {
    fn grow(by: usize) {
        let live = LIVE.get() + by as isize;
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
    }

    fn shrink(by: usize) {
        LIVE.set(LIVE.get() - by as isize);
    }
}

// SAFETY: every call goes to the system's allocator as it is; counting allocates nothing, as the counters are constants
// that need no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        Self::shrink(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::shrink(layout.size());
        Self::grow(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

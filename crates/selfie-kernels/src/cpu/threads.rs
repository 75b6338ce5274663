//! The threads that an op shares its work with.
//!
//! A pass of few rows is some hundred ops of a few microseconds each. Waking a thread that sleeps takes as long as such
//! an op. So the calling thread does its part of the work itself, and the others watch for the next op for a while
//! before they go to sleep.
//!
//! Any number of callers may have work at the same time. Nobody holds a lock while it works, and a caller can always
//! finish its own work alone, so none waits for another one.

use std::any::Any;
use std::hint::spin_loop;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a thread watches for more work before it sleeps, or gives up its core. Longer than anything between two ops
/// of a pass, and short beside a scheduler's time slice.
const WATCH: Duration = Duration::from_micros(50);

/// How long of that it keeps its core to itself. What it waits for may need this core.
const SPIN: Duration = Duration::from_micros(5);

/// Values whose processing takes as long as sharing it.
const LITTLE: usize = 1 << 13;

/// The threads of a backend: the one that calls, and helpers.
pub(super) struct Threads {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Counts the jobs that were opened, so that watching takes no lock.
    opened: AtomicUsize,
    wake: Condvar,
    stop: AtomicBool,
}

#[derive(Default)]
struct State {
    jobs: Vec<JobPointer>,
    sleeping: usize,
}

/// Work that threads share. It lies on its caller's stack.
struct Job<'a> {
    /// Works until nothing is left to begin.
    work: &'a (dyn Fn(usize) + Sync),
    /// Whether somebody has found nothing left to begin.
    finished: AtomicBool,
    /// Helpers that have come.
    joined: AtomicUsize,
    /// Helpers at work.
    helpers: AtomicUsize,
    /// What a helper panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Clone, Copy)]
struct JobPointer(*const Job<'static>);

// SAFETY: a job is `Sync`, and `Open` keeps it alive for as long as a thread may use it.
unsafe impl Send for JobPointer {}

impl Threads {
    /// Starts `threads - 1` helpers.
    pub(super) fn new(threads: usize) -> io::Result<Self> {
        let mut started = Self {
            shared: Arc::default(),
            helpers: Vec::new(),
        };
        for i in 1..threads {
            let shared = started.shared.clone();
            let helper = thread::Builder::new()
                .name(format!("selfie-helper-{i}"))
                .spawn(move || shared.help(threads))?;
            started.helpers.push(helper);
        }
        Ok(started)
    }

    /// The threads, the calling one included.
    pub(super) fn count(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `f` for each of `n` items, which take about as long as processing `work` values each. Threads take items
    /// in order, a few at a time.
    pub(super) fn each<T>(
        &self,
        n: usize,
        work: usize,
        items: impl Iterator<Item = T> + Send,
        f: impl Fn(T) + Sync,
    ) {
        const MOST: usize = 8;
        if n < 2 || self.helpers.is_empty() || n.saturating_mul(work) < LITTLE {
            return items.for_each(f);
        }
        let at_a_time = (n / (16 * self.count())).clamp(1, MOST);
        let items = Mutex::new(items.fuse());
        self.together(&|_| {
            loop {
                let mut taken = [const { None }; MOST];
                {
                    let mut items = lock(&items);
                    taken[..at_a_time].fill_with(|| items.next());
                }
                let mut none = true;
                for item in taken.into_iter().flatten() {
                    none = false;
                    f(item);
                }
                if none {
                    break;
                }
            }
        });
    }

    /// Calls `f` with each number below `n`, which take about as long as processing `work` values each. Each thread
    /// walks a span of its own, which lets the hardware prefetch, and then helps with the others.
    pub(super) fn spans(&self, n: usize, work: usize, f: impl Fn(usize) + Sync) {
        if n < 2 || self.helpers.is_empty() || n.saturating_mul(work) < LITTLE {
            return (0..n).for_each(f);
        }
        let spans = self.count().min(n);
        let first = |span: usize| n * span / spans;
        let next: Vec<AtomicUsize> = (0..spans)
            .map(|span| AtomicUsize::new(first(span)))
            .collect();
        self.together(&|thread| {
            for span in (thread..thread + spans).map(|span| span % spans) {
                loop {
                    let i = next[span].fetch_add(1, Ordering::Relaxed);
                    if i >= first(span + 1) {
                        break;
                    }
                    f(i);
                }
            }
        });
    }

    /// Calls `work` on this thread and on helpers that are free, with a number for each.
    fn together(&self, work: &(dyn Fn(usize) + Sync)) {
        let job = Job {
            work,
            finished: AtomicBool::new(false),
            joined: AtomicUsize::new(0),
            helpers: AtomicUsize::new(0),
            panic: Mutex::default(),
        };
        let open = Open::new(&self.shared, &job);
        work(0);
        drop(open);
        let panic = job.panic.into_inner();
        if let Some(panic) = panic.unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        {
            let _state = lock(&self.shared.state);
            self.shared.opened.fetch_add(1, Ordering::Release);
        }
        self.shared.wake.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper catches the panics of its work.
            let _ = helper.join();
        }
    }
}

/// A job that helpers may join. Once this is dropped, none is at work on it.
struct Open<'a, 'b> {
    shared: &'a Shared,
    job: &'a Job<'b>,
}

impl<'a, 'b> Open<'a, 'b> {
    fn new(shared: &'a Shared, job: &'a Job<'b>) -> Self {
        let open = Self { shared, job };
        let sleeping = {
            let mut state = lock(&shared.state);
            state.jobs.push(open.pointer());
            // Under the lock, so that no helper falls asleep without having seen it.
            shared.opened.fetch_add(1, Ordering::Release);
            state.sleeping
        };
        if sleeping > 0 {
            shared.wake.notify_all();
        }
        open
    }

    fn pointer(&self) -> JobPointer {
        JobPointer(ptr::from_ref(self.job).cast())
    }
}

impl Drop for Open<'_, '_> {
    fn drop(&mut self) {
        let job = self.pointer().0;
        lock(&self.shared.state)
            .jobs
            .retain(|other| !ptr::eq(other.0, job));
        let helpers = || self.job.helpers.load(Ordering::Acquire);
        if !watch(|| helpers() == 0) {
            // A helper has lost its core, or has long pieces of work.
            while helpers() > 0 {
                thread::yield_now();
            }
        }
    }
}

impl Shared {
    /// What a helper does.
    fn help(&self, threads: usize) {
        loop {
            let opened = self.opened.load(Ordering::Acquire);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Some(job) = self.join(threads) {
                // SAFETY: `join` counted this helper, so the job's caller waits for it.
                let job = unsafe { &*job.0 };
                let thread = job.joined.fetch_add(1, Ordering::Relaxed) + 1;
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (job.work)(thread))) {
                    *lock(&job.panic) = Some(panic);
                }
                job.finished.store(true, Ordering::Relaxed);
                // From here on the job may be gone.
                job.helpers.fetch_sub(1, Ordering::Release);
            } else if !watch(|| self.opened.load(Ordering::Relaxed) != opened) {
                let mut state = lock(&self.state);
                if self.opened.load(Ordering::Acquire) == opened {
                    state.sleeping += 1;
                    state = self
                        .wake
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                    state.sleeping -= 1;
                }
            }
        }
    }

    /// A job that has work left, with this helper counted.
    fn join(&self, threads: usize) -> Option<JobPointer> {
        let state = lock(&self.state);
        // With as many callers as threads, each works alone.
        if state.jobs.len() >= threads {
            return None;
        }
        state.jobs.iter().copied().find(|job| {
            // SAFETY: a job in the list is alive: its caller takes it out, under this lock, before it lets go of it.
            let job = unsafe { &*job.0 };
            let has_work = !job.finished.load(Ordering::Relaxed);
            if has_work {
                job.helpers.fetch_add(1, Ordering::Relaxed);
            }
            has_work
        })
    }
}

/// Waits for `happened`, and returns false if that takes too long.
fn watch(happened: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..16 {
            if happened() {
                return true;
            }
            spin_loop();
        }
        let watched = start.elapsed();
        if watched > WATCH {
            return false;
        }
        if watched > SPIN {
            thread::yield_now();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    /// Work enough to be shared.
    const MUCH: usize = LITTLE;

    /// Counts how often each item comes up while `callers` threads share `threads`.
    fn counts(threads: usize, callers: usize, n: usize) -> Vec<Vec<u32>> {
        let threads = Threads::new(threads).unwrap();
        let caller = || {
            let counts: Vec<AtomicU32> = (0..n).map(|_| AtomicU32::new(0)).collect();
            for _ in 0..50 {
                threads.each(n, MUCH, counts.iter(), |count| {
                    count.fetch_add(1, Ordering::Relaxed);
                });
                threads.spans(n, MUCH, |i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
            }
            counts.into_iter().map(AtomicU32::into_inner).collect()
        };
        thread::scope(|scope| {
            let callers: Vec<_> = (0..callers).map(|_| scope.spawn(caller)).collect();
            callers.into_iter().map(|c| c.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_item_comes_once() {
        for threads in [1, 2, 3, 8] {
            for callers in [1, 2, 9] {
                for n in [0, 1, 2, 7, 1000] {
                    for counts in counts(threads, callers, n) {
                        assert_eq!(counts, vec![100; n], "{threads} threads, {callers} callers");
                    }
                }
            }
        }
    }

    #[test]
    fn helpers_wake_up_again() {
        let threads = Threads::new(2).unwrap();
        let caller = thread::current().id();
        for _ in 0..3 {
            thread::sleep(20 * WATCH);
            // Both threads must come, or neither gets past the barrier.
            let barrier = std::sync::Barrier::new(2);
            let helped = AtomicU32::new(0);
            threads.each(2, MUCH, 0..2, |_| {
                barrier.wait();
                helped.fetch_add(
                    u32::from(thread::current().id() != caller),
                    Ordering::Relaxed,
                );
            });
            assert_eq!(helped.into_inner(), 1);
        }
    }

    #[test]
    fn work_may_share_work() {
        let threads = Threads::new(3).unwrap();
        let sum = AtomicU32::new(0);
        threads.each(4, MUCH, 0..4, |_| {
            threads.each(5, MUCH, 0..5, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 4 * (1 + 2 + 3 + 4));
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let threads = Threads::new(2).unwrap();
        for culprit in 0..8 {
            let run = || threads.each(8, MUCH, 0..8, |i| assert_ne!(i, culprit));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
        }
        // The threads still work.
        let sum = AtomicU32::new(0);
        threads.each(8, MUCH, 0..8, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 28);
    }
}

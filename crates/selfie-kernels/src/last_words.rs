//! The message of a program that runs out of memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{self, Write};
use std::process;

/// The system's allocator, for programs that should end with one line on stderr and status 1 when memory runs out.
/// Rust's default is to abort. Use it with `#[global_allocator] static ALLOCATOR: LastWords = LastWords;`.
///
/// Predictable shortages are errors before anything is allocated
/// ([`KernelError::OutOfMemory`](crate::KernelError::OutOfMemory)). This is for the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct LastWords;

impl LastWords {
    fn or_end(at: *mut u8, bytes: usize) -> *mut u8 {
        if at.is_null() {
            // Neither stderr nor numbers allocate.
            let _ = writeln!(
                io::stderr(),
                "error: out of memory: the system has no {bytes} bytes more; a smaller --batch-size, --quantize q4_k or a \
                 smaller model takes less, ulimit -v or a container's limit may allow more"
            );
            process::exit(1);
        }
        at
    }
}

// SAFETY: every call goes to the system's allocator unchanged, and its result is returned unchanged.
unsafe impl GlobalAlloc for LastWords {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        Self::or_end(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        Self::or_end(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        Self::or_end(unsafe { System.realloc(at, layout, size) }, size)
    }
}

//! How much memory a GGUF header makes the reader allocate, whatever the header says. This is a separate binary,
//! because it counts all allocations.

#[path = "gguf/file.rs"]
#[allow(dead_code)]
mod file;
#[path = "gguf/small.rs"]
mod small;

use dhat::{Alloc, HeapStats, Profiler};

#[global_allocator]
static ALLOCATOR: Alloc = Alloc;

/// The file and what is read from it may take this many times the size of the file: entries of short lists and maps,
/// JSON.
const TIMES: usize = 24;

#[test]
fn memory_is_bounded_by_the_size_of_the_file() {
    let bytes = small::small();
    for (at, changed) in small::changed(&bytes) {
        let _profiler = Profiler::builder().testing().build();
        small::read(changed);
        let most = HeapStats::get().max_bytes;
        assert!(
            most <= TIMES * bytes.len(),
            "byte {at}: {most} bytes are taken for {}",
            bytes.len()
        );
    }
}

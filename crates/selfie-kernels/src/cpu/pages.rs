//! Memory for packed weights.
//!
//! A pass reads all weights once. With pages of 4 KiB, much of that time goes into looking up their addresses. Linux
//! gives huge pages only to whole, aligned 2 MiB, which the matrices of a small model do not have. So matrices share
//! chunks of memory.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

use crate::Result;

/// Bytes of a chunk that matrices share. A larger matrix has one of its own.
const CHUNK: usize = 32 << 20;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Bytes of a small page, at most.
const PAGE: usize = 1 << 16;

/// Where a piece may begin: at a cache line.
const LINE: usize = 64;

/// The chunk that is being filled.
#[derive(Default)]
pub(super) struct Pages(Mutex<Option<Filling>>);

struct Filling {
    chunk: Arc<Chunk>,
    used: usize,
}

struct Chunk {
    #[cfg_attr(any(not(target_os = "linux"), miri), allow(dead_code))]
    map: MmapMut,
    /// The first address that a huge page may have.
    start: usize,
    base: *mut u8,
}

// SAFETY: memory is reached through pieces only, and no two of them overlap.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

/// Zeroed memory, aligned to a cache line. It goes back to the system on drop.
pub(super) struct Piece {
    chunk: Arc<Chunk>,
    start: usize,
    len: usize,
}

impl Pages {
    pub(super) fn piece(&self, len: usize) -> Result<Piece> {
        if len > CHUNK / 2 {
            let chunk = Arc::new(Chunk::new(len)?);
            let start = chunk.start;
            return Ok(Piece { chunk, start, len });
        }
        let mut filling = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let filling = match &mut *filling {
            Some(filling) if filling.used + len <= CHUNK => filling,
            other => {
                let chunk = Arc::new(Chunk::new(CHUNK)?);
                other.insert(Filling { chunk, used: 0 })
            }
        };
        let start = filling.chunk.start + filling.used;
        filling.used += len.next_multiple_of(LINE);
        let chunk = filling.chunk.clone();
        Ok(Piece { chunk, start, len })
    }
}

impl Chunk {
    /// A chunk of `len` bytes from an address that a huge page may have.
    fn new(len: usize) -> Result<Self> {
        let mut map = MmapMut::map_anon(len + HUGE)?;
        #[cfg(all(target_os = "linux", not(miri)))]
        let _ = map.advise(memmap2::Advice::HugePage);
        let base = map.as_mut_ptr();
        let start = base.align_offset(HUGE).min(HUGE);
        Ok(Self { map, start, base })
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the chunk has these bytes. Nobody else has a piece with them.
        unsafe { std::slice::from_raw_parts(self.chunk.base.add(self.start), self.len) }
    }
}

impl DerefMut for Piece {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this piece is borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.base.add(self.start), self.len) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let first = self.start.next_multiple_of(PAGE);
        let end = (self.start + self.len) / PAGE * PAGE;
        #[cfg(all(target_os = "linux", not(miri)))]
        if first < end {
            let (map, advice) = (&self.chunk.map, memmap2::UncheckedAdvice::DontNeed);
            // SAFETY: these bytes belong to this piece alone, and nobody will read them again.
            let _ = unsafe { map.unchecked_advise_range(advice, first, end - first) };
        }
        #[cfg(not(all(target_os = "linux", not(miri))))]
        let _ = (first, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_zeroed_aligned_and_apart() {
        let pages = Pages::default();
        let lengths = [
            0,
            1,
            64,
            65,
            3 << 20,
            CHUNK / 2,
            CHUNK / 2 - 63,
            CHUNK / 2 + 1,
            5000,
        ];
        let mut pieces = Vec::new();
        for (i, len) in lengths.into_iter().enumerate() {
            let mut piece = pages.piece(len).unwrap();
            assert_eq!(piece.len(), len);
            assert_eq!(piece.as_ptr().addr() % LINE, 0);
            assert!(piece.iter().all(|&byte| byte == 0));
            piece.fill(i as u8 + 1);
            pieces.push(piece);
            if i == 4 {
                // Its pages go back, and its neighbours keep theirs.
                pieces.truncate(3);
            }
        }
        let kept = [0, 1, 2, 5, 6, 7, 8];
        for (piece, i) in pieces.iter().zip(kept) {
            assert_eq!(piece.len(), lengths[i]);
            assert!(piece.iter().all(|&byte| byte == i as u8 + 1));
        }
    }
}

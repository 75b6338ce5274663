//! Checks that run along with a kernel.

mod blocks;
mod shared;

pub(crate) use blocks::{BlockRaces, OtherBlock, SMALLEST};
pub(crate) use shared::{Clash, SharedShadow, Thread};

//! What is watched while a kernel runs.

mod blocks;
mod shared;

pub(crate) use blocks::{BlockRaces, OtherBlock, SMALLEST};
pub(crate) use shared::{Clash, SharedShadow, Thread};

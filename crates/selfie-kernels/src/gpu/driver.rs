//! What a device must be able to do.

use super::Launch;
use crate::{DType, Memory, Result};

/// A device: memory, copies, launches and matrix products, in the order they are requested.
///
/// Addresses are plain numbers, as kernels see them. All work goes to one stream. Each call sees what earlier calls
/// have written. Only [`read`](Driver::read) and [`synchronize`](Driver::synchronize) wait for the device, so a later
/// call may report the error of a launch.
pub trait Driver: Send + Sync + 'static {
    /// The device's name and compute capability.
    fn describe(&self) -> String;

    /// The device's memory at this moment.
    fn memory(&self) -> Result<Memory>;

    /// Allocates `bytes` of memory, aligned to 256 bytes, with undefined contents. 0 bytes give an address too. Errors
    /// call the allocation `what`.
    fn alloc(&self, what: &'static str, bytes: u64) -> Result<u64>;

    /// Frees memory, after the work requested so far.
    ///
    /// # Safety
    /// `address` came from [`alloc`](Driver::alloc) and has not been freed, and no later call uses it.
    unsafe fn free(&self, address: u64);

    /// Copies `bytes` to the device. On return the bytes have been read; the device may receive them later.
    ///
    /// # Safety
    /// `to..to + bytes.len()` lies in one allocation.
    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<()>;

    /// Copies from the device, and waits for it.
    ///
    /// # Safety
    /// `from..from + bytes.len()` lies in one allocation and has been written.
    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()>;

    /// Sets `bytes` bytes to zero.
    ///
    /// # Safety
    /// `at..at + bytes` lies in one allocation.
    unsafe fn zero(&self, at: u64, bytes: u64) -> Result<()>;

    /// Runs a kernel. Its module is loaded at the first launch. Dynamic shared memory may be up to 99 KiB; a GPU needs
    /// an opt-in beyond 48 KiB.
    ///
    /// # Safety
    /// The arguments match the kernel's header in number and type. Each address is followed, within one allocation, by
    /// the bytes that the header says the kernel reads or writes.
    unsafe fn launch(&self, launch: &Launch) -> Result<()>;

    /// Multiplies matrices. Products of bf16 and f16 are summed in f32, and rounded once if the output has their type.
    /// f32 is not rounded to TF32.
    ///
    /// # Safety
    /// Each address points to its matrix, in one allocation and aligned to its elements.
    unsafe fn gemm(&self, gemm: &Gemm) -> Result<()>;

    /// Waits for all requested work, and reports any error in it.
    fn synchronize(&self) -> Result<()>;
}

/// `out = a · w` or `out += a · w`: `[m, k]` with `[k, n]` to `[m, n]`, all row-major without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gemm {
    /// `[m, k]`, of `dtype`.
    pub a: u64,
    /// The weight, of `dtype`, as `order` says.
    pub w: u64,
    /// `[m, n]`, of `out_dtype`.
    pub out: u64,
    /// Rows of `a`.
    pub m: usize,
    /// Columns of the output.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// The type of `a` and `w`.
    pub dtype: DType,
    /// The type of `out`: f32 or `dtype`.
    pub out_dtype: DType,
    /// The layout of the weight.
    pub order: WeightOrder,
    /// Whether to add the product to the contents of `out`.
    pub accumulate: bool,
}

/// The layout of a weight in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightOrder {
    /// `[n, k]`: a row for each output, as in checkpoints.
    Outputs,
    /// `[k, n]`: a row for each term of the sum.
    Terms,
}

//! What a device has to be able to do.

use super::Launch;
use crate::{DType, Memory, Result};

/// A device: memory, copies, launches and matrix products, in the order in which they are asked for.
///
/// Addresses are plain numbers, as kernels see them. All work goes to one stream: each call sees what the calls
/// before it have written, and only [`read`](Driver::read) and [`synchronize`](Driver::synchronize) wait for
/// the device. An error of a launch may therefore come out of a later call.
pub trait Driver: Send + Sync + 'static {
    /// What to call this device, with its compute capability.
    fn describe(&self) -> String;

    /// The device's memory, now.
    fn memory(&self) -> Result<Memory>;

    /// `bytes` of memory, aligned to 256 bytes, its contents undefined; an address even for 0 bytes. `what` is what
    /// an error calls it.
    fn alloc(&self, what: &'static str, bytes: u64) -> Result<u64>;

    /// Gives memory back, after the work that was asked for before.
    ///
    /// # Safety
    /// `address` came from [`alloc`](Driver::alloc), has not been freed, and no later call uses it.
    unsafe fn free(&self, address: u64);

    /// Copies `bytes` to the device. They have been taken when it returns; the device may get them later.
    ///
    /// # Safety
    /// `to..to + bytes.len()` lies in one allocation.
    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<()>;

    /// Copies from the device and waits for it.
    ///
    /// # Safety
    /// `from..from + bytes.len()` lies in one allocation and has been written.
    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()>;

    /// Sets `bytes` bytes to zero.
    ///
    /// # Safety
    /// `at..at + bytes` lies in one allocation.
    unsafe fn zero(&self, at: u64, bytes: u64) -> Result<()>;

    /// Runs a kernel. Its module is loaded when it is first asked for; dynamic shared memory may be up to 99 KiB, which a
    /// GPU has to be told of beyond 48.
    ///
    /// # Safety
    /// The arguments are what the kernel's header asks for: as many, of these types, and each address with as many
    /// bytes behind it, in one allocation, as the header says that the kernel reads or writes there.
    unsafe fn launch(&self, launch: &Launch) -> Result<()>;

    /// Multiplies matrices. Products of bf16 and f16 are summed in f32; f32 is not rounded to TF32.
    ///
    /// # Safety
    /// Each address has its matrix behind it, in one allocation, aligned to its elements.
    unsafe fn gemm(&self, gemm: &Gemm) -> Result<()>;

    /// Waits for all that was asked for, and reports what went wrong on the way.
    fn synchronize(&self) -> Result<()>;
}

/// `out = a · w` or `out += a · w`: `[m, k]` with `[k, n]` to `[m, n]`, all row-major without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gemm {
    /// `[m, k]`, of `dtype`.
    pub a: u64,
    /// The weight, of `dtype`, as `order` says.
    pub w: u64,
    /// `[m, n]`, f32.
    pub out: u64,
    /// Rows of `a`.
    pub m: usize,
    /// Columns of the output.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// The type of `a` and `w`.
    pub dtype: DType,
    /// How the weight lies.
    pub order: WeightOrder,
    /// Whether the product is added to what is in `out`.
    pub accumulate: bool,
}

/// How a weight lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightOrder {
    /// `[n, k]`: a row for each output, as checkpoints have it.
    Outputs,
    /// `[k, n]`: a row for each term of the sum.
    Terms,
}

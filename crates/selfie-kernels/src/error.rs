//! The error type of this crate.

use std::io;

use crate::DType;

/// Everything that can go wrong in a backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// An operand's shape does not fit the other operands of the call.
    #[error("{op}: {what} is {found}, expected {expected}")]
    Shape {
        /// The op that was called.
        op: &'static str,
        /// The dimension that is wrong.
        what: &'static str,
        /// What the other operands require.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// A row, slot, token or position lies outside its buffer.
    #[error("{op}: {what} {index} is out of range 0..{len}")]
    OutOfRange {
        /// The op that was called.
        op: &'static str,
        /// What the index counts.
        what: &'static str,
        /// The index that was given.
        index: usize,
        /// The length of the range.
        len: usize,
    },
    /// A buffer does not fit the free memory.
    #[error("{what} needs {bytes} bytes, but only {available} are available on {device}")]
    OutOfMemory {
        /// What was to be allocated.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// Free bytes at the time of the request.
        available: u64,
        /// The device's name.
        device: String,
    },
    /// A weight is NaN or infinite, or became so when it was converted.
    #[error("value {value} at row {row}, column {column} is not a finite {dtype}")]
    NotFinite {
        /// Row of the matrix.
        row: usize,
        /// Column of the matrix.
        column: usize,
        /// The value, as f32.
        value: f32,
        /// The element type that was requested.
        dtype: DType,
    },
    /// A weight's source could not be read.
    #[error("cannot read weight: {0}")]
    Read(#[from] io::Error),
    /// The forced instruction-set path does not exist, or this CPU lacks it.
    #[error("CPU path `{path}` cannot be used: {reason}; this machine has {available}")]
    Path {
        /// The path's name.
        path: String,
        /// Why it was refused.
        reason: &'static str,
        /// The names of the usable paths.
        available: String,
    },
    /// The thread pool could not be started.
    #[error("cannot start {threads} threads: {source}")]
    Threads {
        /// The number of threads requested.
        threads: usize,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The operating system does not say how much memory there is.
    #[error("cannot read the size of the machine's memory: {0}")]
    Memory(io::Error),
    /// A GPU was requested on a machine without a CUDA driver.
    #[error(
        "there is no CUDA driver on this machine (libcuda.so.1 was not found): \
         install NVIDIA's driver, for CUDA 12.0 or later, or use the CPU"
    )]
    NoCudaDriver,
    /// A GPU was requested that the driver does not see.
    #[error(
        "there is no device cuda:{ordinal}: the CUDA driver sees {devices} device(s), counted from 0"
    )]
    NoCudaDevice {
        /// The number requested, from 0.
        ordinal: usize,
        /// The number of devices.
        devices: usize,
    },
    /// The CUDA driver is too old to assemble the kernels.
    #[error(
        "the driver is for CUDA {major}.{minor}, and the kernels need one for CUDA 12.0 or later: \
         update NVIDIA's driver, or use the CPU"
    )]
    OldCudaDriver {
        /// The major version of CUDA that the driver supports.
        major: i32,
        /// The minor version.
        minor: i32,
    },
    /// The GPU is too old for the instructions of the kernels.
    #[error(
        "{device} has compute capability {major}.{minor}, and the kernels need 8.0 (Ampere) or later: \
         use another GPU, or the CPU"
    )]
    OldGpu {
        /// The device's name.
        device: String,
        /// The major compute capability.
        major: i32,
        /// The minor one.
        minor: i32,
    },
    /// The library for matrix products is missing.
    #[error(
        "cuBLASLt was not found (libcublasLt.so.13 or .12): install the CUDA toolkit or the Python package \
         nvidia-cublas, and put the folder of that file into LD_LIBRARY_PATH; or use the CPU"
    )]
    NoCublasLt,
    /// The device's driver refused a request, or earlier work failed.
    #[error("{device}: {doing}: {reason}")]
    Device {
        /// The device's name.
        device: String,
        /// What was being done.
        doing: String,
        /// What the driver reports.
        reason: String,
    },
    /// The device wrote fewer rows than the injections named.
    #[error("inject: {written} of {asked} rows were written")]
    MissedInjection {
        /// Rows that should have been written since the last check of the tally.
        asked: u64,
        /// Rows that were written.
        written: u64,
    },
    /// No injection mode has this name.
    #[error("there is no injection mode `{name}`; use one of {names}")]
    Mode {
        /// The name given.
        name: String,
        /// The names of all modes.
        names: String,
    },
    /// The device cannot keep keys and values in the chosen dtype.
    #[error(
        "{device} keeps keys and values in the dtype of the weights, {weights}, and cannot keep them in {chosen}: \
         choose {weights} or none, or use the CPU"
    )]
    KvDType {
        /// The dtype that was chosen.
        chosen: DType,
        /// The dtype of the weights.
        weights: DType,
        /// The device's name.
        device: String,
    },
    /// A request that this implementation cannot serve.
    #[error("{op}: {reason}")]
    Unsupported {
        /// The op that was called.
        op: &'static str,
        /// Why it is refused.
        reason: String,
    },
}

/// The result type of this crate.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

/// `Ok` if the two are equal, otherwise a [`KernelError::Shape`].
pub(crate) fn check_shape(
    op: &'static str,
    what: &'static str,
    expected: usize,
    found: usize,
) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(KernelError::Shape {
        op,
        what,
        expected,
        found,
    })
}

/// `Ok` if `index < len`, otherwise a [`KernelError::OutOfRange`].
pub(crate) fn check_index(
    op: &'static str,
    what: &'static str,
    index: usize,
    len: usize,
) -> Result<()> {
    if index < len {
        return Ok(());
    }
    Err(KernelError::OutOfRange {
        op,
        what,
        index,
        len,
    })
}

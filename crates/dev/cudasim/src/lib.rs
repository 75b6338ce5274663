//! A `libcuda.so` and a `libcublasLt.so` without a GPU: the part of NVIDIA's driver API that Selfie calls, on top of
//! [`selfie_ptxsim`].
//!
//! A program that loads CUDA dynamically runs on it unchanged, when links of both names to this library stand in its
//! `LD_LIBRARY_PATH`. So a CUDA driver is tested where there is no GPU: that arguments arrive in order and in type, that
//! shared memory is asked for, that graphs hold what was captured, that nothing waits inside a capture. What it cannot
//! show: timing, real concurrency of streams, what a compiler makes of the PTX, and cuBLASLt's choice of algorithms.
//!
//! Work is done when it is asked for, so every stream is always idle. What is not supported is an error, said on
//! stderr. The device calls itself `a simulated GPU`, compute capability 8.0.

#![expect(
    missing_docs,
    reason = "names and arguments are NVIDIA's: CUDA driver API and cuBLASLt reference"
)]

pub mod blas;
pub mod cuda;
mod device;
pub mod product;

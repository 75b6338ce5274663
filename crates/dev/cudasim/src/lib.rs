//! A `libcuda.so` and a `libcublasLt.so` without a GPU: the part of NVIDIA's driver API that Selfie calls, on top of
//! [`selfie_ptxsim`].
//!
//! A program that loads CUDA dynamically runs on it unchanged, when links of both names to this library stand in its
//! `LD_LIBRARY_PATH`. So a CUDA driver is tested where there is no GPU: that arguments arrive in order and in type, that
//! shared memory is asked for, that graphs hold what was captured, that nothing waits inside a capture. What it cannot
//! show: timing, real concurrency of streams, what a compiler makes of the PTX, and cuBLASLt's choice of algorithms.
//!
//! Work is queued, and runs when somebody waits for it (a stream, an event, the context, a copy that waits, a free), as late
//! as it may: pinned memory of the host is read then, other memory when the copy is asked for. Freed pinned
//! memory is overwritten; what uses freed device memory, or reads what nothing has written, is an error. An error
//! of work that ran is that of every later call. What is not supported is an error, said on stderr. The device
//! calls itself `a simulated GPU`, compute capability 8.0.
//!
//! Faults can be asked for by variables of the environment, each the number of a call, from 1:
//!
//! | variable | what fails |
//! |---|---|
//! | `CUDASIM_NOT_SUPPORTED` | `cublasLtMatmul`, with `CUBLAS_STATUS_NOT_SUPPORTED` |
//! | `CUDASIM_FAIL_CAPTURE` | `cuStreamEndCapture`: the capture is invalid |
//! | `CUDASIM_ILLEGAL_ADDRESS` | a kernel, once it runs; the context is lost |
//! | `CUDASIM_OUT_OF_MEMORY` | `cuMemAlloc` |
//!
//! `CUDASIM_TRACE` names a file to which calls that tests count are appended, a line each: contexts that are retained,
//! captures, and launches of graphs.

#![expect(
    missing_docs,
    reason = "names and arguments are NVIDIA's: CUDA driver API and cuBLASLt reference"
)]

pub mod blas;
pub mod cuda;
mod device;
mod faults;
pub mod product;

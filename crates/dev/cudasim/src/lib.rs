//! A `libcuda.so` and a `libcublasLt.so` that need no GPU: the part of NVIDIA's driver API that Selfie calls, on top of
//! [`selfie_ptxsim`].
//!
//! A program that loads CUDA dynamically runs on this library unchanged, if its `LD_LIBRARY_PATH` has links of both
//! names to it. So a CUDA driver can be tested without a GPU: the order and types of arguments, opt-ins for shared
//! memory, the contents of captured graphs, and that nothing waits inside a capture. It cannot test timing, real
//! concurrency of streams, compiled PTX, or cuBLASLt's choice of algorithms.
//!
//! Work is queued. It runs as late as possible: when somebody waits for it (a stream, an event, the context, a blocking
//! copy, a free). Pinned host memory is read then; other memory is read when the copy is requested. Freed pinned memory
//! is overwritten. Using freed device memory, or reading unwritten memory, is an error. The error of work that ran is
//! returned by every later call. Unsupported calls are errors, explained on stderr. The device calls itself `a
//! simulated GPU`, with compute capability 8.0.
//!
//! Environment variables request faults. Each holds the number of a call, from 1:
//!
//! | variable | what fails |
//! |---|---|
//! | `CUDASIM_NOT_SUPPORTED` | `cublasLtMatmul`, with `CUBLAS_STATUS_NOT_SUPPORTED` |
//! | `CUDASIM_FAIL_CAPTURE` | `cuStreamEndCapture`: the capture is invalid |
//! | `CUDASIM_ILLEGAL_ADDRESS` | a kernel, once it runs; the context is lost |
//! | `CUDASIM_OUT_OF_MEMORY` | `cuMemAlloc` |
//!
//! `CUDASIM_SCHEDULE` is the seed of a random schedule of warps. `CUDASIM_TENSOR_CORES` is `a100` or `h100`: products
//! of halves truncate as their tensor cores do. `CUDASIM_TRACE` names a file. Calls that tests count are appended to
//! it, one a line: retained contexts, captures and launches of graphs.

#![expect(
    missing_docs,
    reason = "names and arguments are NVIDIA's: CUDA driver API and cuBLASLt reference"
)]

pub mod blas;
pub mod cuda;
mod device;
mod faults;
pub mod product;

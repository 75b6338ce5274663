//! Shared by the test binaries: kernels from a few lines, and one allocation to work on.
#![allow(dead_code, reason = "each test binary uses its own part")]

use selfie_ptxsim::{Arg, Config, Gpu, Module, Place, Report, Result, SimError};

/// A module with one kernel `k(p)`: `%rd0` is the parameter, `%r0` the thread's index, and registers are declared. The
/// body starts in line 14.
pub(crate) fn module(shared: &str, body: &str) -> String {
    format!(
        ".version 8.0
.target sm_80
.address_size 64
{shared}
.visible .entry k(.param .u64 p) {{
.reg .pred %p<8>;
.reg .b16 %h<8>;
.reg .b32 %r<32>;
.reg .f32 %f<32>;
.reg .b64 %rd<16>;
.reg .f64 %d<4>;
ld.param.u64 %rd0, [p];
mov.u32 %r0, %tid.x;
{body}
}}
"
    )
}

/// The line of the body's first instruction.
pub(crate) const FIRST: u32 = 14;

/// Device memory of `words` 32-bit words, the first of which hold `values`.
pub(crate) fn device(words: usize, values: &[u32]) -> (Gpu, u64) {
    let mut gpu = Gpu::new();
    let p = gpu.alloc(4 * words as u64).unwrap();
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    gpu.write(p, &bytes).unwrap();
    (gpu, p)
}

/// The words of device memory.
pub(crate) fn words(gpu: &Gpu, p: u64, n: usize) -> Vec<u32> {
    let mut bytes = vec![0; 4 * n];
    gpu.read(p, &mut bytes).unwrap();
    bytes
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// Launches `k`.
pub(crate) fn launch(
    gpu: &mut Gpu,
    source: &str,
    blocks: u32,
    threads: u32,
    p: u64,
) -> Result<Report> {
    let module = Module::parse(source)?;
    let config = Config {
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        dynamic_shared: 0,
    };
    gpu.launch(&module, "k", &config, &[Arg::U64(p)])
}

/// Runs a body on `values`, and returns the memory afterwards.
pub(crate) fn run(shared: &str, body: &str, threads: u32, values: &[u32]) -> Result<Vec<u32>> {
    let (mut gpu, p) = device(values.len(), values);
    launch(&mut gpu, &module(shared, body), 1, threads, p)?;
    Ok(words(&gpu, p, values.len()))
}

/// The error of a body, run by one block on 64 words that hold their indices.
pub(crate) fn failure(shared: &str, body: &str, threads: u32) -> SimError {
    let values: Vec<u32> = (0..64).collect();
    run(shared, body, threads, &values).expect_err("this kernel is wrong")
}

/// Shared memory of 1024 bytes at `s`.
pub(crate) const SHARED: &str = ".shared .align 16 .b8 s[1024];";
/// `%r1` is the shared address of the thread's own word.
pub(crate) const OWN: &str = "mov.u32 %r1, s; mad.lo.u32 %r1, %r0, 4, %r1;";

/// A body with the address of the thread's own word in `%r1`.
pub(crate) fn body(text: &str) -> String {
    format!("{OWN} {text} ret;")
}

/// The line and the thread of a place.
pub(crate) fn at(place: &Place) -> (u32, u32) {
    (place.line, place.thread[0])
}

//! Measures the simulator's speed: `cargo run --release -p selfie-ptxsim --example throughput [NAME]`.
//!
//! A name selects the instructions that contain it. Times are wall-clock times. On a busy machine, compare CPU times of
//! single instructions.

use std::time::Instant;

use selfie_ptxsim::{Arg, Config, Gpu, Module, Result};

/// A loop around `body`, run by 64 blocks of 128 threads. Each thread has 16 bytes of device memory and of shared
/// memory.
fn source(body: &str) -> String {
    format!(
        ".version 8.0
.target sm_80
.address_size 64
.shared .align 128 .b8 s[16384];
.visible .entry k(.param .u64 p) {{
.reg .pred %p<4>;
.reg .b32 %r<32>;
.reg .f32 %f<32>;
.reg .b64 %rd<8>;
ld.param.u64 %rd0, [p];
mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mad.lo.u32 %r2, %r1, 128, %r0;
mul.wide.u32 %rd1, %r2, 16; add.u64 %rd0, %rd0, %rd1;
mov.u32 %r3, s; mad.lo.u32 %r3, %r0, 16, %r3;
mov.f32 %f0, 0f3f800000; mov.f32 %f1, 0f3f800001; mov.f32 %f2, 0f00000000; mov.f32 %f3, 0f00000000; mov.f32 %f4, 0f00000000; mov.f32 %f5, 0f00000000;
mov.u32 %r8, 0; mov.u32 %r9, 1; mov.u32 %r10, 2; mov.u32 %r11, 3;
st.shared.v4.u32 [%r3], {{%r8, %r9, %r10, %r11}};
bar.sync 0;
mov.u32 %r4, 0;
L:
{}
add.u32 %r4, %r4, 1;
setp.lt.u32 %p0, %r4, 400;
@%p0 bra L;
ret;
}}
",
        body.repeat(8)
    )
}

fn main() -> Result<()> {
    let bodies = [
        (
            "add.u32, xor.b32",
            "add.u32 %r8, %r8, %r9; xor.b32 %r9, %r9, %r8;",
        ),
        ("fma.rn.f32", "fma.rn.f32 %f2, %f0, %f1, %f2;"),
        (
            "add.f32, mul.f32",
            "add.f32 %f2, %f0, %f2; mul.f32 %f1, %f1, %f0;",
        ),
        ("ex2.approx.ftz.f32", "ex2.approx.ftz.f32 %f3, %f0;"),
        ("cvt.rn.bf16x2.f32", "cvt.rn.bf16x2.f32 %r8, %f0, %f1;"),
        (
            "shfl.sync.bfly.b32",
            "shfl.sync.bfly.b32 %r8, %r9, 1, 31, 0xffffffff;",
        ),
        (
            "ld.global.v4.u32",
            "ld.global.v4.u32 {%r8, %r9, %r10, %r11}, [%rd0];",
        ),
        ("st.global.u32", "st.global.u32 [%rd0], %r8;"),
        (
            "ld.shared.v4.u32",
            "ld.shared.v4.u32 {%r8, %r9, %r10, %r11}, [%r3];",
        ),
        ("st.shared.u32", "st.shared.u32 [%r3], %r8;"),
        (
            "ldmatrix x4",
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r8, %r9, %r10, %r11}, [%r3];",
        ),
        (
            "mma m16n8k16 bf16",
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f2, %f3, %f4, %f5}, {%r8, %r9, %r10, %r11}, {%r8, %r9}, {%f2, %f3, %f4, %f5};",
        ),
    ];
    println!("{} threads", rayon::current_num_threads());
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for (name, body) in bodies
        .into_iter()
        .filter(|(name, _)| name.contains(&wanted))
    {
        let module = Module::parse(&source(body))?;
        let mut gpu = Gpu::new();
        let p = gpu.alloc(64 * 128 * 16)?;
        gpu.write(p, &vec![0; 64 * 128 * 16])?;
        let config = Config {
            grid: [64, 1, 1],
            block: [128, 1, 1],
            dynamic_shared: 0,
        };
        let start = Instant::now();
        let report = gpu.launch(&module, "k", &config, &[Arg::U64(p)])?;
        let seconds = start.elapsed().as_secs_f64();
        let threads = report.total.instructions.threads as f64;
        let (rate, all) = (threads / seconds / 1e6, threads / 1e6);
        println!("{name:20} {rate:7.0} M thread instructions/s, {all:.1} M in all");
    }
    Ok(())
}

//! Measures a path's multiply-add instructions on registers alone: the upper limit of every matrix product.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use selfie_kernels::{Cpu, CpuPath, DType};

/// How long each thread multiplies.
const TIME: Duration = Duration::from_millis(100);

/// Multiply-adds of each sum between two checks of the clock.
const ROUNDS: usize = 10_000;

/// Floating-point operations per second of as many threads as `cpu` has, with its path's instructions and without
/// reading memory: the upper limit of a matrix product with weights of `dtype`. Takes a fifth of a second.
pub fn peak(cpu: &Cpu, dtype: DType) -> f64 {
    let round = round(cpu.path(), dtype);
    let together = Barrier::new(cpu.threads());
    thread::scope(|scope| {
        let timed = || {
            together.wait();
            timed(round)
        };
        let threads: Vec<_> = (0..cpu.threads()).map(|_| scope.spawn(timed)).collect();
        let rates = threads.into_iter().map(|thread| thread.join());
        rates
            .map(|rate| rate.expect("a round does not panic"))
            .sum()
    })
}

/// Runs rounds until the time is up. `round` returns the number of its operations.
fn timed(round: fn() -> f64) -> f64 {
    round();
    let start = Instant::now();
    let mut done = 0.0;
    while start.elapsed() < TIME {
        done += round();
    }
    done / start.elapsed().as_secs_f64()
}

/// The instructions that a path uses for weights of `dtype`. Only for paths that the machine has, such as that of a
/// [`Cpu`].
#[cfg(target_arch = "x86_64")]
fn round(path: CpuPath, dtype: DType) -> fn() -> f64 {
    let bf16 = dtype == DType::Bf16;
    match path {
        CpuPath::Portable => portable,
        CpuPath::Avx2 => x86::avx2,
        CpuPath::Amx if bf16 => x86::amx,
        CpuPath::Avx512 if bf16 => x86::avx512_bf16,
        CpuPath::Avx512 | CpuPath::Amx => x86::avx512,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn round(_: CpuPath, _: DType) -> fn() -> f64 {
    portable
}

/// Independent sums in plain Rust: enough to hide the latency of an addition, few enough to fit the registers.
fn portable() -> f64 {
    sums::<48>(|a, b, c| a * b + c)
}

#[inline(always)]
fn sums<const SUMS: usize>(mul_add: impl Fn(f32, f32, f32) -> f32) -> f64 {
    let mut sums = black_box([1.0f32; SUMS]);
    let (a, b) = (black_box(0.999f32), black_box(0.001f32));
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = mul_add(*sum, a, b);
        }
    }
    black_box(sums);
    (2 * SUMS * ROUNDS) as f64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    use super::{ROUNDS, sums};

    pub(super) fn avx2() -> f64 {
        #[target_feature(enable = "avx2,fma")]
        fn with_avx2() -> f64 {
            sums::<96>(f32::mul_add)
        }
        // SAFETY: only reached for a path that the machine has.
        unsafe { with_avx2() }
    }

    pub(super) fn avx512() -> f64 {
        #[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
        fn with_avx512() -> f64 {
            sums::<192>(f32::mul_add)
        }
        // SAFETY: only reached for a path that the machine has.
        unsafe { with_avx512() }
    }

    /// `[16, 32] x [32, 16]`, four of them a round, on tiles of zeros.
    pub(super) fn amx() -> f64 {
        let mut config = [0u8; 64];
        config[0] = 1;
        for tile in 0..8 {
            config[16 + 2 * tile] = 64;
            config[48 + tile] = 16;
        }
        // SAFETY: only reached for a path that the machine has, and whose backend requested the tiles. The
        // configuration is eight full tiles.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                "2:",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                config = in(reg) config.as_ptr(),
                rounds = inout(reg) ROUNDS => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
        (ROUNDS * 4 * 2 * 16 * 16 * 32) as f64
    }

    /// Sixteen dot products of pairs, twelve of them a round, on registers of zeros.
    pub(super) fn avx512_bf16() -> f64 {
        // SAFETY: only reached for a path that the machine has.
        unsafe {
            asm!(
                "vpxord zmm12, zmm12, zmm12",
                "vpxord zmm13, zmm13, zmm13",
                "2:",
                "vdpbf16ps zmm0, zmm12, zmm13", "vdpbf16ps zmm1, zmm12, zmm13",
                "vdpbf16ps zmm2, zmm12, zmm13", "vdpbf16ps zmm3, zmm12, zmm13",
                "vdpbf16ps zmm4, zmm12, zmm13", "vdpbf16ps zmm5, zmm12, zmm13",
                "vdpbf16ps zmm6, zmm12, zmm13", "vdpbf16ps zmm7, zmm12, zmm13",
                "vdpbf16ps zmm8, zmm12, zmm13", "vdpbf16ps zmm9, zmm12, zmm13",
                "vdpbf16ps zmm10, zmm12, zmm13", "vdpbf16ps zmm11, zmm12, zmm13",
                "dec {rounds}",
                "jnz 2b",
                rounds = inout(reg) ROUNDS => _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                out("zmm12") _, out("zmm13") _,
                options(nostack, nomem),
            );
        }
        (ROUNDS * 12 * 2 * 16 * 2) as f64
    }
}

#[cfg(test)]
mod tests {
    use selfie_kernels::{Cpu, CpuOptions, CpuPath, DType};

    #[test]
    fn every_path_has_a_peak() {
        for path in CpuPath::available() {
            let options = CpuOptions {
                threads: Some(1),
                path: Some(path),
            };
            let cpu = Cpu::new(options).unwrap();
            for dtype in [DType::F32, DType::Bf16] {
                let peak = super::peak(&cpu, dtype);
                assert!(peak > 1e8 && peak < 1e13, "{path}, {dtype}: {peak:e}");
            }
        }
    }
}

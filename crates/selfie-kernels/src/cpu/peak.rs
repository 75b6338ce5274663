//! How fast a path's multiply-add instructions are on registers alone: the roof above every matrix product.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::simd::{Isa, Loop, Simd};
use crate::DType;

/// How long each thread multiplies.
const TIME: Duration = Duration::from_millis(100);

/// Multiply-adds between two looks at the clock.
const ROUNDS: usize = 10_000;

/// Floating-point operations a second of the calling thread, with operands of `dtype` weights.
pub(super) fn flops(isa: Isa, dtype: DType) -> f64 {
    let bf16 = dtype == DType::Bf16;
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx(_) if bf16 => timed(x86::amx),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) if bf16 => timed(x86::avx512_bf16),
        // As many sums as hide the latency of an addition and still fit the registers.
        Isa::Portable(_) => timed(|| isa.run(Plain::<48>)),
        Isa::Avx2(_) => timed(|| isa.run(Plain::<96>)),
        Isa::Avx512(_) | Isa::Amx(_) => timed(|| isa.run(Plain::<192>)),
    }
}

/// Runs rounds until the time is up; `round` returns the operations that it did.
fn timed(round: impl Fn() -> f64) -> f64 {
    round();
    let start = Instant::now();
    let mut done = 0.0;
    while start.elapsed() < TIME {
        done += round();
    }
    done / start.elapsed().as_secs_f64()
}

/// Independent f32 sums.
struct Plain<const SUMS: usize>;

impl<const SUMS: usize> Loop for Plain<SUMS> {
    type Out = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let mut sums = black_box([1.0f32; SUMS]);
        let (a, b) = (black_box(0.999f32), black_box(0.001f32));
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = s.mul_add(*sum, a, b);
            }
        }
        black_box(sums);
        (2 * SUMS * ROUNDS) as f64
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;

    use super::ROUNDS;

    /// `[16, 32] x [32, 16]`, four of them a round, on tiles of zeros.
    pub(super) fn amx() -> f64 {
        let mut config = [0u8; 64];
        config[0] = 1;
        for tile in 0..8 {
            config[16 + 2 * tile] = 64;
            config[48 + tile] = 16;
        }
        // SAFETY: only reached with the proof that tiles are there and allowed; the configuration is eight full tiles.
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
        // SAFETY: only reached with the proof that AVX-512 with bf16 is there.
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

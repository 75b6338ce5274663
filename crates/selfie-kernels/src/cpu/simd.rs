//! Tokens that prove an instruction set is available, and a way to compile one loop for each of them.

use std::array::from_fn;

use half::{bf16, f16};

use super::CpuPath;
use super::math::{widen_bf16, widen_f16};

/// Floats that are summed side by side. A fixed number, so that the order of a sum does not depend on the instruction
/// set's width.
pub(super) const LANES: usize = 16;

/// The operations that a loop takes from the instruction set it is compiled for.
pub(super) trait Simd: Copy {
    /// Sums that a loop holds in registers at a time. They leave room for operands, and hide the latency of an
    /// addition.
    const SUMS: usize;

    /// `a * b + c`, fused if one instruction of the hardware does it.
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32;
    /// The exact values of `x`. `W` is a multiple of [`LANES`].
    fn widen_f16<const W: usize>(self, x: &[f16; W]) -> [f32; W];
    /// The exact values of `x`. `W` is a multiple of [`LANES`].
    fn widen_bf16<const W: usize>(self, x: &[bf16; W]) -> [f32; W];
}

/// A loop that [`Isa::run`] compiles for each instruction set. `run` must be `#[inline(always)]`.
pub(super) trait Loop {
    type Out;
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Portable;

/// Proof that AVX2, FMA and F16C are available.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

/// Proof that AVX-512 F, BW, VL, BF16 and VNNI are available, and everything that [`Avx2`] proves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

/// Proof that AMX tiles multiply bf16, and that the kernel lets this process use them.
#[derive(Clone, Copy, Debug)]
pub(super) struct AmxBf16(());

/// Proof that AMX tiles multiply bytes too.
#[derive(Clone, Copy, Debug)]
pub(super) struct AmxInt8(AmxBf16);

/// The proofs of the AMX path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amx {
    pub(super) avx512: Avx512,
    pub(super) bf16: AmxBf16,
    pub(super) int8: Option<AmxInt8>,
}

/// The instruction set in use.
#[derive(Clone, Copy, Debug)]
pub(super) enum Isa {
    Portable(Portable),
    Avx2(Avx2),
    Avx512(Avx512),
    Amx(Amx),
}

impl Isa {
    pub(super) const PORTABLE: Isa = Isa::Portable(Portable);

    /// The proof for `path`, if this machine has it.
    pub(super) fn new(path: CpuPath) -> Option<Self> {
        match path {
            CpuPath::Portable => Some(Isa::PORTABLE),
            CpuPath::Avx2 => Avx2::new().map(Isa::Avx2),
            CpuPath::Avx512 => Avx512::new().map(Isa::Avx512),
            CpuPath::Amx => Amx::new().map(Isa::Amx),
        }
    }

    pub(super) fn path(self) -> CpuPath {
        match self {
            Isa::Portable(_) => CpuPath::Portable,
            Isa::Avx2(_) => CpuPath::Avx2,
            Isa::Avx512(_) => CpuPath::Avx512,
            Isa::Amx(_) => CpuPath::Amx,
        }
    }

    /// Runs the loop, compiled for the instruction set.
    #[inline]
    pub(super) fn run<L: Loop>(self, l: L) -> L::Out {
        match self {
            Isa::Portable(s) => l.run(s),
            Isa::Avx2(s) => s.run(l),
            Isa::Avx512(s) | Isa::Amx(Amx { avx512: s, .. }) => s.run(l),
        }
    }
}

impl Simd for Portable {
    const SUMS: usize = 4 * LANES;

    #[inline(always)]
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }

    #[inline(always)]
    fn widen_f16<const W: usize>(self, x: &[f16; W]) -> [f32; W] {
        from_fn(|i| widen_f16(x[i]))
    }

    #[inline(always)]
    fn widen_bf16<const W: usize>(self, x: &[bf16; W]) -> [f32; W] {
        from_fn(|i| widen_bf16(x[i]))
    }
}

impl Simd for Avx2 {
    const SUMS: usize = 4 * LANES;

    #[inline(always)]
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn widen_f16<const W: usize>(self, x: &[f16; W]) -> [f32; W] {
        self.convert_f16(x)
    }

    #[inline(always)]
    fn widen_bf16<const W: usize>(self, x: &[bf16; W]) -> [f32; W] {
        self.convert_bf16(x)
    }
}

impl Simd for Avx512 {
    const SUMS: usize = 8 * LANES;

    #[inline(always)]
    fn mul_add(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn widen_f16<const W: usize>(self, x: &[f16; W]) -> [f32; W] {
        self.convert_f16(x)
    }

    #[inline(always)]
    fn widen_bf16<const W: usize>(self, x: &[bf16; W]) -> [f32; W] {
        self.convert_bf16(x)
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Avx2(()))
    }

    #[inline]
    fn run<L: Loop>(self, l: L) -> L::Out {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn with_avx2<L: Loop>(s: Avx2, l: L) -> L::Out {
            l.run(s)
        }
        // SAFETY: `self` proves that the features are present.
        unsafe { with_avx2(self, l) }
    }

    #[inline(always)]
    fn convert_f16<const W: usize>(self, x: &[f16; W]) -> [f32; W] {
        use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
        const { assert!(W.is_multiple_of(LANES)) }
        let mut out = [0.0; W];
        for (out, x) in out
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .zip(x.as_chunks::<8>().0)
        {
            // SAFETY: `self` proves that F16C is present, and both pointers are to eight values.
            unsafe {
                let x = _mm_loadu_si128(x.as_ptr().cast());
                _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(x));
            }
        }
        out
    }

    #[inline(always)]
    fn convert_bf16<const W: usize>(self, x: &[bf16; W]) -> [f32; W] {
        use std::arch::x86_64::{
            _mm_loadu_si128, _mm256_cvtepu16_epi32, _mm256_slli_epi32, _mm256_storeu_si256,
        };
        const { assert!(W.is_multiple_of(LANES)) }
        let mut out = [0.0f32; W];
        for (out, x) in out
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .zip(x.as_chunks::<8>().0)
        {
            // SAFETY: `self` proves that AVX2 is present, and both pointers are to eight values.
            unsafe {
                let x = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
                _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_slli_epi32::<16>(x));
            }
        }
        out
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    fn new() -> Option<Self> {
        let has = Avx2::new().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512vnni");
        has.then_some(Avx512(()))
    }

    #[inline]
    fn run<L: Loop>(self, l: L) -> L::Out {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")]
        fn with_avx512<L: Loop>(s: Avx512, l: L) -> L::Out {
            l.run(s)
        }
        // SAFETY: `self` proves that the features are present.
        unsafe { with_avx512(self, l) }
    }

    #[inline(always)]
    fn convert_f16<const W: usize>(self, x: &[f16; W]) -> [f32; W] {
        use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps};
        const { assert!(W.is_multiple_of(LANES)) }
        let mut out = [0.0; W];
        for (out, x) in out
            .as_chunks_mut::<16>()
            .0
            .iter_mut()
            .zip(x.as_chunks::<16>().0)
        {
            // SAFETY: `self` proves that AVX-512 F is present, and both pointers are to sixteen values.
            unsafe {
                let x = _mm256_loadu_si256(x.as_ptr().cast());
                _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(x));
            }
        }
        out
    }

    #[inline(always)]
    fn convert_bf16<const W: usize>(self, x: &[bf16; W]) -> [f32; W] {
        use std::arch::x86_64::{
            _mm256_loadu_si256, _mm512_cvtepu16_epi32, _mm512_slli_epi32, _mm512_storeu_si512,
        };
        const { assert!(W.is_multiple_of(LANES)) }
        let mut out = [0.0f32; W];
        for (out, x) in out
            .as_chunks_mut::<16>()
            .0
            .iter_mut()
            .zip(x.as_chunks::<16>().0)
        {
            // SAFETY: `self` proves that AVX-512 F is present, and both pointers are to sixteen values.
            unsafe {
                let x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
                _mm512_storeu_si512(out.as_mut_ptr().cast(), _mm512_slli_epi32::<16>(x));
            }
        }
        out
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
impl Amx {
    fn new() -> Option<Self> {
        use std::arch::x86_64::__cpuid_count;
        use std::sync::OnceLock;
        /// Bits of CPUID 7.0 EDX.
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        const AMX_INT8: u32 = 1 << 25;
        static GRANTED: OnceLock<bool> = OnceLock::new();

        let avx512 = Avx512::new()?;
        let features = __cpuid_count(7, 0).edx;
        let granted = GRANTED.get_or_init(|| {
            features & AMX_BF16 != 0 && features & AMX_TILE != 0 && request_tile_data()
        });
        let bf16 = granted.then_some(AmxBf16(()))?;
        let int8 = (features & AMX_INT8 != 0).then_some(AmxInt8(bf16));
        Some(Amx { avx512, bf16, int8 })
    }
}

#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
impl AmxInt8 {
    /// The proof of this machine, or of the emulator, which takes the place of missing hardware.
    pub(super) fn new_or_emulated() -> Self {
        Amx::new().and_then(|amx| amx.int8).unwrap_or_else(|| {
            super::amx_emulator::install();
            AmxInt8(AmxBf16(()))
        })
    }
}

impl AmxInt8 {
    pub(super) fn bf16(self) -> AmxBf16 {
        self.0
    }
}

/// Asks Linux (5.16 or newer) for the 8 KiB of tile registers. Threads started later have them too.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn request_tile_data() -> bool {
    const SYS_ARCH_PRCTL: u64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let status: i64;
    // SAFETY: this system call takes two numbers and touches no memory of this process.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") SYS_ARCH_PRCTL => status,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    status == 0
}

/// On other targets the proofs cannot be constructed.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
impl Amx {
    fn new() -> Option<Self> {
        None
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Avx2 {
    fn new() -> Option<Self> {
        None
    }

    fn run<L: Loop>(self, l: L) -> L::Out {
        l.run(self)
    }

    fn convert_f16<const W: usize>(self, x: &[f16; W]) -> [f32; W] {
        Portable.widen_f16(x)
    }

    fn convert_bf16<const W: usize>(self, x: &[bf16; W]) -> [f32; W] {
        Portable.widen_bf16(x)
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Avx512 {
    fn new() -> Option<Self> {
        None
    }

    fn run<L: Loop>(self, l: L) -> L::Out {
        l.run(self)
    }

    fn convert_f16<const W: usize>(self, x: &[f16; W]) -> [f32; W] {
        Portable.widen_f16(x)
    }

    fn convert_bf16<const W: usize>(self, x: &[bf16; W]) -> [f32; W] {
        Portable.widen_bf16(x)
    }
}

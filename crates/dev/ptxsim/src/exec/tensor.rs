//! How the sums of `mma.sync` round.

/// The most products that are added at a time.
const MOST: usize = 16;

/// How `mma.sync` rounds its sums. The PTX ISA leaves this open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TensorCores {
    /// Products are added one after the other by rising k, and each sum is rounded to the nearest f32.
    #[default]
    Nearest,
    /// As hardware does: `products` products and the sum so far are cut off `extra_bits` below the last bit that an f32
    /// as large as the largest of them has, added exactly, and their sum is truncated to f32 (Fasi, Higham, Mikaitis
    /// and Pranesh 2021, *Numerical behavior of NVIDIA tensor cores*, section 4; Khattak and Mikaitis 2025, arXiv
    /// 2512.07004). Hardware may align a product one bit finer, because it does not normalise it first.
    Truncating {
        /// Products that are added at a time: 1 to 16.
        products: usize,
        /// Bits that are kept beyond the 24 of an f32.
        extra_bits: u8,
    },
}

impl TensorCores {
    /// Those of the A100.
    pub const A100: Self = Self::Truncating {
        products: 8,
        extra_bits: 1,
    };
    /// Those of the H100 and the H200.
    pub const H100: Self = Self::Truncating {
        products: 16,
        extra_bits: 2,
    };

    /// `sum` plus the products of the values of `a` and `b`, which are exact in f64: halves, bf16 or tf32.
    pub fn add_products(self, sum: f32, a: &[f32], b: &[f32]) -> f32 {
        match self {
            Self::Nearest => a.iter().zip(b).fold(sum, |sum, (a, b)| sum + a * b),
            Self::Truncating {
                products,
                extra_bits,
            } => a
                .chunks(products.min(MOST))
                .zip(b.chunks(products.min(MOST)))
                .fold(sum, |sum, (a, b)| truncated_sum(sum, a, b, extra_bits)),
        }
    }
}

/// At most [`MOST`] products.
fn truncated_sum(sum: f32, a: &[f32], b: &[f32], extra_bits: u8) -> f32 {
    let sum = f64::from(sum);
    let mut products = [0f64; MOST];
    for ((product, &a), &b) in products.iter_mut().zip(a).zip(b) {
        *product = f64::from(a) * f64::from(b);
    }
    let largest = products.iter().fold(sum.abs(), |x, y| x.max(y.abs()));
    let plain = products.iter().fold(sum, |sum, x| sum + x);
    if !plain.is_finite() || largest == 0.0 {
        return plain as f32;
    }
    let last_bit = exponent(largest) - 23 - i64::from(extra_bits);
    // Integers below 2^32: their sum is exact.
    let cut = |x: f64| (x * power_of_two(-last_bit)) as i64;
    let total = products.iter().fold(cut(sum), |total, &x| total + cut(x));
    toward_zero(total as f64 * power_of_two(last_bit))
}

/// The exponent of a normal number.
fn exponent(x: f64) -> i64 {
    (x.to_bits() >> 52 & 0x7ff) as i64 - 1023
}

/// 2^`exponent`, a normal number.
fn power_of_two(exponent: i64) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

fn toward_zero(x: f64) -> f32 {
    let nearest = x as f32;
    if nearest.is_finite() && f64::from(nearest).abs() > x.abs() {
        f32::from_bits(nearest.to_bits() - 1)
    } else {
        nearest
    }
}

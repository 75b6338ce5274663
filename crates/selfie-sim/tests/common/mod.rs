//! The tables of cases of selfie-kernels, and what they need to know of a simulated GPU.

#[path = "../../../selfie-kernels/tests/cases/mod.rs"]
pub mod cases;

use cases::Operands;
use selfie_kernels::DType;
use selfie_sim::Sim;

impl Operands for Sim {
    /// bf16 and f16 round queries, keys, values and weights of the softmax: tests/attention knows how.
    const ATTENTION: &'static [DType] = &[DType::F32];

    fn operand(weights: DType) -> DType {
        weights
    }
}

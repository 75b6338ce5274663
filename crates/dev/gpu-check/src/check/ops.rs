//! The tables of cases of every op, shared with the CPU and the simulator, in both modes.

use selfie_kernels::gpu::Cuda;

use crate::cases;
use crate::{Check, Opening};

/// A check of an op, on a device in each mode.
fn of_op(name: &'static str, check: fn(&Cuda)) -> Check {
    let both = move |opening: Opening| {
        check(&opening.fast());
        check(&opening.deterministic());
    };
    (name.into(), Box::new(both))
}

pub(crate) fn checks() -> Vec<Check> {
    use cases::{attention, draw, errors, matrix, rows, train};
    vec![
        of_op("op rows", rows::check_rows),
        of_op("op gather", rows::check_gather),
        of_op("op inject", rows::check_inject),
        of_op("op embed", matrix::check_embed),
        of_op("op rms_norm", rows::check_rms_norm),
        of_op("op rms_norm_parts", rows::check_rms_norm_parts),
        of_op("op glu", rows::check_glu),
        of_op("op cast", rows::check_cast),
        of_op("op add", rows::check_add),
        of_op("op linear", matrix::check_linear),
        of_op("op linear_add", matrix::check_linear_add),
        of_op("op linear_glu", matrix::check_linear_glu),
        of_op("op rope_append", attention::check_rope_append),
        of_op("op attend", attention::check_attend),
        of_op("op kv_copy", attention::check_kv_copy),
        of_op("op attend past f16", attention::check_f16_overflow),
        of_op("op head_best", matrix::check_head_best),
        of_op("op head_score", matrix::check_head_score),
        of_op("op head_draw", draw::check_head_draw),
        of_op("op head_draw limits", draw::check_head_draw_limits),
        of_op("op head of infinite logits", matrix::check_head_not_finite),
        of_op("op read_matrix", train::check_read_matrix),
        of_op("op linear_f32", train::check_linear_f32),
        of_op("op linear_f32_back", train::check_linear_f32_back),
        of_op("op mlp_backward", train::check_mlp_backward),
        of_op("op adam", train::check_adam),
        of_op("op callers", |cuda| cases::callers::check_callers(cuda, 10)),
        of_op("op errors", |cuda| {
            errors::buffers(cuda);
            errors::embed(cuda);
            errors::rms_norm(cuda);
            errors::cast_and_add(cuda);
            errors::linear(cuda);
            errors::linear_add(cuda);
            errors::linear_glu(cuda);
            errors::an_operand_has_the_dtype_that_the_weights_ask_for(cuda);
            errors::rms_norm_parts(cuda);
            errors::glu(cuda);
            errors::kv_share(cuda);
            errors::kv_copy(cuda);
            errors::rope_append(cuda);
            errors::attend(cuda);
            errors::probe_ops(cuda);
            errors::head(cuda);
            errors::training(cuda);
        }),
    ]
}

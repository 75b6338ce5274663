//! The tables of cases of every op, on the simulated GPU.

use selfie_kernels::gpu::plan::Splits;
use selfie_ptxsim::TensorCores;
use selfie_sim::{Sim, SimDriver};
use selfie_testkit::cases::{self, must};

/// Runs `check` on a fresh device.
fn on_sim(check: fn(&Sim)) {
    check(&must("sim", selfie_sim::sim()));
}

/// Runs `check` on a device that computes products of few rows with our own kernel, and is so small that each warp
/// takes two tiles of a weight.
fn on_small(check: fn(&Sim)) {
    on_few_rows(1, check);
}

/// The same on a device so large that each warp takes one tile.
fn on_large(check: fn(&Sim)) {
    on_few_rows(1 << 20, check);
}

fn on_few_rows(multiprocessors: u32, check: fn(&Sim)) {
    let splits = Splits::Fill { multiprocessors };
    check(&must("sim", Sim::new(SimDriver::new(), splits)));
}

/// Runs `check` with products of 16 bits truncated as on this GPU, in our own kernel for few rows and in the driver's
/// for more.
fn on_tensor_cores(model: TensorCores, check: fn(&Sim)) {
    let driver = SimDriver::new().rounding_as(model);
    let splits = Splits::Fill { multiprocessors: 1 };
    check(&must("sim", Sim::new(driver, splits)));
}

/// Runs `check` with warps in a random order.
fn on_schedules(check: fn(&Sim)) {
    for seed in [1, 2] {
        let splits = Splits::Fill { multiprocessors: 1 };
        let driver = SimDriver::new().scheduled(seed);
        check(&must("sim", Sim::new(driver, splits)));
    }
}

#[test]
fn linear_as_an_a100_truncates() {
    on_tensor_cores(TensorCores::A100, cases::matrix::check_linear);
}

#[test]
fn linear_as_an_h100_truncates() {
    on_tensor_cores(TensorCores::H100, cases::matrix::check_linear);
}

#[test]
fn head_best_as_tensor_cores_truncate() {
    on_tensor_cores(TensorCores::A100, cases::matrix::check_head_best);
    on_tensor_cores(TensorCores::H100, cases::matrix::check_head_best);
}

/// The kernels with shared memory and barriers. The head of few rows is a product of `matvec.ptx`. Attention has a test
/// of its own.
#[test]
fn random_schedules() {
    on_schedules(cases::rows::check_rms_norm_parts);
    on_schedules(cases::rows::check_inject);
    on_schedules(cases::matrix::check_head_best);
    on_schedules(cases::draw::check_head_draw_limits);
    on_schedules(cases::train::check_adam);
}

#[test]
fn rows() {
    on_sim(cases::rows::check_rows);
}

#[test]
fn gather() {
    on_sim(cases::rows::check_gather);
}

#[test]
fn inject() {
    on_sim(cases::rows::check_inject);
}

#[test]
fn embed() {
    on_sim(cases::matrix::check_embed);
}

#[test]
fn rms_norm() {
    on_sim(cases::rows::check_rms_norm);
}

#[test]
fn rms_norm_parts() {
    on_sim(cases::rows::check_rms_norm_parts);
}

#[test]
fn glu() {
    on_sim(cases::rows::check_glu);
}

#[test]
fn cast() {
    on_sim(cases::rows::check_cast);
}

#[test]
fn add() {
    on_sim(cases::rows::check_add);
}

#[test]
fn linear() {
    on_sim(cases::matrix::check_linear);
    on_small(cases::matrix::check_linear);
    on_large(cases::matrix::check_linear);
}

#[test]
fn linear_add() {
    on_sim(cases::matrix::check_linear_add);
    on_small(cases::matrix::check_linear_add);
}

#[test]
fn linear_glu() {
    on_sim(cases::matrix::check_linear_glu);
    on_large(cases::matrix::check_linear_glu);
}

#[test]
fn rope_append() {
    on_sim(cases::attention::check_rope_append);
}

#[test]
fn prefixes() {
    on_sim(cases::attention::check_prefixes);
}

#[test]
fn head_draw() {
    on_sim(cases::draw::check_head_draw);
    on_sim(cases::draw::check_head_draw_limits);
}

#[test]
fn f16_overflow() {
    on_sim(cases::attention::check_f16_overflow);
}

#[test]
fn kv_copy() {
    on_sim(cases::attention::check_kv_copy);
}

#[test]
fn attend() {
    on_sim(cases::attention::check_attend);
}

#[test]
fn head_best() {
    on_sim(cases::matrix::check_head_best);
    on_small(cases::matrix::check_head_best);
    on_large(cases::matrix::check_head_best);
}

#[test]
fn head_not_finite() {
    on_sim(cases::matrix::check_head_not_finite);
    on_small(cases::matrix::check_head_not_finite);
}

#[test]
fn head_score() {
    on_sim(cases::matrix::check_head_score);
    on_large(cases::matrix::check_head_score);
}

#[test]
fn read_matrix() {
    on_sim(cases::train::check_read_matrix);
}

#[test]
fn linear_f32() {
    on_sim(cases::train::check_linear_f32);
}

#[test]
fn linear_f32_back() {
    on_sim(cases::train::check_linear_f32_back);
}

#[test]
fn mlp_backward() {
    on_sim(cases::train::check_mlp_backward);
}

#[test]
fn adam() {
    on_sim(cases::train::check_adam);
}

#[test]
fn callers() {
    on_sim(|sim| cases::callers::check_callers(sim, 1));
}

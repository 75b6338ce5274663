//! Every table of cases on every instruction-set path that this machine has.

use selfie_kernels::{Cpu, CpuOptions, CpuPath, KernelError};
use selfie_testkit::cases;

/// Runs `check` on all paths.
fn on_all_paths(check: fn(&Cpu)) {
    for path in CpuPath::available() {
        let options = CpuOptions {
            threads: Some(2),
            path: Some(path),
        };
        let cpu = cases::must(path, Cpu::new(options));
        assert_eq!(cpu.path(), path);
        check(&cpu);
    }
}

#[test]
fn paths() {
    let available = CpuPath::available();
    let names = |paths: &[CpuPath]| {
        paths
            .iter()
            .map(|p| p.name())
            .collect::<Vec<_>>()
            .join(", ")
    };
    println!("this machine has {}", names(&available));
    assert!(available.contains(&CpuPath::Portable));
    let best = cases::must("the best path", Cpu::new(CpuOptions::default()));
    assert_eq!(best.path(), available[0]);
    for path in CpuPath::ALL {
        assert_eq!(path.name().parse::<CpuPath>().ok(), Some(path));
        let options = CpuOptions {
            threads: Some(1),
            path: Some(path),
        };
        match Cpu::new(options) {
            Ok(cpu) => {
                assert!(available.contains(&path));
                assert_eq!(cpu.path(), path);
            }
            Err(KernelError::Path {
                path: refused,
                available: others,
                ..
            }) => {
                assert!(!available.contains(&path));
                assert_eq!(refused, path.name());
                assert_eq!(others, names(&available));
            }
            Err(e) => panic!("{path}: {e}"),
        }
    }
}

#[test]
fn rows() {
    on_all_paths(cases::rows::check_rows);
}

#[test]
fn gather() {
    on_all_paths(cases::rows::check_gather);
}

#[test]
fn inject() {
    on_all_paths(cases::rows::check_inject);
}

#[test]
fn embed() {
    on_all_paths(cases::matrix::check_embed);
}

#[test]
fn rms_norm() {
    on_all_paths(cases::rows::check_rms_norm);
}

#[test]
fn rms_norm_parts() {
    on_all_paths(cases::rows::check_rms_norm_parts);
}

#[test]
fn linear_glu() {
    on_all_paths(cases::matrix::check_linear_glu);
}

#[test]
fn glu() {
    on_all_paths(cases::rows::check_glu);
}

#[test]
fn cast() {
    on_all_paths(cases::rows::check_cast);
}

#[test]
fn add() {
    on_all_paths(cases::rows::check_add);
}

#[test]
fn linear() {
    on_all_paths(cases::matrix::check_linear);
}

#[test]
fn linear_add() {
    on_all_paths(cases::matrix::check_linear_add);
}

#[test]
fn rope_append() {
    on_all_paths(cases::attention::check_rope_append);
}

#[test]
fn prefixes() {
    on_all_paths(cases::attention::check_prefixes);
}

#[test]
fn f16_overflow() {
    on_all_paths(cases::attention::check_f16_overflow);
}

#[test]
fn kv_copy() {
    on_all_paths(cases::attention::check_kv_copy);
}

#[test]
fn attend() {
    on_all_paths(cases::attention::check_attend);
}

#[test]
fn head_best() {
    on_all_paths(cases::matrix::check_head_best);
}

#[test]
fn head_not_finite() {
    on_all_paths(cases::matrix::check_head_not_finite);
}

#[test]
fn head_score() {
    on_all_paths(cases::matrix::check_head_score);
}

#[test]
fn read_matrix() {
    on_all_paths(cases::train::check_read_matrix);
}

#[test]
fn linear_f32() {
    on_all_paths(cases::train::check_linear_f32);
}

#[test]
fn linear_f32_back() {
    on_all_paths(cases::train::check_linear_f32_back);
}

#[test]
fn mlp_backward() {
    on_all_paths(cases::train::check_mlp_backward);
}

#[test]
fn adam() {
    on_all_paths(cases::train::check_adam);
}

#[test]
fn callers() {
    on_all_paths(|cpu| cases::callers::check_callers(cpu, 40));
}

//! The ops on rows alone: buffers, probes, norms, gated units.

use selfie_kernels::{Activation, Backend, InjectMode, Injection, Parts, SliceMatrix, reference};

use super::tables::{GLU, MOVE, Move, NORM, PARTS, ROWS, STRENGTHS, Spread, WRITTEN};
use super::*;

pub fn check_rows<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "rows");
    for width in [1, 3, 16, 100] {
        let mut rows = must("rows", backend.rows(64, width));
        errors.equal(format_args!("width {width}, fresh"), backend.len(&rows), 0);
        for n in ROWS.into_iter().rev() {
            let x = values(n as u64, n * width, (-1.0, 1.0));
            must("write_rows", backend.write_rows(&x, &mut rows));
            errors.equal(format_args!("width {width}"), backend.len(&rows), n);
            for range in [0..n, 0..1, n - 1..n, n / 2..n, n..n] {
                let got = must("read_rows", backend.read_rows(&rows, range.clone()));
                let want = x[range.start * width..range.end * width].to_vec();
                errors.equal(format_args!("width {width}, {range:?} of {n}"), got, want);
            }
        }
        backend.clear(&mut rows);
        errors.equal(
            format_args!("width {width}, cleared"),
            backend.len(&rows),
            0,
        );
    }
    errors.finish();
}

pub fn check_gather<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "gather");
    for case in MOVE {
        let src = values(1, case.n * case.width, (-1.0, 1.0));
        let rows = rows_of(backend, &src, case.width);
        let want = reference::gather(&src, case.width, case.index);
        let mut out = must("rows", backend.rows(2 * case.index.len(), case.width));
        // The second time, the rows are appended.
        for times in 1..=2 {
            must("gather", backend.gather(&rows, case.index, &mut out));
            errors.equal(
                format_args!("{:?} of {} x {}", case.index, case.n, case.width),
                read_all(backend, &out),
                want.repeat(times),
            );
        }
    }
    errors.finish();
}

pub fn check_inject<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "inject");
    for case in MOVE {
        for mode in InjectMode::ALL {
            for strength in STRENGTHS {
                for spread in WRITTEN {
                    check_writes(backend, case, (mode, strength), spread, &mut errors);
                }
            }
        }
    }
    errors.finish();
}

fn check_writes<B: Backend>(
    backend: &B,
    case: &Move,
    (mode, strength): (InjectMode, f32),
    spread: Spread,
    errors: &mut Errors,
) {
    let width = case.width;
    let vectors = values(1, case.n * width, spread);
    let before = values(2, case.n * width, (-1.0, 1.0));
    let pairs = case.index.iter().zip(case.at);
    let writes: Vec<Injection> = pairs
        .map(|(&vector, &row)| Injection {
            row,
            vector,
            mode,
            strength,
        })
        .collect();
    let mut want = before.clone();
    reference::inject(&vectors, &writes, &mut want, width);
    // Magnitudes: the sum of both terms' magnitudes in a written row. Other rows keep their bits.
    let form = mode.form();
    let keep = form.keep.factor(strength);
    let mut magnitude = vec![0.0; before.len()];
    for write in &writes {
        let at = write.row * width..(write.row + 1) * width;
        for (i, &h) in at.clone().zip(&before[at]) {
            let kept = f64::from(keep) * f64::from(h);
            magnitude[i] = (f64::from(want[i]) - kept).abs() + kept.abs();
        }
    }
    // Replacing a row outright is a copy, and writing nothing changes nothing.
    let exact = strength == 0.0 || (strength == 1.0 && mode == InjectMode::Replace);
    let units = match (exact, form.unit || form.matched) {
        (true, _) => 0.0,
        (false, false) => 3.0,
        // Plus the roundings of two lengths, a quotient and a product.
        (false, true) => 7.0,
    };
    let vectors = rows_of(backend, &vectors, width);
    let mut rows = rows_of(backend, &before, width);
    let mut tally = must("tally", backend.tally());
    let name = format!("{mode} {strength} of {spread:?}, {writes:?}");
    must(
        "inject",
        backend.inject(&vectors, &writes, &mut rows, &mut tally),
    );
    errors.compare(
        format_args!("{name}"),
        &read_all(backend, &rows),
        &want,
        |i| units * U * magnitude[i],
    );
    must(&name, backend.check_tally(&mut tally));
    must(&name, backend.check_tally(&mut tally));
}

pub fn check_rms_norm<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "rms_norm");
    for (seed, case) in NORM.iter().enumerate() {
        let width = case.width;
        let weight = values(100 + seed as u64, width, (-1.5, 1.5));
        let device_weight = must("vector", backend.vector(&weight));
        for n in ROWS {
            let x = values(seed as u64, n * width, case.x);
            let want = reference::rms_norm(&x, &weight, case.eps);
            // The sum of squares, whose error the root halves; then the root, the quotient and two products.
            let bound = |i: usize| (sum_bound(width) + 4.0 * U) * f64::from(want[i].abs());
            let x = rows_of(backend, &x, width);
            let name = format!("{n} x {width}, {:?}, eps {:e}", case.x, case.eps);
            let mut out = must("rows", backend.rows(n, width));
            must(
                "rms_norm_f32",
                backend.rms_norm_f32(&x, &device_weight, case.eps, &mut out),
            );
            errors.compare(
                format_args!("{name}"),
                &read_all(backend, &out),
                &want,
                bound,
            );
            for dtype in DTYPES {
                let mut out = must("acts", backend.acts(n, width, dtype));
                must(
                    "rms_norm",
                    backend.rms_norm(&x, &device_weight, case.eps, &mut out),
                );
                let got = read_acts(backend, &out, n);
                let operand = B::operand(dtype);
                errors.compare_acts(format_args!("{name}, {dtype}"), operand, &got, &want, bound);
            }
        }
    }
    errors.finish();
    overflows(backend);
}

/// A row whose squares overflow is NaN in every value, and the rows beside it are unaffected.
fn overflows<B: Operands>(backend: &B) {
    for (width, large) in [(16, 1e20), (100, 3e38), (64, f32::INFINITY), (64, f32::NAN)] {
        let weight = must("vector", backend.vector(&vec![1.0; width]));
        let mut x = values(3, 3 * width, (-1.0, 1.0));
        let sound = reference::rms_norm(&x, &vec![1.0; width], 1e-5);
        x[width + width / 2] = large;
        assert!(reference::rms_norm(&x, &vec![1.0; width], 1e-5)[width].is_nan());
        let x = rows_of(backend, &x, width);
        let mut out = must("rows", backend.rows(3, width));
        must(
            "rms_norm_f32",
            backend.rms_norm_f32(&x, &weight, 1e-5, &mut out),
        );
        let mut all = vec![(read_all(backend, &out), 1e-5)];
        for dtype in DTYPES {
            let mut out = must("acts", backend.acts(3, width, dtype));
            must("rms_norm", backend.rms_norm(&x, &weight, 1e-5, &mut out));
            all.push((read_acts(backend, &out, 3), 1e-2));
        }
        for (got, bound) in all {
            assert!(
                got[width..2 * width].iter().all(|x| x.is_nan()),
                "{width} wide, with {large}: {:?}",
                &got[width..2 * width]
            );
            for at in (0..width).chain(2 * width..3 * width) {
                assert!((got[at] - sound[at]).abs() <= bound, "value {at}");
            }
        }
    }
}

pub fn check_glu<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "glu");
    for (seed, case) in GLU.iter().enumerate() {
        let ffn = case.ffn;
        for n in ROWS {
            let gate = values(seed as u64, n * ffn, case.gate);
            let up = values(100 + seed as u64, n * ffn, (-3.0, 3.0));
            for dtype in DTYPES {
                let [gate, up] = [&gate, &up].map(|x| rounded(B::projection(dtype), x));
                let rows = gate.chunks_exact(ffn).zip(up.chunks_exact(ffn));
                let gate_up = rows.flat_map(|(gate, up)| [gate, up]).collect::<Vec<_>>();
                let gate_up = gate_up.concat();
                let rows = projections_of(backend, &gate_up, 2 * ffn, dtype);
                for activation in ACTIVATIONS {
                    let want = reference::glu(activation, &gate_up, ffn);
                    // If the exponential overflows (an argument below -87), the result is a tiny number instead of 0.
                    let bound = |i: usize| {
                        let units = exp_units(activation, gate[i]);
                        units * U * f64::from(want[i].abs()) + 1e-34 * f64::from(up[i].abs())
                    };
                    let mut out = must("acts", backend.acts(n, ffn, dtype));
                    must("glu", backend.glu(activation, &rows, &mut out));
                    let got = read_acts(backend, &out, n);
                    errors.compare_acts(
                        format_args!("{activation:?} {dtype} {n} x {ffn}, gate {:?}", case.gate),
                        B::operand(dtype),
                        &got,
                        &want,
                        bound,
                    );
                }
            }
        }
    }
    errors.finish();
    if B::projection(DType::F16) == DType::F16 {
        past_the_largest_f16(backend);
    }
}

/// A gate or a gated value that is past the largest f16 leaves no finite output.
fn past_the_largest_f16<B: Backend>(backend: &B) {
    for activation in ACTIVATIONS {
        for gate_up in [
            [7e4, 1.0],
            [-7e4, 1.0],
            [7e4, 0.0],
            [0.0, 7e4],
            [-50.0, -7e4],
        ] {
            let rows = projections_of(backend, &gate_up, 2, DType::F16);
            let mut out = must("acts", backend.acts(1, 1, DType::F16));
            must("glu", backend.glu(activation, &rows, &mut out));
            let got = read_acts(backend, &out, 1)[0];
            assert!(!got.is_finite(), "{activation:?} of {gate_up:?}: {got}");
        }
    }
}

/// The activations of a gated unit.
pub(super) const ACTIVATIONS: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

/// The units in the last place by which `1 / (1 + e^-u)` may be off. An exponential computed as 2^x loses as many as
/// its argument is large, and the argument of the GELU has an error of its own.
pub(super) fn exp_units(activation: Activation, gate: f32) -> f64 {
    let lost = match activation {
        Activation::Silu => 1.0,
        Activation::GeluTanh => 6.0,
    };
    let [argument, _] = argument(activation, gate.into());
    8.0 + lost * (-argument).max(0.0)
}

/// The `u` of an activation `x / (1 + e^-u)`, and its slope, at `x`.
pub(super) fn argument(activation: Activation, x: f64) -> [f64; 2] {
    match activation {
        Activation::Silu => [x, 1.0],
        Activation::GeluTanh => {
            let root = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            let cube = 0.044715;
            [
                root * (x + cube * x.powi(3)),
                root * (1.0 + 3.0 * cube * x * x),
            ]
        }
    }
}

/// Parts of rows are normed in place, and nothing beside them changes.
pub fn check_rms_norm_parts<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "rms_norm_parts");
    for (seed, &[first, width, count, behind]) in PARTS.iter().enumerate() {
        let parts = Parts {
            first,
            width,
            count,
        };
        let columns = first + width * count + behind;
        let weight = values(100 + seed as u64, width, (-2.0, 2.0));
        let device = must("vector", backend.vector(&weight));
        let dtypes = projection_dtypes::<B>();
        for (n, dtype) in ROWS
            .into_iter()
            .flat_map(|n| dtypes.iter().map(move |&dtype| (n, dtype)))
        {
            let before = rounded(dtype, &values(seed as u64, n * columns, (-3.0, 3.0)));
            let mut want = before.clone();
            reference::rms_norm_parts(&mut want, columns, parts, &weight, 1e-5);
            let mut rows = projections_of(backend, &before, columns, dtype);
            let normed = backend.rms_norm_parts(parts, &device, 1e-5, &mut rows);
            must("rms_norm_parts", normed);
            let got = read_all(backend, &rows);
            let inside = |i: usize| (first..first + width * count).contains(&(i % columns));
            errors.compare_acts(
                format_args!("{parts:?} of {n} x {columns}, {dtype}"),
                dtype,
                &got,
                &want,
                |i| {
                    let units = if inside(i) {
                        sum_bound(width) + 8.0 * U
                    } else {
                        0.0
                    };
                    units * f64::from(want[i].abs())
                },
            );
        }
    }
    errors.finish();
}

/// Operands are rounded to nearest, ties to even. Tests every tie between 1 and 2 with 8 and 11 bits of significand,
/// and its neighbours. A product with the identity matrix, which is exact, must read the same values as the host.
pub fn check_cast<B: Operands>(backend: &B) {
    let mut errors = Errors::new(backend, "cast");
    let ties = [512.0, 4096.0].into_iter().flat_map(|parts| {
        let tie = move |i: u16| 1.0 + f32::from(i) / parts;
        (0..512).flat_map(move |i| [tie(i), -tie(i), tie(i).next_up(), tie(i).next_down()])
    });
    let ties: Vec<f32> = ties.collect();
    for width in [1, 3, 33, 64, ties.len() / 4] {
        let values = &ties[..ties.len() / width * width];
        let n = values.len() / width;
        let rows = rows_of(backend, values, width);
        for dtype in DTYPES {
            let want = operands::<B>(dtype, values);
            let mut acts = must("acts", backend.acts(n, width, dtype));
            must("cast", backend.cast(&rows, &mut acts));
            let name = format!("{dtype}, {n} x {width}");
            let got = read_acts(backend, &acts, n);
            errors.equal(format_args!("{name}"), &got, &want);
            let some = n / 3..n - n / 5;
            let got = must("read_acts", backend.read_acts(&acts, some.clone()));
            let part = &want[some.start * width..some.end * width];
            errors.equal(format_args!("{name}, rows {some:?}"), &got[..], part);
            let mut unit = vec![0.0; width * width];
            unit.iter_mut().step_by(width + 1).for_each(|x| *x = 1.0);
            let unit = must("unit", SliceMatrix::from_f32(width, &unit));
            let unit = must("matrix", backend.matrix(&[&unit], dtype));
            let mut out = must("rows", backend.rows(n, width));
            must("linear", backend.linear(&acts, &unit, None, &mut out));
            let got = read_all(backend, &out);
            errors.equal(format_args!("{name}, as the operand"), &got, &want);
        }
    }
    errors.finish();
}

pub fn check_add<B: Backend>(backend: &B) {
    let mut errors = Errors::new(backend, "add");
    for width in [1, 3, 16, 33, 2048] {
        for n in [1, 2, 7, 33] {
            let x = values(1, n * width, (-1.0, 1.0));
            let residual = values(2, n * width, (-3.0, 3.0));
            let device = rows_of(backend, &x, width);
            for scale in [1.0, 0.22, -3.0] {
                let want = reference::add(&x, scale, &residual);
                let mut rows = rows_of(backend, &residual, width);
                must("add", backend.add(&device, scale, &mut rows));
                let got = read_all(backend, &rows);
                // The product may be rounded before the sum; with a scale of 1 it is exact.
                let name = format_args!("{n} x {width}, scale {scale}");
                errors.compare(name, &got, &want, |i| {
                    let product = f64::from((scale * x[i]).abs());
                    let rounding = if scale == 1.0 { 0.0 } else { product };
                    U * (rounding + f64::from(want[i].abs()))
                });
            }
        }
    }
    errors.finish();
}

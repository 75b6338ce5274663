//! Compares training steps of one MLP on the simulated GPU with the same steps on the CPU.

use selfie_kernels::{Activation, Adam, Backend, Cpu, CpuOptions};
use selfie_testkit::cases::{must, read_all, rows_of, values};

/// Rows of a batch, width of the residual stream and of the hidden layer.
const SIZES: [(usize, usize, usize); 2] = [(5, 24, 40), (3, 17, 31)];
const STEPS: u32 = 3;

/// Trains `down(silu(gate(x)) * up(x))` towards a target. Returns the loss before each step, and the final weights.
fn train<B: Backend>(b: &B, (n, d, ffn): (usize, usize, usize)) -> (Vec<f32>, Vec<f32>) {
    let x = rows_of(b, &values(1, n * d, (-1.0, 1.0)), d);
    let target = values(2, n * d, (-1.0, 1.0));
    let mut gate_up = rows_of(b, &values(3, 2 * ffn * d, (-0.3, 0.3)), d);
    let mut down = rows_of(b, &values(4, d * ffn, (-0.3, 0.3)), ffn);
    let bias = rows_of(b, &values(5, d, (-0.1, 0.1)), 1);
    let zeros = |n: usize, width: usize| rows_of(b, &vec![0.0; n * width], width);
    let mut gate_up_moments = [zeros(2 * ffn, d), zeros(2 * ffn, d)];
    let mut down_moments = [zeros(d, ffn), zeros(d, ffn)];
    let rows = |width| must("rows", b.rows(n, width));
    let (mut inner, mut hidden, mut out) = (rows(2 * ffn), rows(ffn), rows(d));
    let (mut d_hidden, mut d_inner) = (rows(ffn), rows(2 * ffn));
    let mut losses = Vec::new();
    for step in 1..=STEPS {
        must("linear_f32", b.linear_f32(&x, &gate_up, None, &mut inner));
        must(
            "swiglu_f32",
            b.glu_f32(Activation::Silu, &inner, &mut hidden),
        );
        must(
            "linear_f32",
            b.linear_f32(&hidden, &down, Some(&bias), &mut out),
        );
        let errors: Vec<f32> = read_all(b, &out)
            .iter()
            .zip(&target)
            .map(|(y, t)| y - t)
            .collect();
        losses.push(errors.iter().map(|e| e * e).sum::<f32>());
        let gradient: Vec<f32> = errors.iter().map(|e| 2.0 * e).collect();
        let gradient = rows_of(b, &gradient, d);
        must(
            "linear_f32_back",
            b.linear_f32_back(&gradient, &down, &mut d_hidden),
        );
        must(
            "mlp_backward",
            b.mlp_backward(Activation::Silu, &inner, &d_hidden, &mut d_inner),
        );
        let adam = Adam {
            step,
            ..Adam::new(1e-2)
        };
        let [m, v] = &mut down_moments;
        must("adam", b.adam(&mut down, [m, v], &gradient, &hidden, &adam));
        let [m, v] = &mut gate_up_moments;
        must("adam", b.adam(&mut gate_up, [m, v], &d_inner, &x, &adam));
    }
    let mut weights = read_all(b, &gate_up);
    weights.extend(read_all(b, &down));
    (losses, weights)
}

#[test]
fn steps_agree_with_the_cpu() {
    let cpu = must("cpu", Cpu::new(CpuOptions::default()));
    let sim = must("sim", selfie_sim::sim());
    for sizes in SIZES {
        let (losses, weights) = train(&sim, sizes);
        let (want_losses, want) = train(&cpu, sizes);
        assert!(losses[2] < 0.9 * losses[0], "{losses:?}");
        for (got, want) in losses.iter().zip(&want_losses) {
            assert!(
                (got - want).abs() <= 1e-5 * want,
                "{losses:?}, {want_losses:?}"
            );
        }
        // A weight whose gradient is near 0 might step the other way; no gradient here is that small.
        for (got, want) in weights.iter().zip(&want) {
            assert!((got - want).abs() <= 1e-5, "{got}, {want} on the CPU");
        }
    }
}

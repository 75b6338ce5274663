//! The gradients of an MLP against finite differences of a naive f64 implementation, with and without biases, in odd
//! shapes.

use selfie_control::TrainedMlp;
use selfie_kernels::{Activation, Adam, Backend, DType};
use selfie_llama::{HostTensor, MlpUnit, MlpWeights};
use selfie_testkit::control::{cpu, wide};

/// Values between -1 and 1.
fn values(n: usize, random: &mut fastrand::Rng) -> Vec<f32> {
    (0..n).map(|_| random.f32() * 2.0 - 1.0).collect()
}

/// The weights in the order of [`MlpWeights`], in f64.
struct Naive {
    d: usize,
    ffn: usize,
    tensors: Vec<Vec<f64>>,
    bias: bool,
    unit: MlpUnit,
}

impl Naive {
    fn part(&self, part: usize) -> (&[f64], Option<&[f64]>) {
        if self.bias {
            (&self.tensors[2 * part], Some(&self.tensors[2 * part + 1]))
        } else {
            (&self.tensors[part], None)
        }
    }

    fn linear(&self, part: usize, x: &[f64]) -> Vec<f64> {
        let (weight, bias) = self.part(part);
        let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        let rows = weight.chunks(x.len()).enumerate();
        rows.map(|(o, row)| dot(row) + bias.map_or(0.0, |b| b[o]))
            .collect()
    }

    fn active(&self, x: f64) -> f64 {
        match self.unit.activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                let z = std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + z.tanh())
            }
        }
    }

    /// `sum(d_out * mlp(x))`
    fn objective(&self, x: &[f64], d_out: &[f64]) -> f64 {
        let mut sum = 0.0;
        for (x, d_out) in x.chunks(self.d).zip(d_out.chunks(self.d)) {
            let (gate, up) = (self.linear(0, x), self.linear(1, x));
            let hidden: Vec<f64> = gate
                .iter()
                .zip(&up)
                .map(|(&g, u)| self.active(g) * u)
                .collect();
            assert_eq!(hidden.len(), self.ffn);
            let mut out = self.linear(2, &hidden);
            if let Some(weight) = &self.unit.out_norm {
                let mean = out.iter().map(|x| x * x).sum::<f64>() / out.len() as f64;
                let scale = 1.0 / (mean + f64::from(self.unit.eps)).sqrt();
                let values = out.iter_mut().zip(weight);
                values.for_each(|(x, &w)| *x *= scale * f64::from(w));
            }
            out.iter_mut()
                .for_each(|x| *x *= f64::from(self.unit.scale));
            sum += out.iter().zip(d_out).map(|(a, b)| a * b).sum::<f64>();
        }
        sum
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let mut random = fastrand::Rng::with_seed(3);
    let gemma = |d: usize, random: &mut fastrand::Rng| MlpUnit {
        activation: Activation::GeluTanh,
        out_norm: Some(values(d, random)),
        eps: 1e-3,
        scale: 1.0,
    };
    let granite = MlpUnit {
        scale: 0.22,
        ..MlpUnit::default()
    };
    for (d, ffn, rows, bias, unit) in [
        (5, 7, 3, true, MlpUnit::default()),
        (3, 2, 1, true, granite),
        (17, 33, 6, false, MlpUnit::default()),
        (1, 1, 2, true, MlpUnit::default()),
        (5, 7, 3, true, gemma(5, &mut random)),
        (17, 33, 6, false, gemma(17, &mut random)),
    ] {
        let mut tensors = Vec::new();
        for (name, out, columns) in [
            ("gate_proj", ffn, d),
            ("up_proj", ffn, d),
            ("down_proj", d, ffn),
        ] {
            let name = format!("model.layers.0.mlp.{name}");
            let weight = values(out * columns, &mut random);
            let shape = vec![out, columns];
            tensors.push(HostTensor::new(
                format!("{name}.weight"),
                DType::F32,
                shape,
                &weight,
            ));
            if bias {
                let bias = values(out, &mut random);
                tensors.push(HostTensor::new(
                    format!("{name}.bias"),
                    DType::F32,
                    vec![out],
                    &bias,
                ));
            }
        }
        let mlp = MlpWeights { layer: 0, tensors };
        let (x, d_out) = (values(rows * d, &mut random), values(rows * d, &mut random));

        // Without moments, and with an eps that drowns the second one, a step is the gradient itself.
        let step = Adam {
            lr: 1e6,
            beta1: 0.0,
            beta2: 0.0,
            eps: 1e6,
            step: 1,
        };
        let cpu = cpu(2);
        let mut trained = TrainedMlp::new(&cpu, &mlp, unit.clone(), step, rows).unwrap();
        let mut inputs = cpu.rows(rows, d).unwrap();
        cpu.write_rows(&x, &mut inputs).unwrap();
        let out = trained.forward(&cpu, &inputs).unwrap();
        assert_eq!(out.len(), rows * d);
        trained.step(&cpu, &inputs, &d_out).unwrap();
        let after = trained.rows();
        let read = |rows| cpu.read_rows(rows, 0..cpu.len(rows)).unwrap();
        let mut new = vec![read(after.gate_up), read(after.down)];
        new.extend(after.gate_up_bias.map(read));
        new.extend(after.down_bias.map(read));
        let before = mlp.to_f32();
        let old = [
            before.gate_up,
            before.down,
            before.gate_up_bias,
            before.down_bias,
        ];
        let gradients: Vec<Vec<f64>> = new
            .iter()
            .zip(&old)
            .map(|(new, old)| old.iter().zip(new).map(|(a, b)| f64::from(a - b)).collect())
            .collect();
        assert_eq!(gradients.len(), if bias { 4 } else { 2 });

        let mut naive = Naive {
            d,
            ffn,
            unit,
            tensors: mlp.tensors.iter().map(|t| wide(&t.to_f32())).collect(),
            bias,
        };
        let (x, d_out) = (wide(&x), wide(&d_out));
        let loss: f64 = wide(&out).iter().zip(&d_out).map(|(a, b)| a * b).sum();
        assert!((loss - naive.objective(&x, &d_out)).abs() < 1e-4);
        for tensor in 0..naive.tensors.len() {
            let (part, is_bias) = if bias {
                (tensor / 2, tensor % 2 == 1)
            } else {
                (tensor, false)
            };
            let group = &gradients[usize::from(part == 2) + 2 * usize::from(is_bias)];
            // Up comes after gate.
            let first = usize::from(part == 1) * naive.tensors[tensor].len();
            for at in 0..naive.tensors[tensor].len() {
                let value = naive.tensors[tensor][at];
                let mut shifted = |by: f64| {
                    naive.tensors[tensor][at] = value + by;
                    naive.objective(&x, &d_out)
                };
                let want = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                naive.tensors[tensor][at] = value;
                let got = group[first + at];
                assert!(
                    (got - want).abs() <= 2e-5 + 1e-4 * want.abs(),
                    "{d} x {ffn}, tensor {tensor}, value {at}: {got}, expected {want}"
                );
            }
        }
    }
}

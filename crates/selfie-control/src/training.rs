//! The MLP in training, in f32, with its gradients and Adam.

use selfie_kernels::{Adam, Backend};
use selfie_llama::{MlpRows, MlpUnit, MlpWeights};

use crate::Result;

/// One layer's MLP in training: f32 weights, whatever dtype the model computes in, and Adam's moments.
///
/// It takes three times the MLP's size in f32, and buffers for a few rows. The rest of the model stays as it is.
pub struct TrainedMlp<B: Backend> {
    unit: MlpUnit,
    /// `[n, d_model]`: the last [`forward`](TrainedMlp::forward)'s output before the norm after the MLP, if there is
    /// one.
    raw: Vec<f32>,
    gate_up: Param<B>,
    down: Param<B>,
    gate_up_bias: Option<Param<B>>,
    down_bias: Option<Param<B>>,
    /// `[n, 2 ffn]`: gate and up of the last [`forward`](TrainedMlp::forward).
    inner: B::Rows,
    /// `[n, ffn]`
    hidden: B::Rows,
    /// `[n, d_model]`
    out: B::Rows,
    d_out: B::Rows,
    d_hidden: B::Rows,
    d_inner: B::Rows,
    /// `[n, 1]`: the inputs of the biases.
    ones: B::Rows,
    adam: Adam,
}

/// Weights and the two moments of Adam, each `[out, in]`; `[out, 1]` for a bias.
struct Param<B: Backend> {
    w: B::Rows,
    m: B::Rows,
    v: B::Rows,
}

impl<B: Backend> TrainedMlp<B> {
    /// Copies an MLP for training in batches of up to `max_rows` rows. The first step is `adam.step`.
    pub fn new(
        backend: &B,
        mlp: &MlpWeights,
        unit: MlpUnit,
        adam: Adam,
        max_rows: usize,
    ) -> Result<Self> {
        // Upload the weights first and the moments after the host's copy is gone, so that the peak is the moments.
        let values = mlp.to_f32();
        let d_model = mlp.tensors.first().map_or(0, |gate| gate.shape[1]);
        let (inner, rows) = (values.gate_up.len() / d_model.max(1), max_rows.max(1));
        let ffn = inner / 2;
        let bias = |values: &[f32]| match values {
            [] => Ok(None),
            values => upload(backend, values, 1).map(Some),
        };
        let gate_up = upload(backend, &values.gate_up, d_model)?;
        let down = upload(backend, &values.down, ffn)?;
        let gate_up_bias = bias(&values.gate_up_bias)?;
        let down_bias = bias(&values.down_bias)?;
        drop(values);
        let param = |w: B::Rows, width| Param::new(backend, w, width);
        let bias = |w: Option<B::Rows>| w.map(|w| param(w, 1)).transpose();
        Ok(Self {
            unit,
            raw: Vec::new(),
            gate_up: param(gate_up, d_model)?,
            down: param(down, ffn)?,
            gate_up_bias: bias(gate_up_bias)?,
            down_bias: bias(down_bias)?,
            inner: backend.rows(rows, inner)?,
            hidden: backend.rows(rows, ffn)?,
            out: backend.rows(rows, d_model)?,
            d_out: backend.rows(rows, d_model)?,
            d_hidden: backend.rows(rows, ffn)?,
            d_inner: backend.rows(rows, inner)?,
            ones: backend.rows(rows, 1)?,
            adam,
        })
    }

    /// The MLP's output for `x` (`[n, d_model]`), as it is added to the residual stream: `[n, d_model]`.
    pub fn forward(&mut self, backend: &B, x: &B::Rows) -> Result<Vec<f32>> {
        let bias = self.gate_up_bias.as_ref().map(|bias| &bias.w);
        backend.linear_f32(x, &self.gate_up.w, bias, &mut self.inner)?;
        backend.glu_f32(self.unit.activation, &self.inner, &mut self.hidden)?;
        let bias = self.down_bias.as_ref().map(|bias| &bias.w);
        backend.linear_f32(&self.hidden, &self.down.w, bias, &mut self.out)?;
        let mut out = backend.read_rows(&self.out, 0..backend.len(x))?;
        if let Some(weight) = &self.unit.out_norm {
            self.raw.clone_from(&out);
            for row in out.chunks_exact_mut(weight.len()) {
                let scale = norm_scale(row, self.unit.eps);
                let values = row.iter_mut().zip(weight);
                values.for_each(|(x, &w)| *x = (f64::from(*x) * scale * f64::from(w)) as f32);
            }
        }
        if self.unit.scale != 1.0 {
            out.iter_mut().for_each(|x| *x *= self.unit.scale);
        }
        Ok(out)
    }

    /// Takes one step of Adam with the gradient `d_out` (`[n, d_model]`) of the last [`forward`](TrainedMlp::forward)'s
    /// output for the same `x`.
    pub fn step(&mut self, backend: &B, x: &B::Rows, d_out: &[f32]) -> Result<()> {
        backend.write_rows(&self.norm_backward(d_out), &mut self.d_out)?;
        backend.linear_f32_back(&self.d_out, &self.down.w, &mut self.d_hidden)?;
        backend.mlp_backward(
            self.unit.activation,
            &self.inner,
            &self.d_hidden,
            &mut self.d_inner,
        )?;
        backend.write_rows(&vec![1.0; backend.len(x)], &mut self.ones)?;
        let adam = &self.adam;
        self.down.step(backend, &self.d_out, &self.hidden, adam)?;
        self.gate_up.step(backend, &self.d_inner, x, adam)?;
        if let Some(bias) = &mut self.down_bias {
            bias.step(backend, &self.d_out, &self.ones, adam)?;
        }
        if let Some(bias) = &mut self.gate_up_bias {
            bias.step(backend, &self.d_inner, &self.ones, adam)?;
        }
        self.adam.step += 1;
        Ok(())
    }

    /// The gradient at the MLP's output, from the gradient at what is added to the residual stream.
    fn norm_backward(&self, d_out: &[f32]) -> Vec<f32> {
        let mut d: Vec<f32> = d_out.iter().map(|d| d * self.unit.scale).collect();
        let Some(weight) = &self.unit.out_norm else {
            return d;
        };
        let width = weight.len();
        for (d, x) in d.chunks_exact_mut(width).zip(self.raw.chunks_exact(width)) {
            let scale = norm_scale(x, self.unit.eps);
            // y = w x s with s = (mean(x^2) + eps)^(-1/2): dx = s (w d - x s^2 mean(w d x)).
            d.iter_mut().zip(weight).for_each(|(d, &w)| *d *= w);
            let products = d.iter().zip(x).map(|(&d, &x)| f64::from(d) * f64::from(x));
            let pull = products.sum::<f64>() * scale * scale / width as f64;
            let values = d.iter_mut().zip(x);
            values.for_each(|(d, &x)| *d = (scale * (f64::from(*d) - f64::from(x) * pull)) as f32);
        }
        d
    }

    /// The current weights.
    pub fn rows(&self) -> MlpRows<'_, B> {
        MlpRows {
            gate_up: &self.gate_up.w,
            down: &self.down.w,
            gate_up_bias: self.gate_up_bias.as_ref().map(|bias| &bias.w),
            down_bias: self.down_bias.as_ref().map(|bias| &bias.w),
        }
    }
}

impl<B: Backend> Param<B> {
    fn new(backend: &B, w: B::Rows, width: usize) -> Result<Self> {
        let zero = upload(backend, &vec![0.0; width], width)?;
        let zeros = || -> Result<B::Rows> {
            let mut zeros = backend.rows(backend.len(&w), width)?;
            backend.gather(&zero, &vec![0; backend.len(&w)], &mut zeros)?;
            Ok(zeros)
        };
        let (m, v) = (zeros()?, zeros()?);
        Ok(Self { w, m, v })
    }

    fn step(&mut self, backend: &B, d: &B::Rows, x: &B::Rows, adam: &Adam) -> Result<()> {
        let moments = [&mut self.m, &mut self.v];
        Ok(backend.adam(&mut self.w, moments, d, x, adam)?)
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
fn norm_scale(x: &[f32], eps: f32) -> f64 {
    let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt()
}

/// Uploads values as `[values.len() / width, width]`.
fn upload<B: Backend>(backend: &B, values: &[f32], width: usize) -> Result<B::Rows> {
    let mut rows = backend.rows(values.len() / width.max(1), width)?;
    backend.write_rows(values, &mut rows)?;
    Ok(rows)
}

//! One layer's MLP on the host: read, replace or export it.

use std::io;
use std::ops::Range;

use selfie_kernels::{Activation, Backend, DType, KernelError, MatrixSource};

use crate::model::{Layer, Linear};
use crate::{Llama, LlamaError, Result};

/// A tensor on the host, in the dtype that the model computes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTensor {
    /// The name in a checkpoint: `model.layers.3.mlp.gate_proj.weight`.
    pub name: String,
    /// The model's dtype for a matrix, f32 for a bias.
    pub dtype: DType,
    /// `[out, in]` for a matrix, `[out]` for a bias.
    pub shape: Vec<usize>,
    /// The values, little-endian, row after row.
    pub bytes: Vec<u8>,
}

impl HostTensor {
    /// Stores f32 values, rounded to `dtype`.
    pub fn new(name: String, dtype: DType, shape: Vec<usize>, values: &[f32]) -> Self {
        Self {
            name,
            dtype,
            shape,
            bytes: dtype.to_bytes(values),
        }
    }

    /// The values as f32, exactly.
    pub fn to_f32(&self) -> Vec<f32> {
        self.dtype.to_f32(&self.bytes)
    }
}

impl MatrixSource for HostTensor {
    fn shape(&self) -> (usize, usize) {
        let columns = self.shape.last().copied().unwrap_or(1);
        (
            self.shape[..self.shape.len().max(1) - 1].iter().product(),
            columns,
        )
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn with_rows(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let row = MatrixSource::shape(self).1 * self.dtype.size();
        let bytes = self.bytes.get(rows.start * row..rows.end * row);
        let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
        read(bytes);
        Ok(())
    }
}

/// The MLP of one layer: gate, up and down. Each is a matrix, followed by its bias if the model has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MlpWeights {
    /// The layer, counted from 0.
    pub layer: usize,
    /// The tensors, in that order.
    pub tensors: Vec<HostTensor>,
}

impl MlpWeights {
    /// The three matrices and any biases, as f32: `[2 ffn, d_model]` (gate first), `[d_model, ffn]`, `[2 ffn]`,
    /// `[d_model]`.
    pub fn to_f32(&self) -> MlpValues {
        let mut values = MlpValues::default();
        for tensor in &self.tensors {
            let is_bias = tensor.shape.len() == 1;
            let into = match (tensor.name.contains("down_proj"), is_bias) {
                (false, false) => &mut values.gate_up,
                (true, false) => &mut values.down,
                (false, true) => &mut values.gate_up_bias,
                (true, true) => &mut values.down_bias,
            };
            into.extend(tensor.to_f32());
        }
        values
    }

    /// The same tensors with new values, rounded to their dtypes.
    pub fn with_values(&self, values: &MlpValues) -> Self {
        let mut rest = [
            &values.gate_up[..],
            &values.down,
            &values.gate_up_bias,
            &values.down_bias,
        ];
        let tensors = self.tensors.iter().map(|tensor| {
            let is_bias = tensor.shape.len() == 1;
            let down = tensor.name.contains("down_proj");
            let from = &mut rest[usize::from(down) + 2 * usize::from(is_bias)];
            let (own, others) = from.split_at(tensor.shape.iter().product());
            *from = others;
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            HostTensor::new(name, tensor.dtype, shape, own)
        });
        Self {
            layer: self.layer,
            tensors: tensors.collect(),
        }
    }
}

/// The values of an [`MlpWeights`] in f32, with gate and up stacked. Biases are empty if the model has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MlpValues {
    /// `[2 ffn, d_model]`, gate first.
    pub gate_up: Vec<f32>,
    /// `[d_model, ffn]`
    pub down: Vec<f32>,
    /// `[2 ffn]`
    pub gate_up_bias: Vec<f32>,
    /// `[d_model]`
    pub down_bias: Vec<f32>,
}

/// The parts of an MLP outside its matrices: the activation, and what is done to the output before it is added to the
/// residual stream.
#[derive(Clone, Debug, PartialEq)]
pub struct MlpUnit {
    /// The activation of the gate.
    pub activation: Activation,
    /// The weight of the norm after the MLP, `[d_model]`, in families that have one.
    pub out_norm: Option<Vec<f32>>,
    /// The epsilon of that norm.
    pub eps: f32,
    /// The factor of the output, after the norm.
    pub scale: f32,
}

impl Default for MlpUnit {
    /// The MLP of a LLaMA.
    fn default() -> Self {
        Self {
            activation: Activation::Silu,
            out_norm: None,
            eps: 0.0,
            scale: 1.0,
        }
    }
}

/// An MLP in training: f32 weights on the device, and biases `[out, 1]` if the model has them.
pub struct MlpRows<'a, B: Backend> {
    /// `[2 ffn, d_model]`, gate first.
    pub gate_up: &'a B::Rows,
    /// `[d_model, ffn]`
    pub down: &'a B::Rows,
    /// `[2 ffn, 1]`
    pub gate_up_bias: Option<&'a B::Rows>,
    /// `[d_model, 1]`
    pub down_bias: Option<&'a B::Rows>,
}

/// An MLP in the form that the model computes with, outside the model.
pub struct PackedMlp<B: Backend> {
    layer: usize,
    gate_up: Linear<B>,
    down: Linear<B>,
}

impl<B: Backend> Llama<B> {
    /// Packs f32 weights for a layer, rounded to the model's dtype. Allocates nothing as large as the MLP beside the
    /// result.
    pub fn pack_mlp(&self, layer: usize, rows: &MlpRows<'_, B>) -> Result<PackedMlp<B>> {
        self.check_layer(layer)?;
        let (b, ffn, d) = (&self.backend, self.config.ffn, self.config.d_model);
        let name = |part: &str| self.mlp_name(layer, part);
        let linear = |weight, shape: (usize, usize), bias: Option<&B::Rows>, parts: &[_]| {
            let source = RowsSource {
                backend: b,
                rows: weight,
                shape,
            };
            let weight = b.matrix(&[&source], self.dtype);
            let weight = weight.map_err(|e| edited(&name, parts, shape.0 / parts.len(), e))?;
            let bias = match bias {
                Some(bias) => Some(b.vector(&b.read_rows(bias, 0..b.len(bias))?)?),
                None => None,
            };
            Ok::<_, LlamaError>(Linear::new(weight, bias))
        };
        let up = self.up_parts();
        Ok(PackedMlp {
            layer,
            gate_up: linear(rows.gate_up, (2 * ffn, d), rows.gate_up_bias, up)?,
            down: linear(rows.down, (d, ffn), rows.down_bias, &["down_proj"])?,
        })
    }

    /// Puts a packed MLP into the layer that it was packed for, and returns the previous one.
    pub fn swap_mlp(&mut self, mut mlp: PackedMlp<B>) -> PackedMlp<B> {
        let layer = &mut self.layers[mlp.layer];
        std::mem::swap(&mut layer.gate_up, &mut mlp.gate_up);
        std::mem::swap(&mut layer.down, &mut mlp.down);
        mlp
    }

    /// The MLP of a layer as the model computes it. [`set_mlp`](Llama::set_mlp) restores it bit for bit.
    pub fn mlp(&self, layer: usize) -> Result<MlpWeights> {
        self.check_layer(layer)?;
        let Layer { gate_up, down, .. } = &self.layers[layer];
        self.values_of(layer, [gate_up, down])
    }

    fn values_of(&self, layer: usize, [gate_up, down]: [&Linear<B>; 2]) -> Result<MlpWeights> {
        let (backend, ffn, d) = (&self.backend, self.config.ffn, self.config.d_model);
        let mut tensors = Vec::new();
        let up = self.up_parts();
        let ups = up.iter().enumerate().map(|(i, &name)| {
            let rows = 2 * ffn / up.len();
            (name, gate_up, i * rows..(i + 1) * rows, d)
        });
        for (name, linear, rows, columns) in ups.chain([("down_proj", down, 0..d, ffn)]) {
            let name = self.mlp_name(layer, name);
            let values = backend.read_matrix(&linear.weight, rows.clone())?;
            let shape = vec![rows.len(), columns];
            tensors.push(HostTensor::new(
                format!("{name}.weight"),
                self.dtype,
                shape,
                &values,
            ));
            if let Some(bias) = &linear.bias {
                let values = &backend.read_vector(bias)?[rows.clone()];
                let shape = vec![rows.len()];
                tensors.push(HostTensor::new(
                    format!("{name}.bias"),
                    DType::F32,
                    shape,
                    values,
                ));
            }
        }
        Ok(MlpWeights { layer, tensors })
    }

    /// The parts of a layer's MLP outside its matrices.
    pub fn mlp_unit(&self, layer: usize) -> Result<MlpUnit> {
        self.check_layer(layer)?;
        let norm = self.layers[layer].mlp_out_norm.as_deref();
        Ok(MlpUnit {
            activation: self.config.spec.activation,
            out_norm: norm
                .map(|norm| self.backend.read_vector(norm))
                .transpose()?,
            eps: self.config.rms_norm_eps,
            scale: self.config.spec.residual_scale,
        })
    }

    /// Replaces the MLP of a layer with one that has the same tensors. The values read from an MLP in blocks restore
    /// its blocks.
    pub fn set_mlp(&mut self, mlp: &MlpWeights) -> Result<()> {
        self.check_layer(mlp.layer)?;
        let (ffn, d) = (self.config.ffn, self.config.d_model);
        let has_bias = self.layers[mlp.layer].down.bias.is_some();
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        let mut tensors = mlp.tensors.iter();
        let up = self.up_parts();
        let ups = up.iter().map(|&name| (name, 2 * ffn / up.len(), d));
        for (name, out, columns) in ups.chain([("down_proj", d, ffn)]) {
            let name = self.mlp_name(mlp.layer, name);
            let weight = format!("{name}.weight");
            weights.push(expect(tensors.next(), weight, self.dtype, &[out, columns])?);
            if has_bias {
                let bias = expect(tensors.next(), format!("{name}.bias"), DType::F32, &[out])?;
                biases.push(bias.to_f32());
            }
        }
        if let Some(more) = tensors.next() {
            return Err(LlamaError::MlpTensor {
                found: Some(more.name.clone()),
                expected: "no more tensors".to_owned(),
            });
        }
        if let Some([gate_up, down]) = self.in_blocks.get(&mlp.layer)
            && self.values_of(mlp.layer, [gate_up, down])? == *mlp
        {
            let layer = &mut self.layers[mlp.layer];
            (layer.gate_up, layer.down) = (gate_up.clone(), down.clone());
            self.in_blocks.remove(&mlp.layer);
            return Ok(());
        }
        let b = &self.backend;
        let (ups, down) = weights.split_at(up.len());
        let (gate_up_bias, down_bias) = if has_bias {
            let (ups, down) = biases.split_at(up.len());
            (
                Some(b.vector(&ups.concat())?),
                Some(b.vector(&down.concat())?),
            )
        } else {
            (None, None)
        };
        let name = |part: &str| self.mlp_name(mlp.layer, part);
        let gate_up = pack(b, &name, ups, up, self.dtype)?;
        let down = pack(b, &name, down, &["down_proj"], self.dtype)?;
        let layer = &mut self.layers[mlp.layer];
        if self.weights.has_blocks() {
            let before = [layer.gate_up.clone(), layer.down.clone()];
            self.in_blocks.entry(mlp.layer).or_insert(before);
        }
        layer.gate_up = Linear {
            adapters: std::mem::take(&mut layer.gate_up.adapters),
            ..Linear::new(gate_up, gate_up_bias)
        };
        layer.down = Linear {
            adapters: std::mem::take(&mut layer.down.adapters),
            ..Linear::new(down, down_bias)
        };
        Ok(())
    }

    /// The checkpoint tensors that are stacked into gate and up.
    fn up_parts(&self) -> &'static [&'static str] {
        if self.config.spec.fused {
            &["gate_up_proj"]
        } else {
            &["gate_proj", "up_proj"]
        }
    }

    fn mlp_name(&self, layer: usize, part: &str) -> String {
        format!("{}.{layer}.mlp.{part}", self.layers_name)
    }

    fn check_layer(&self, layer: usize) -> Result<()> {
        let n_layers = self.config.n_layers;
        if layer < n_layers {
            return Ok(());
        }
        Err(LlamaError::LayerRange {
            start: layer,
            end: layer.saturating_add(1),
            n_layers,
        })
    }
}

fn expect<'a>(
    found: Option<&'a HostTensor>,
    name: String,
    dtype: DType,
    shape: &[usize],
) -> Result<&'a HostTensor> {
    let bytes = shape.iter().product::<usize>() * dtype.size();
    match found {
        Some(tensor)
            if tensor.name == name
                && tensor.dtype == dtype
                && tensor.shape == shape
                && tensor.bytes.len() == bytes =>
        {
            Ok(tensor)
        }
        _ => Err(LlamaError::MlpTensor {
            found: found.map(|t| format!("{} ({}, {:?})", t.name, t.dtype, t.shape)),
            expected: format!("{name} ({dtype}, {shape:?})"),
        }),
    }
}

/// Rows on the device, read in pieces.
struct RowsSource<'a, B: Backend> {
    backend: &'a B,
    rows: &'a B::Rows,
    shape: (usize, usize),
}

impl<B: Backend> MatrixSource for RowsSource<'_, B> {
    fn shape(&self) -> (usize, usize) {
        self.shape
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn with_rows(&self, rows: Range<usize>, read: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let values = self.backend.read_rows(self.rows, rows);
        let values = values.map_err(io::Error::other)?;
        read(&DType::F32.to_bytes(&values));
        Ok(())
    }
}

fn pack<B: Backend>(
    backend: &B,
    name: &dyn Fn(&str) -> String,
    sources: &[&HostTensor],
    parts: &[&str],
    dtype: DType,
) -> Result<B::Matrix> {
    let first = MatrixSource::shape(sources[0]).0;
    let sources: Vec<&dyn MatrixSource> = sources.iter().map(|&s| s as &dyn MatrixSource).collect();
    let packed = backend.matrix(&sources, dtype);
    packed.map_err(|error| edited(name, parts, first, error))
}

/// The error that names the tensor that cannot be packed; each of `parts` has `rows` rows.
fn edited(
    name: &dyn Fn(&str) -> String,
    parts: &[&str],
    rows: usize,
    source: KernelError,
) -> LlamaError {
    let KernelError::NotFinite { row, .. } = source else {
        return source.into();
    };
    let part = parts[(row / rows.max(1)).min(parts.len() - 1)];
    LlamaError::EditedWeight {
        tensor: format!("{}.weight", name(part)),
        source,
    }
}

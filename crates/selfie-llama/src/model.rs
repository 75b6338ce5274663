//! The model: weights of all layers, and loading them.

use std::path::Path;
use std::sync::Arc;

use selfie_kernels::{Backend, DType, KernelError, MatrixSource};

use crate::{Checkpoint, LlamaConfig, LlamaError, Result, Tensor};

/// A LLaMA with its weights on a device: a handle, which is cheap to clone.
///
/// Clones share the weights and the device. One that gets another MLP ([`set_mlp`](Llama::set_mlp)) shares all the
/// others still, so that a model and its edited self fit where one does.
///
/// A model may be used from several threads at once, each with a [`Session`](crate::Session) of its own: each gets the
/// bits that it would get alone, and they share the device's threads.
pub struct Llama<B: Backend> {
    pub(crate) backend: B,
    pub(crate) config: Arc<LlamaConfig>,
    pub(crate) dtype: DType,
    pub(crate) embed: Arc<B::Matrix>,
    pub(crate) layers: Vec<Layer<B>>,
    pub(crate) norm: Arc<B::Vector>,
    /// The embedding table, where the two are tied.
    pub(crate) head: Arc<B::Matrix>,
}

impl<B: Backend> Clone for Llama<B> {
    fn clone(&self) -> Self {
        Self {
            backend: self.backend.clone(),
            config: self.config.clone(),
            dtype: self.dtype,
            embed: self.embed.clone(),
            layers: self.layers.clone(),
            norm: self.norm.clone(),
            head: self.head.clone(),
        }
    }
}

/// The weights of one layer.
pub(crate) struct Layer<B: Backend> {
    pub(crate) input_norm: Arc<B::Vector>,
    /// Queries, keys and values: `[q_dim + 2 kv_dim, d_model]`.
    pub(crate) qkv: Linear<B>,
    pub(crate) o: Linear<B>,
    pub(crate) mlp_norm: Arc<B::Vector>,
    /// `[2 ffn, d_model]`, gate first.
    pub(crate) gate_up: Linear<B>,
    pub(crate) down: Linear<B>,
}

impl<B: Backend> Clone for Layer<B> {
    fn clone(&self) -> Self {
        Self {
            input_norm: self.input_norm.clone(),
            qkv: self.qkv.clone(),
            o: self.o.clone(),
            mlp_norm: self.mlp_norm.clone(),
            gate_up: self.gate_up.clone(),
            down: self.down.clone(),
        }
    }
}

/// A weight and its bias.
pub(crate) struct Linear<B: Backend> {
    pub(crate) weight: Arc<B::Matrix>,
    pub(crate) bias: Option<Arc<B::Vector>>,
}

impl<B: Backend> Clone for Linear<B> {
    fn clone(&self) -> Self {
        Self {
            weight: self.weight.clone(),
            bias: self.bias.clone(),
        }
    }
}

impl<B: Backend> Linear<B> {
    pub(crate) fn new(weight: B::Matrix, bias: Option<B::Vector>) -> Self {
        Self {
            weight: Arc::new(weight),
            bias: bias.map(Arc::new),
        }
    }

    /// `out = a · wᵀ (+ bias)`.
    pub(crate) fn apply(&self, backend: &B, a: &B::Acts, out: &mut B::Rows) -> Result<()> {
        Ok(backend.linear(a, &self.weight, self.bias.as_deref(), out)?)
    }

    /// `residual += a · wᵀ (+ bias)`: the end of attention and of the MLP. Where several devices hold a part of the
    /// weight each, their products are to be summed here, before the residual stream is added.
    pub(crate) fn add_to(&self, backend: &B, a: &B::Acts, residual: &mut B::Rows) -> Result<()> {
        Ok(backend.linear_add(a, &self.weight, self.bias.as_deref(), residual)?)
    }
}

impl<B: Backend> Llama<B> {
    /// Opens a Hugging Face folder with the weights as its files have them.
    pub fn open(backend: B, dir: &Path) -> Result<Self> {
        let config = LlamaConfig::open(dir)?;
        let checkpoint = Checkpoint::open(dir)?;
        Self::load(backend, config, &checkpoint, None, |_| {})
    }

    /// Loads the weights, after a check of every tensor's name, shape and type against the configuration.
    ///
    /// `dtype` is the type that matrices are computed in, `None` the one that they are stored in; where
    /// matrices are stored in several types, `None` is f32, which holds them all exactly, and bf16 where one is
    /// quantized, as none is that exact. `progress` is told the
    /// bytes of the checkpoint that are loaded so far.
    pub fn load(
        backend: B,
        config: LlamaConfig,
        checkpoint: &Checkpoint,
        dtype: Option<DType>,
        mut progress: impl FnMut(u64),
    ) -> Result<Self> {
        let plan = Plan::new(&config, checkpoint)?;
        let dtype = dtype.unwrap_or_else(|| plan.dtype());
        // Before the first byte is copied, not half-way.
        let (bytes, available) = (plan.bytes(dtype), backend.memory()?.available);
        if bytes > available {
            return Err(LlamaError::WeightMemory {
                bytes,
                available,
                dtype,
                device: backend.describe(),
            });
        }
        let mut loader = Loader {
            backend: &backend,
            dtype,
            loaded: 0,
            progress: &mut progress,
        };
        let embed = Arc::new(loader.matrix(&[&plan.embed])?);
        let layers = plan
            .layers
            .iter()
            .map(|layer| {
                Ok(Layer {
                    input_norm: Arc::new(loader.vector(&layer.input_norm)?),
                    qkv: loader.linear(&layer.qkv)?,
                    o: loader.linear(&layer.o)?,
                    mlp_norm: Arc::new(loader.vector(&layer.mlp_norm)?),
                    gate_up: loader.linear(&layer.gate_up)?,
                    down: loader.linear(&layer.down)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let norm = Arc::new(loader.vector(&plan.norm)?);
        let head = match &plan.head {
            Some(head) => Arc::new(loader.matrix(&[head])?),
            None => embed.clone(),
        };
        Ok(Self {
            embed,
            layers,
            norm,
            head,
            backend,
            config: Arc::new(config),
            dtype,
        })
    }

    /// The device that it runs on: a handle, to open another model beside this one with.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The shape of the model.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The type that matrix products are computed in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
}

/// The type that [`Llama::load`] computes in by default, from the headers of the files.
pub fn stored_dtype(config: &LlamaConfig, checkpoint: &Checkpoint) -> Result<DType> {
    Ok(Plan::new(config, checkpoint)?.dtype())
}

/// Every tensor of the model, found and checked before one value is read.
struct Plan {
    embed: Tensor,
    layers: Vec<LayerPlan>,
    norm: Tensor,
    head: Option<Tensor>,
}

struct LayerPlan {
    input_norm: Tensor,
    qkv: LinearPlan,
    o: LinearPlan,
    mlp_norm: Tensor,
    gate_up: LinearPlan,
    down: LinearPlan,
}

/// Matrices that are stacked into one, and their biases.
struct LinearPlan {
    weights: Vec<Tensor>,
    biases: Vec<Tensor>,
}

impl Plan {
    /// Bytes of all matrices in `dtype`.
    fn bytes(&self, dtype: DType) -> u64 {
        let layers = self.layers.iter();
        let stacks = layers.flat_map(|l| [&l.qkv, &l.o, &l.gate_up, &l.down]);
        let matrices = stacks.flat_map(|stack| &stack.weights);
        let values = matrices
            .chain([&self.embed])
            .chain(&self.head)
            .map(|tensor| {
                let (rows, columns) = tensor.shape();
                (rows * columns) as u64
            });
        values.sum::<u64>() * dtype.size() as u64
    }

    fn new(config: &LlamaConfig, checkpoint: &Checkpoint) -> Result<Self> {
        let (d, ffn) = (config.d_model, config.ffn);
        let (q, kv) = (config.attn.q_dim(), config.attn.kv_dim());
        let table = [config.vocab_size, d];
        let linear =
            |parts: &[(String, usize)], columns: usize, bias: bool| -> Result<LinearPlan> {
                let mut plan = LinearPlan {
                    weights: Vec::new(),
                    biases: Vec::new(),
                };
                for (name, rows) in parts {
                    let weight = checkpoint.tensor(&format!("{name}.weight"), &[*rows, columns])?;
                    plan.weights.push(weight);
                    if bias {
                        plan.biases
                            .push(checkpoint.tensor(&format!("{name}.bias"), &[*rows])?);
                    }
                }
                Ok(plan)
            };
        let layers = (0..config.n_layers)
            .map(|l| {
                let name = |part: &str| format!("model.layers.{l}.{part}");
                let attention = |part: &str| name(&format!("self_attn.{part}_proj"));
                let mlp = |part: &str| name(&format!("mlp.{part}_proj"));
                let qkv = [
                    (attention("q"), q),
                    (attention("k"), kv),
                    (attention("v"), kv),
                ];
                Ok(LayerPlan {
                    input_norm: checkpoint.tensor(&name("input_layernorm.weight"), &[d])?,
                    qkv: linear(&qkv, d, config.qkv_bias)?,
                    o: linear(&[(attention("o"), d)], q, config.o_bias)?,
                    mlp_norm: checkpoint.tensor(&name("post_attention_layernorm.weight"), &[d])?,
                    gate_up: linear(&[(mlp("gate"), ffn), (mlp("up"), ffn)], d, config.mlp_bias)?,
                    down: linear(&[(mlp("down"), d)], ffn, config.mlp_bias)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let head = if config.tie_word_embeddings {
            None
        } else {
            Some(checkpoint.tensor("lm_head.weight", &table)?)
        };
        Ok(Self {
            embed: checkpoint.tensor("model.embed_tokens.weight", &table)?,
            layers,
            norm: checkpoint.tensor("model.norm.weight", &[d])?,
            head,
        })
    }

    /// The type of all matrices: f32 where they differ, bf16 where one is quantized.
    fn dtype(&self) -> DType {
        let of_layers = self.layers.iter().flat_map(|layer| {
            [&layer.qkv, &layer.o, &layer.gate_up, &layer.down]
                .into_iter()
                .flat_map(|linear| &linear.weights)
        });
        let all: Vec<&Tensor> = of_layers.chain(&self.head).chain([&self.embed]).collect();
        if all.iter().any(|tensor| tensor.is_quantized()) {
            return DType::Bf16;
        }
        let first = self.embed.dtype();
        let same = all.iter().all(|tensor| tensor.dtype() == first);
        if same { first } else { DType::F32 }
    }
}

/// Streams tensors to the backend.
struct Loader<'a, B> {
    backend: &'a B,
    dtype: DType,
    loaded: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<B: Backend> Loader<'_, B> {
    fn linear(&mut self, plan: &LinearPlan) -> Result<Linear<B>> {
        let weights: Vec<&Tensor> = plan.weights.iter().collect();
        let weight = self.matrix(&weights)?;
        if plan.biases.is_empty() {
            return Ok(Linear::new(weight, None));
        }
        let mut bias = Vec::new();
        for part in &plan.biases {
            bias.extend(part.vector()?);
        }
        Ok(Linear::new(weight, Some(self.backend.vector(&bias)?)))
    }

    fn matrix(&mut self, sources: &[&Tensor]) -> Result<B::Matrix> {
        let parts: Vec<&dyn MatrixSource> =
            sources.iter().map(|&s| s as &dyn MatrixSource).collect();
        let matrix = self
            .backend
            .matrix(&parts, self.dtype)
            .map_err(|error| weight_error(sources, error))?;
        self.loaded += sources.iter().map(|s| s.stored_bytes()).sum::<u64>();
        (self.progress)(self.loaded);
        Ok(matrix)
    }

    fn vector(&self, tensor: &Tensor) -> Result<B::Vector> {
        Ok(self.backend.vector(&tensor.vector()?)?)
    }
}

/// Names the tensor of a stack that the kernels could not pack.
fn weight_error(sources: &[&Tensor], error: KernelError) -> LlamaError {
    let mut source = error;
    let mut tensor = sources.first();
    match &mut source {
        KernelError::NotFinite { row, .. } => {
            for part in sources {
                tensor = Some(part);
                let rows = part.shape().0;
                if *row < rows {
                    break;
                }
                *row -= rows;
            }
        }
        KernelError::Read(_) => {}
        _ => return source.into(),
    }
    match tensor {
        Some(tensor) => LlamaError::BadWeight {
            tensor: tensor.name().to_owned(),
            file: tensor.file().to_owned(),
            source,
        },
        None => source.into(),
    }
}

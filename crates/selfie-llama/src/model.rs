//! The model: the weights of all layers, and how they are loaded.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use selfie_kernels::{Backend, DType, Format, KernelError, MatrixSource};

use crate::lora::{Adapter, RowAdapters};
use crate::plan::{LinearPlan, Plan};
use crate::weights::{Place, WeightChoice, WeightSummary};
use crate::{Checkpoint, LlamaConfig, LlamaError, Result, Tensor};

/// A LLaMA with its weights on a device. It is a handle, cheap to clone.
///
/// Clones share the weights and the device. A clone whose MLP is replaced ([`set_mlp`](Llama::set_mlp)) still shares
/// all other weights, so a model and its edited copy fit where one of them does.
///
/// Several threads may use a model at once, each with its own [`Session`](crate::Session). They share the device's
/// threads, and each gets the same bits as if it ran alone.
pub struct Llama<B: Backend> {
    pub(crate) backend: B,
    pub(crate) config: Arc<LlamaConfig>,
    /// The dtype that operands are made for: that of all matrices, or f32.
    pub(crate) dtype: DType,
    /// The dtype of keys and values in new sessions.
    kv: DType,
    pub(crate) weights: Arc<WeightSummary>,
    pub(crate) embed: Arc<B::Matrix>,
    pub(crate) layers: Vec<Layer<B>>,
    /// Gate and up, and down, in their original blocks, for layers whose MLP was replaced in a model with blocks.
    pub(crate) in_blocks: HashMap<usize, [Linear<B>; 2]>,
    pub(crate) norm: Arc<B::Vector>,
    /// The head; the embedding table itself if the two are tied.
    pub(crate) head: Arc<B::Matrix>,
    /// The prefix of the layers' tensor names in the checkpoint: `model.layers`.
    pub(crate) layers_name: Arc<str>,
    /// The names of the adapters. A linear has its adapters under the same numbers.
    pub(crate) loras: Vec<Arc<str>>,
    /// The adapter of new slots.
    pub(crate) adapter: Option<usize>,
    /// Whether an adapter is merged into the head.
    pub(crate) head_is_adapted: bool,
}

impl<B: Backend> Clone for Llama<B> {
    fn clone(&self) -> Self {
        Self {
            backend: self.backend.clone(),
            config: self.config.clone(),
            dtype: self.dtype,
            kv: self.kv,
            weights: self.weights.clone(),
            embed: self.embed.clone(),
            layers: self.layers.clone(),
            in_blocks: self.in_blocks.clone(),
            norm: self.norm.clone(),
            head: self.head.clone(),
            layers_name: self.layers_name.clone(),
            loras: self.loras.clone(),
            adapter: self.adapter,
            head_is_adapted: self.head_is_adapted,
        }
    }
}

/// The weights of one layer. It has the norms that its family's [`Spec`](crate::Spec) names.
pub(crate) struct Layer<B: Backend> {
    pub(crate) attn_norm: Option<Arc<B::Vector>>,
    pub(crate) attn_out_norm: Option<Arc<B::Vector>>,
    pub(crate) mlp_norm: Option<Arc<B::Vector>>,
    pub(crate) mlp_out_norm: Option<Arc<B::Vector>>,
    /// The norms of queries and of keys.
    pub(crate) qk_norm: Option<[Arc<B::Vector>; 2]>,
    /// Queries, keys and values: `[q_dim + 2 kv_dim, d_model]`.
    pub(crate) qkv: Linear<B>,
    pub(crate) o: Linear<B>,
    /// `[2 ffn, d_model]`, gate first.
    pub(crate) gate_up: Linear<B>,
    pub(crate) down: Linear<B>,
}

impl<B: Backend> Clone for Layer<B> {
    fn clone(&self) -> Self {
        Self {
            attn_norm: self.attn_norm.clone(),
            attn_out_norm: self.attn_out_norm.clone(),
            mlp_norm: self.mlp_norm.clone(),
            mlp_out_norm: self.mlp_out_norm.clone(),
            qk_norm: self.qk_norm.clone(),
            qkv: self.qkv.clone(),
            o: self.o.clone(),
            gate_up: self.gate_up.clone(),
            down: self.down.clone(),
        }
    }
}

/// A weight, its bias and its low-rank adapters, by the model's adapter numbers.
pub(crate) struct Linear<B: Backend> {
    pub(crate) weight: Arc<B::Matrix>,
    pub(crate) bias: Option<Arc<B::Vector>>,
    pub(crate) adapters: Vec<Option<Arc<Adapter<B>>>>,
}

impl<B: Backend> Clone for Linear<B> {
    fn clone(&self) -> Self {
        Self {
            weight: self.weight.clone(),
            bias: self.bias.clone(),
            adapters: self.adapters.clone(),
        }
    }
}

impl<B: Backend> Linear<B> {
    pub(crate) fn new(weight: B::Matrix, bias: Option<B::Vector>) -> Self {
        Self {
            weight: Arc::new(weight),
            bias: bias.map(Arc::new),
            adapters: Vec::new(),
        }
    }

    /// The linear's part of an adapter, if there is one.
    pub(crate) fn adapter(&self, number: usize) -> Option<&Adapter<B>> {
        self.adapters.get(number)?.as_deref()
    }

    /// `out = a · wᵀ (+ bias)`, plus what the rows' adapters add.
    pub(crate) fn apply(
        &self,
        backend: &B,
        a: &B::Acts,
        out: &mut B::Rows,
        row_adapters: &mut RowAdapters<B>,
    ) -> Result<()> {
        backend.linear(a, &self.weight, self.bias.as_deref(), out)?;
        row_adapters.add(backend, self, a, out)
    }

    /// `residual += a · wᵀ (+ bias)`, plus what the rows' adapters add: the end of attention and of the MLP. If several
    /// devices each hold a part of the weight, this is where their products must be summed, before the result is added
    /// to the residual stream.
    pub(crate) fn add_to(
        &self,
        backend: &B,
        a: &B::Acts,
        residual: &mut B::Rows,
        row_adapters: &mut RowAdapters<B>,
    ) -> Result<()> {
        backend.linear_add(a, &self.weight, self.bias.as_deref(), residual)?;
        row_adapters.add(backend, self, a, residual)
    }
}

impl<B: Backend> Llama<B> {
    /// Opens a Hugging Face folder, with the weights in the formats of its files.
    pub fn open(backend: B, dir: &Path) -> Result<Self> {
        let config = LlamaConfig::open(dir)?;
        let checkpoint = Checkpoint::open(dir)?;
        Self::load(backend, config, &checkpoint, None, |_| {})
    }

    /// Loads the weights. First checks the name, shape and type of every tensor against the configuration.
    ///
    /// `dtype` is the type to compute matrices in; `None` means [`WeightChoice::Stored`]. `progress` gets the number of
    /// bytes of the checkpoint loaded so far.
    pub fn load(
        backend: B,
        config: LlamaConfig,
        checkpoint: &Checkpoint,
        dtype: Option<DType>,
        progress: impl FnMut(u64),
    ) -> Result<Self> {
        let choice = dtype.map_or(WeightChoice::Stored, WeightChoice::Plain);
        Self::load_as(backend, config, checkpoint, choice, progress)
    }

    /// Like [`load`](Llama::load), with a choice of formats for the matrices.
    pub fn load_as(
        backend: B,
        config: LlamaConfig,
        checkpoint: &Checkpoint,
        choice: WeightChoice,
        progress: impl FnMut(u64),
    ) -> Result<Self> {
        Self::load_parts(backend, config, checkpoint, choice, true, progress)
    }

    /// Like [`load`](Self::load), for the layers alone: some files of layers have neither a final norm nor a head.
    /// States are right up to [`Site::Output`](crate::Site::Output); logits are meaningless.
    pub fn load_backbone(
        backend: B,
        config: LlamaConfig,
        checkpoint: &Checkpoint,
        dtype: Option<DType>,
        progress: impl FnMut(u64),
    ) -> Result<Self> {
        let choice = dtype.map_or(WeightChoice::Stored, WeightChoice::Plain);
        Self::load_parts(backend, config, checkpoint, choice, false, progress)
    }

    fn load_parts(
        backend: B,
        config: LlamaConfig,
        checkpoint: &Checkpoint,
        choice: WeightChoice,
        with_head: bool,
        mut progress: impl FnMut(u64),
    ) -> Result<Self> {
        let plan = Plan::of(&config, checkpoint, with_head)?;
        let choice = plan.choice(choice, backend.keeps_blocks());
        let summary = plan.summary(choice);
        let dtype = summary.operand_dtype();
        // Fail before the first byte is copied, not half-way.
        let (bytes, available) = (summary.bytes(), backend.memory()?.available);
        if bytes > available {
            return Err(LlamaError::WeightMemory {
                bytes,
                available,
                formats: summary.to_string(),
                device: backend.describe(),
            });
        }
        let mut loader = Loader {
            backend: &backend,
            choice,
            one_plus_weight: config.spec.one_plus_weight,
            loaded: 0,
            progress: &mut progress,
        };
        let table = plan.table();
        let embed = Arc::new(loader.matrix(&[&plan.embed], table)?);
        let layers = plan
            .layers
            .iter()
            .map(|layer| {
                let [attn_norm, attn_out_norm, mlp_norm, mlp_out_norm] = &layer.norms;
                Ok(Layer {
                    attn_norm: loader.norm_if(attn_norm)?,
                    attn_out_norm: loader.norm_if(attn_out_norm)?,
                    mlp_norm: loader.norm_if(mlp_norm)?,
                    mlp_out_norm: loader.norm_if(mlp_out_norm)?,
                    qk_norm: match &layer.qk_norm {
                        Some([q, k]) => Some([loader.norm(q)?, loader.norm(k)?]),
                        None => None,
                    },
                    qkv: loader.linear(&layer.qkv)?,
                    o: loader.linear(&layer.o)?,
                    gate_up: loader.linear(&layer.gate_up)?,
                    down: loader.linear(&layer.down)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let norm = match &plan.norm {
            Some(norm) => loader.norm(norm)?,
            None => Arc::new(backend.vector(&vec![1.0; config.d_model])?),
        };
        let head = match &plan.head {
            Some(head) => Arc::new(loader.matrix(&[head], Place::Head)?),
            None => embed.clone(),
        };
        Ok(Self {
            embed,
            layers,
            in_blocks: HashMap::new(),
            norm,
            head,
            layers_name: format!("{}layers", plan.prefix).into(),
            loras: Vec::new(),
            adapter: None,
            head_is_adapted: false,
            config: Arc::new(config),
            kv: backend.kv_dtype(dtype, None)?,
            backend,
            dtype,
            weights: Arc::new(summary),
        })
    }

    /// The device that the model runs on, as a handle. Another model can be opened on the same device with it.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The shape of the model.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The dtype of all matrices. It is f32 if they differ or if some are in blocks: operands then have f32, and an MLP
    /// is read and replaced in f32.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dtype of keys and values in new sessions: f32 on a CPU, that of the weights on a GPU, unless
    /// [`with_kv`](Llama::with_kv) chose another one.
    pub fn kv_dtype(&self) -> DType {
        self.kv
    }

    /// The same model with another dtype for the keys and values of its sessions; the weights are shared. Keys and
    /// values are rounded once, when they are stored. bf16 and f16 take half the memory of f32, and change the results
    /// a little.
    ///
    /// Returns [`KvDType`](KernelError::KvDType) if the device cannot keep them in `kv`: a GPU keeps them in the dtype
    /// of the weights.
    pub fn with_kv(mut self, kv: DType) -> Result<Self> {
        self.kv = self.backend.kv_dtype(self.dtype, Some(kv))?;
        Ok(self)
    }

    /// The formats of the matrices as loaded.
    pub fn weights(&self) -> &WeightSummary {
        &self.weights
    }
}

/// The type that [`Llama::load`] computes in by default on a device that does not keep blocks, determined from the
/// headers of the files: that of all matrices, f32 if they differ, bf16 if one is quantized.
pub fn stored_dtype(config: &LlamaConfig, checkpoint: &Checkpoint) -> Result<DType> {
    Ok(Plan::of(config, checkpoint, true)?.dtype())
}

/// The formats that [`Llama::load_as`] would load, on a device that keeps blocks or on one that does not.
pub fn weight_summary(
    config: &LlamaConfig,
    checkpoint: &Checkpoint,
    choice: WeightChoice,
    keeps_blocks: bool,
) -> Result<WeightSummary> {
    let plan = Plan::of(config, checkpoint, true)?;
    Ok(plan.summary(plan.choice(choice, keeps_blocks)))
}

/// Streams tensors to the backend.
struct Loader<'a, B> {
    backend: &'a B,
    choice: WeightChoice,
    one_plus_weight: bool,
    loaded: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<B: Backend> Loader<'_, B> {
    fn linear(&mut self, plan: &LinearPlan<Tensor>) -> Result<Linear<B>> {
        let weights: Vec<&Tensor> = plan.weights.iter().collect();
        let weight = self.matrix(&weights, Place::Layer)?;
        if plan.biases.is_empty() {
            return Ok(Linear::new(weight, None));
        }
        let mut bias = Vec::new();
        for part in &plan.biases {
            bias.extend(part.vector()?);
        }
        Ok(Linear::new(weight, Some(self.backend.vector(&bias)?)))
    }

    fn matrix(&mut self, sources: &[&Tensor], place: Place) -> Result<B::Matrix> {
        let parts: Vec<(&dyn MatrixSource, Format)> = sources
            .iter()
            .map(|&tensor| {
                (
                    tensor as &dyn MatrixSource,
                    self.choice.format(tensor, place),
                )
            })
            .collect();
        let matrix = self
            .backend
            .stack(&parts)
            .map_err(|error| weight_error(sources, error))?;
        self.loaded += sources.iter().map(|s| s.stored_bytes()).sum::<u64>();
        (self.progress)(self.loaded);
        Ok(matrix)
    }

    fn norm(&self, tensor: &Tensor) -> Result<Arc<B::Vector>> {
        let mut weight = tensor.vector()?;
        if self.one_plus_weight {
            weight.iter_mut().for_each(|w| *w += 1.0);
        }
        Ok(Arc::new(self.backend.vector(&weight)?))
    }

    fn norm_if(&self, tensor: &Option<Tensor>) -> Result<Option<Arc<B::Vector>>> {
        tensor.as_ref().map(|tensor| self.norm(tensor)).transpose()
    }
}

/// The error that names the tensor of a stack that the kernels could not pack.
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

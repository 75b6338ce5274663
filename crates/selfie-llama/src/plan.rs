//! The tensors that a configuration asks for: their names, their shapes, and what each is for.

use std::convert::Infallible;

use selfie_kernels::{DType, MatrixSource};

use crate::checkpoint::TEXT_PARTS;
use crate::weights::{Place, WeightChoice, WeightSummary};
use crate::{Checkpoint, LlamaConfig, Result, Tensor};

/// A tensor in the checkpoint of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// Its name in safetensors files: `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Rows first.
    pub shape: Vec<usize>,
    /// Its use.
    pub role: TensorRole,
}

/// The use of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorRole {
    /// The embedding table, `[vocab_size, d_model]`.
    Embedding,
    /// A projection or the head, `[out, in]`.
    Matrix,
    /// The bias of a projection, `[out]`.
    Bias,
    /// The weight of a norm.
    Norm,
}

impl LlamaConfig {
    /// Every tensor in a checkpoint of this configuration: layer by layer, then the tables and the final norm.
    pub fn tensors(&self) -> Vec<TensorShape> {
        let mut tensors = Vec::new();
        let Ok(_) = Plan::build(self, "model.", true, &mut |tensor| {
            tensors.push(tensor);
            Ok::<_, Infallible>(())
        });
        tensors
    }
}

/// All tensors of a model as `T`: a [`Tensor`], once found in a checkpoint.
pub(crate) struct Plan<T> {
    /// The prefix of the tensor names: `model.`, or a longer one in a multimodal checkpoint.
    pub(crate) prefix: &'static str,
    pub(crate) embed: T,
    pub(crate) layers: Vec<LayerPlan<T>>,
    pub(crate) norm: Option<T>,
    pub(crate) head: Option<T>,
}

pub(crate) struct LayerPlan<T> {
    /// In the order of [`Spec::norm_names`](crate::Spec::norm_names).
    pub(crate) norms: [Option<T>; 4],
    pub(crate) qk_norm: Option<[T; 2]>,
    pub(crate) qkv: LinearPlan<T>,
    pub(crate) o: LinearPlan<T>,
    pub(crate) gate_up: LinearPlan<T>,
    pub(crate) down: LinearPlan<T>,
}

/// Matrices to stack into one, and their biases.
pub(crate) struct LinearPlan<T> {
    pub(crate) weights: Vec<T>,
    pub(crate) biases: Vec<T>,
}

impl<T> Plan<T> {
    /// Walks the tensors of `config` and turns each into a `T` with `find`.
    fn build<E>(
        config: &LlamaConfig,
        prefix: &'static str,
        with_head: bool,
        find: &mut impl FnMut(TensorShape) -> std::result::Result<T, E>,
    ) -> std::result::Result<Self, E> {
        let (d, ffn) = (config.d_model, config.ffn);
        let (q, kv) = (config.attn.q_dim(), config.attn.kv_dim());
        let spec = &config.spec;
        let mut tensor = |name: &str, shape: &[usize], role| {
            find(TensorShape {
                name: name.to_owned(),
                shape: shape.to_vec(),
                role,
            })
        };
        let mut layers = Vec::with_capacity(config.n_layers);
        for layer in 0..config.n_layers {
            let full = |part: &str| format!("{prefix}layers.{layer}.{part}");
            let mut norm = |part: &str, width| {
                tensor(&full(&format!("{part}.weight")), &[width], TensorRole::Norm)
            };
            let mut norms = [const { None }; 4];
            for (found, part) in norms.iter_mut().zip(spec.norm_names()) {
                *found = part.map(|part| norm(part, d)).transpose()?;
            }
            let qk_norm = match config.qk_norm_widths() {
                Some([q, k]) => Some([norm("self_attn.q_norm", q)?, norm("self_attn.k_norm", k)?]),
                None => None,
            };
            let mut linear = |parts: &[(&str, usize)], columns, has_bias: bool| {
                let (mut weights, mut biases) = (Vec::new(), Vec::new());
                for &(part, rows) in parts {
                    let name = full(part);
                    let shape = [rows, columns];
                    weights.push(tensor(
                        &format!("{name}.weight"),
                        &shape,
                        TensorRole::Matrix,
                    )?);
                    if has_bias {
                        biases.push(tensor(&format!("{name}.bias"), &[rows], TensorRole::Bias)?);
                    }
                }
                Ok(LinearPlan { weights, biases })
            };
            let (qkv, gate_up) = if spec.fused {
                (
                    &[("self_attn.qkv_proj", q + 2 * kv)][..],
                    &[("mlp.gate_up_proj", 2 * ffn)][..],
                )
            } else {
                (
                    &[
                        ("self_attn.q_proj", q),
                        ("self_attn.k_proj", kv),
                        ("self_attn.v_proj", kv),
                    ][..],
                    &[("mlp.gate_proj", ffn), ("mlp.up_proj", ffn)][..],
                )
            };
            layers.push(LayerPlan {
                norms,
                qk_norm,
                qkv: linear(qkv, d, config.qkv_bias)?,
                o: linear(&[("self_attn.o_proj", d)], q, config.o_bias)?,
                gate_up: linear(gate_up, d, config.mlp_bias)?,
                down: linear(&[("mlp.down_proj", d)], ffn, config.mlp_bias)?,
            });
        }
        let table = [config.vocab_size, d];
        let head = if config.tie_word_embeddings || !with_head {
            None
        } else {
            Some(tensor("lm_head.weight", &table, TensorRole::Matrix)?)
        };
        let embed = format!("{prefix}embed_tokens.weight");
        let embed = tensor(&embed, &table, TensorRole::Embedding)?;
        let norm = if with_head {
            Some(tensor(
                &format!("{prefix}norm.weight"),
                &[d],
                TensorRole::Norm,
            )?)
        } else {
            None
        };
        Ok(Self {
            prefix,
            embed,
            layers,
            norm,
            head,
        })
    }
}

impl Plan<Tensor> {
    /// Finds every tensor and checks its shape and type, before any value is read.
    pub(crate) fn of(
        config: &LlamaConfig,
        checkpoint: &Checkpoint,
        with_head: bool,
    ) -> Result<Self> {
        Self::build(config, prefix(checkpoint), with_head, &mut |tensor| {
            checkpoint.tensor(&tensor.name, &tensor.shape)
        })
    }

    /// The nearest choice that the device supports.
    pub(crate) fn choice(&self, choice: WeightChoice, keeps_blocks: bool) -> WeightChoice {
        match choice {
            WeightChoice::Stored if !keeps_blocks => WeightChoice::Plain(self.dtype()),
            choice => choice,
        }
    }

    /// The use of the embedding table.
    pub(crate) fn table(&self) -> Place {
        if self.head.is_some() {
            Place::Layer
        } else {
            Place::Head
        }
    }

    /// All matrices.
    fn matrices(&self) -> impl Iterator<Item = (&Tensor, Place)> {
        let stacks = self.layers.iter();
        let stacks = stacks.flat_map(|l| [&l.qkv, &l.o, &l.gate_up, &l.down]);
        let layers = stacks.flat_map(|stack| &stack.weights);
        let head = self.head.iter().map(|head| (head, Place::Head));
        layers
            .map(|weight| (weight, Place::Layer))
            .chain(head)
            .chain([(&self.embed, self.table())])
    }

    pub(crate) fn summary(&self, choice: WeightChoice) -> WeightSummary {
        let mut summary = WeightSummary::default();
        for (tensor, place) in self.matrices() {
            summary.add(choice.format(tensor, place), tensor.shape());
        }
        summary
    }

    /// The type of all matrices: f32 if they differ, bf16 if one is quantized.
    pub(crate) fn dtype(&self) -> DType {
        if self.matrices().any(|(tensor, _)| tensor.is_quantized()) {
            return DType::Bf16;
        }
        let first = self.embed.dtype();
        let same = self.matrices().all(|(tensor, _)| tensor.dtype() == first);
        if same { first } else { DType::F32 }
    }
}

/// The prefix of a language model's tensor names. In a multimodal checkpoint the language model is one part of several.
fn prefix(checkpoint: &Checkpoint) -> &'static str {
    let has = |prefix: &&str| {
        let name = format!("{prefix}embed_tokens.weight");
        checkpoint.find(&name).is_some()
    };
    TEXT_PARTS.into_iter().find(has).unwrap_or("model.")
}

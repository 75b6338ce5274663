//! Describes what a family's layers compute, as data that the forward pass reads.

use selfie_kernels::{Activation, Attend, AttnShape, LogitMap};

use crate::Rope;

/// The points in which families differ in a forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// The positions of a layer's norms.
    pub norms: Norms,
    /// Whether a norm multiplies by `1 + weight` instead of `weight`.
    pub one_plus_weight: bool,
    /// The norm of queries and keys, before their rotation.
    pub qk_norm: Option<QkNorm>,
    /// The activation of the MLP's gate.
    pub activation: Activation,
    /// The factor of the products of queries and keys.
    pub attn_scale: f32,
    /// The soft cap of those products, if there is one.
    pub attn_softcap: Option<f32>,
    /// The factor of token embeddings, before layer 0.
    pub embed_scale: EmbedScale,
    /// The factor of the outputs of attention and MLP, before they are added to the residual stream.
    pub residual_scale: f32,
    /// The map from the head's products to logits.
    pub logits: LogitMap,
    /// Columns of a head that rotate.
    pub rotated: usize,
    /// The rotation of layers with [`LayerRope::Local`].
    pub local_rope: Option<Rope>,
    /// Whether a checkpoint stores queries, keys and values as one tensor, and gate and up as another.
    pub fused: bool,
    /// The settings that differ between layers: `[n_layers]`.
    pub layers: Vec<LayerSpec>,
}

/// The settings of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerSpec {
    /// The layer's rotation.
    pub rope: LayerRope,
    /// How many positions a row sees, itself included; `None` means all.
    pub window: Option<usize>,
}

/// The rotation of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LayerRope {
    /// The rotation [`LlamaConfig::rope`](crate::LlamaConfig::rope).
    #[default]
    Global,
    /// The rotation [`Spec::local_rope`].
    Local,
    /// No rotation.
    Off,
}

/// The positions of a layer's norms, with their names in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norms {
    /// Before attention and before the MLP: `input_layernorm`, `post_attention_layernorm`.
    Before,
    /// After attention and MLP, before the residual stream is added: `post_attention_layernorm`,
    /// `post_feedforward_layernorm`.
    After,
    /// Both: `input_layernorm`, `post_attention_layernorm`, `pre_feedforward_layernorm`, `post_feedforward_layernorm`.
    Around,
}

/// How queries and keys are normed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QkNorm {
    /// Each head by itself, with one weight of width `head_dim`.
    Heads,
    /// All heads together, with a weight as wide as the projection.
    Flat,
}

/// The factor of token embeddings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EmbedScale {
    /// A constant; 1 for most families.
    Factor(f32),
    /// The square root of `d_model`, rounded to the dtype of the weights: Gemma.
    RootOfWidth,
}

impl Spec {
    /// The spec of a LLaMA with `n_layers` layers.
    pub fn llama(attn: &AttnShape, n_layers: usize) -> Self {
        Self {
            norms: Norms::Before,
            one_plus_weight: false,
            qk_norm: None,
            activation: Activation::Silu,
            attn_scale: Attend::new(*attn).scale,
            attn_softcap: None,
            embed_scale: EmbedScale::Factor(1.0),
            residual_scale: 1.0,
            logits: LogitMap::PLAIN,
            rotated: attn.head_dim,
            local_rope: None,
            fused: false,
            layers: vec![LayerSpec::default(); n_layers],
        }
    }

    /// Whether the outputs of attention and MLP are added to the residual stream unchanged.
    pub(crate) fn adds_unchanged(&self) -> bool {
        self.norms == Norms::Before && self.residual_scale == 1.0
    }

    /// The names of a layer's norms in a checkpoint: before attention, after it, before the MLP, after it.
    pub(crate) fn norm_names(&self) -> [Option<&'static str>; 4] {
        match self.norms {
            Norms::Before => [
                Some("input_layernorm"),
                None,
                Some("post_attention_layernorm"),
                None,
            ],
            Norms::After => [
                None,
                Some("post_attention_layernorm"),
                None,
                Some("post_feedforward_layernorm"),
            ],
            Norms::Around => [
                Some("input_layernorm"),
                Some("post_attention_layernorm"),
                Some("pre_feedforward_layernorm"),
                Some("post_feedforward_layernorm"),
            ],
        }
    }
}

//! What a family's layers compute, as data: the forward pass reads it.

use selfie_kernels::{Activation, Attend, AttnShape, LogitMap};

use crate::Rope;

/// The parts of a forward pass in which families differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Where the norms of a layer stand.
    pub norms: Norms,
    /// Whether a norm multiplies by `1 + weight` instead of `weight`.
    pub one_plus_weight: bool,
    /// The norm of queries and keys before they are rotated.
    pub qk_norm: Option<QkNorm>,
    /// The gate of the MLP.
    pub activation: Activation,
    /// The factor of a query's products with keys.
    pub attn_scale: f32,
    /// The bound of those, if there is one.
    pub attn_softcap: Option<f32>,
    /// What token embeddings are multiplied by, before layer 0.
    pub embed_scale: EmbedScale,
    /// What the outputs of attention and MLP are multiplied by, before the residual stream is added.
    pub residual_scale: f32,
    /// From the head's products to logits.
    pub logits: LogitMap,
    /// Columns of a head that are rotated.
    pub rotated: usize,
    /// The rotation of layers with [`LayerRope::Local`].
    pub local_rope: Option<Rope>,
    /// Whether queries, keys and values are one tensor of a checkpoint, and gate and up another.
    pub fused: bool,
    /// What differs from layer to layer: `[n_layers]`.
    pub layers: Vec<LayerSpec>,
}

/// What is a layer's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerSpec {
    /// Its rotation.
    pub rope: LayerRope,
    /// How many positions a row sees, its own included; all of them where there is none.
    pub window: Option<usize>,
}

/// The rotation of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LayerRope {
    /// That of [`LlamaConfig::rope`](crate::LlamaConfig::rope).
    #[default]
    Global,
    /// That of [`Spec::local_rope`].
    Local,
    /// None.
    Off,
}

/// Where the norms of a layer stand, with their names in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norms {
    /// Before attention and before the MLP: `input_layernorm`, `post_attention_layernorm`.
    Before,
    /// Behind them, before the residual stream is added: `post_attention_layernorm`, `post_feedforward_layernorm`.
    After,
    /// Both: `input_layernorm`, `post_attention_layernorm`, `pre_feedforward_layernorm`, `post_feedforward_layernorm`.
    Around,
}

/// How queries and keys are normed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QkNorm {
    /// Each head by itself, with one weight of `head_dim`.
    Heads,
    /// All heads together, with a weight of the projection's width.
    Flat,
}

/// The factor of token embeddings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EmbedScale {
    /// A number; 1 for most.
    Factor(f32),
    /// The root of `d_model`, rounded to the type of the weights: Gemma.
    RootOfWidth,
}

impl Spec {
    /// A LLaMA of `n_layers`.
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

    /// Whether the outputs of attention and MLP are added to the residual stream as they are.
    pub(crate) fn adds_as_it_is(&self) -> bool {
        self.norms == Norms::Before && self.residual_scale == 1.0
    }

    /// The names of a layer's norms in a checkpoint: before attention, behind it, before the MLP, behind it.
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

//! Low-rank adapters (LoRA, arXiv 2106.09685, section 4.1), applied beside a model's unchanged weights.
//!
//! An adapted product is `x Wᵀ + (x Aᵀ) (s B)ᵀ`, with A `[r, in]` and B `[out, r]`; the scale s is multiplied into B on
//! loading. The rows of a pass may have different adapters, or none.

mod file;
mod rows;

use std::ops::Range;
use std::sync::Arc;

use selfie_kernels::{Backend, DType, SliceMatrix};

pub use file::Lora;
pub(crate) use file::{Module, Pair};
pub(crate) use rows::RowAdapters;

use crate::model::Linear;
use crate::{Llama, LlamaConfig, LoraError, Result};

/// Ranks are padded with zeros to a multiple of this, which every device's products accept.
const RANK_STEP: usize = 16;

/// The adapters of the matrices that are stacked in one weight. Their A matrices are stacked too; their B matrices lie
/// along the diagonal of `b`.
pub(crate) struct Adapter<B: Backend> {
    /// `[rank, in]`
    pub(crate) a: B::Matrix,
    /// `[out, rank]`
    pub(crate) b: B::Matrix,
    pub(crate) rank: usize,
}

impl<B: Backend> Llama<B> {
    /// The same model with one more adapter, as a handle that shares all weights. A [`Session`](crate::Session) or a
    /// capture opened on the new handle has the adapter from the start; one opened on this handle does not.
    ///
    /// An adapter of the head makes a copy of the head, which applies to all rows of the new handle.
    ///
    /// # Errors
    /// The adapter is for layers or shapes that the model does not have.
    pub fn with_lora(&self, lora: &Lora) -> Result<Self> {
        let number = self.loras.len();
        let mut adapted = self.clone();
        let attn = &self.config.attn;
        let (d, ffn) = (self.config.d_model, self.config.ffn);
        let (q, kv) = (attn.q_dim(), attn.kv_dim());
        let fused = self.config.spec.fused;
        let qkv: &[(Module, Range<usize>)] = &if fused {
            vec![(Module::Qkv, 0..q + 2 * kv)]
        } else {
            vec![
                (Module::Q, 0..q),
                (Module::K, q..q + kv),
                (Module::V, q + kv..q + 2 * kv),
            ]
        };
        let gate_up: &[(Module, Range<usize>)] = &if fused {
            vec![(Module::GateUp, 0..2 * ffn)]
        } else {
            vec![(Module::Gate, 0..ffn), (Module::Up, ffn..2 * ffn)]
        };
        let o = [(Module::O, 0..d)];
        let down = [(Module::Down, 0..d)];
        let mut used = 0;
        for (l, layer) in adapted.layers.iter_mut().enumerate() {
            for (linear, parts, width) in [
                (&mut layer.qkv, qkv, d),
                (&mut layer.o, &o[..], q),
                (&mut layer.gate_up, gate_up, d),
                (&mut layer.down, &down[..], ffn),
            ] {
                used += self.adapt(lora, l, linear, parts, width, number)?;
            }
        }
        if let Some(pair) = &lora.head {
            lora.check("lm_head", pair, [self.config.vocab_size, d])?;
            adapted.head = Arc::new(self.merged_head(pair)?);
            adapted.head_is_adapted = true;
        }
        lora.check_used(used, self.config.n_layers, fused)?;
        adapted.loras.push(lora.name().into());
        adapted.adapter = Some(number);
        Ok(adapted)
    }

    /// The names of the model's adapters.
    pub fn loras(&self) -> impl Iterator<Item = &str> {
        self.loras.iter().map(|name| &**name)
    }

    /// Gives a linear its part of an adapter, and returns how many pairs that used.
    fn adapt(
        &self,
        lora: &Lora,
        layer: usize,
        linear: &mut Linear<B>,
        parts: &[(Module, Range<usize>)],
        width: usize,
        number: usize,
    ) -> Result<usize> {
        let mut pairs = Vec::new();
        for (module, rows) in parts {
            if let Some(pair) = lora.pair(layer, *module) {
                lora.check(&module.path(layer), pair, [rows.len(), width])?;
                pairs.push((rows.clone(), pair));
            }
        }
        if pairs.is_empty() {
            return Ok(0);
        }
        let ranks: usize = pairs.iter().map(|(_, pair)| pair.rank).sum();
        let rank = ranks.next_multiple_of(RANK_STEP);
        let out = parts.iter().map(|(_, rows)| rows.end).max().unwrap_or(0);
        let (mut a, mut b) = (vec![0.0; rank * width], vec![0.0; out * rank]);
        let mut first = 0;
        for (rows, pair) in &pairs {
            a[first * width..][..pair.a.len()].copy_from_slice(&pair.a);
            for (row, values) in rows.clone().zip(pair.b.chunks_exact(pair.rank)) {
                b[row * rank + first..][..pair.rank].copy_from_slice(values);
            }
            first += pair.rank;
        }
        let pack = |columns: usize, values: &[f32]| -> Result<B::Matrix> {
            let values = SliceMatrix::from_f32(columns, values)?;
            Ok(self.backend.matrix(&[&values], self.dtype)?)
        };
        linear.adapters.resize_with(number, || None);
        linear.adapters.push(Some(Arc::new(Adapter {
            a: pack(width, &a)?,
            b: pack(rank, &b)?,
            rank,
        })));
        Ok(pairs.len())
    }

    /// The head with an adapter merged into it.
    fn merged_head(&self, pair: &Pair) -> Result<B::Matrix> {
        let (vocab, d) = (self.config.vocab_size, self.config.d_model);
        let mut head = self.backend.read_matrix(&self.head, 0..vocab)?;
        for (row, b) in head.chunks_exact_mut(d).zip(pair.b.chunks_exact(pair.rank)) {
            for (&b, a) in b.iter().zip(pair.a.chunks_exact(d)) {
                row.iter_mut().zip(a).for_each(|(x, a)| *x += b * a);
            }
        }
        let head = SliceMatrix::from_f32(d, &head)?;
        Ok(self.backend.matrix(&[&head], self.dtype)?)
    }
}

impl Lora {
    /// Whether the adapter has a pair for a tensor of a checkpoint.
    pub fn is_for(&self, tensor: &str) -> bool {
        self.pair_of_tensor(tensor).is_some()
    }

    /// Merges the adapter into the values of a checkpoint's tensor, `[rows, columns]`: `W + s B A`. Does nothing if it
    /// has no pair for the tensor.
    pub fn merge(&self, tensor: &str, values: &mut [f32], columns: usize) -> Result<()> {
        let Some((path, pair)) = self.pair_of_tensor(tensor) else {
            return Ok(());
        };
        self.check(&path, pair, [values.len() / columns.max(1), columns])?;
        for (row, b) in values
            .chunks_exact_mut(columns)
            .zip(pair.b.chunks_exact(pair.rank))
        {
            for (&b, a) in b.iter().zip(pair.a.chunks_exact(columns)) {
                row.iter_mut().zip(a).for_each(|(x, a)| *x += b * a);
            }
        }
        Ok(())
    }

    /// An error unless `merged` pairs are all that the adapter has. If the head is the embedding table, the head has no
    /// tensor of its own to merge into.
    pub fn check_merged(&self, merged: usize, config: &LlamaConfig) -> Result<()> {
        if self.head.is_some() && config.tie_word_embeddings {
            return Err(LoraError::Module {
                dir: self.dir().to_owned(),
                module: "a separate lm_head".to_owned(),
                n_layers: config.n_layers,
            }
            .into());
        }
        let head = usize::from(self.head.is_some());
        self.check_used(
            merged - head.min(merged),
            config.n_layers,
            config.spec.fused,
        )
    }

    fn check(&self, path: &str, pair: &Pair, [out, width]: [usize; 2]) -> Result<()> {
        let found = [pair.b.len() / pair.rank, pair.a.len() / pair.rank];
        if found == [out, width] {
            return Ok(());
        }
        Err(LoraError::Shape {
            dir: self.dir().to_owned(),
            module: path.to_owned(),
            found,
            model: [out, width],
        }
        .into())
    }
}

/// The shape of the buffers of adapted products: the dtype of the operand, and its number of rows.
#[derive(Clone, Copy)]
pub(crate) struct LowRankSize {
    pub(crate) rows: usize,
    pub(crate) dtype: DType,
}

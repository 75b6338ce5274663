//! All states of a prompt, on the host.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use selfie_kernels::Backend;

use crate::cache::branch_rows;
use crate::{KvCache, Llama, LlamaError, Probe, Result, Site, Visit, Workspace};

/// Rows of a prompt that go through the model at a time.
const PROMPT_ROWS: usize = 512;

/// Everything that a prompt makes of the residual stream, in f32. `T` is the number of tokens, `L` of layers,
/// `D` is d_model, `V` the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The tokens, `[T]`.
    pub input_ids: Vec<u32>,
    /// The residual stream at the input of each layer, then after the final norm: `[L + 1, T, D]`.
    pub hidden_states: Vec<f32>,
    /// The input of each layer's MLP, after its norm: `[L, T, D]`.
    pub pre_mlp: Vec<f32>,
    /// What the output of each layer's MLP is added to: `[L, T, D]`.
    pub residual: Vec<f32>,
    /// `[T, V]`.
    pub logits: Vec<f32>,
    n_layers: usize,
    d_model: usize,
}

impl Trace {
    /// Runs a prompt of token ids and keeps its states.
    pub fn new<B: Backend>(model: &Llama<B>, input_ids: &[u32]) -> Result<Self> {
        if input_ids.is_empty() {
            return Err(LlamaError::EmptyPrompt);
        }
        let (config, backend) = (model.config(), model.backend());
        let (n_layers, d_model, tokens) = (config.n_layers, config.d_model, input_ids.len());
        let layout = config.kv_layout(0, vec![tokens; n_layers], 1);
        let mut cache = KvCache::new(backend, layout)?;
        let mut ws = Workspace::new(model, tokens.min(PROMPT_ROWS), tokens)?;
        let slot = cache.take(backend, &vec![0; n_layers])?;

        let state = tokens * d_model;
        let mut trace = Trace {
            input_ids: input_ids.to_vec(),
            hidden_states: vec![0.0; (n_layers + 1) * state],
            pre_mlp: vec![0.0; n_layers * state],
            residual: vec![0.0; n_layers * state],
            logits: Vec::with_capacity(tokens * config.vocab_size),
            n_layers,
            d_model,
        };
        for (chunk, ids) in input_ids.chunks(ws.max_rows()).enumerate() {
            let rows: Vec<_> = branch_rows(slot, chunk * ws.max_rows(), ids).collect();
            model.forward(&mut ws, &mut cache, &rows, 0..n_layers, &mut trace)?;
            let all: Vec<usize> = (0..ids.len()).collect();
            model.logits(&mut ws, &all, |_, logits| {
                trace.logits.extend_from_slice(logits);
                Ok(())
            })?;
        }
        Ok(trace)
    }

    /// Writes a safetensors file with the tensors `hidden_states`, `pre_mlp`, `residual`, `logits` (f32) and
    /// `input_ids` (i64).
    pub fn save(&self, path: &Path) -> Result<()> {
        let (layers, tokens, d) = (self.n_layers, self.input_ids.len(), self.d_model);
        let ids: Vec<i64> = self.input_ids.iter().map(|&id| i64::from(id)).collect();
        let vocab = self.logits.len() / tokens;
        let state = |layers| vec![layers, tokens, d];
        let tensors = [
            ("hidden_states", state(layers + 1), &self.hidden_states),
            ("pre_mlp", state(layers), &self.pre_mlp),
            ("residual", state(layers), &self.residual),
            ("logits", vec![tokens, vocab], &self.logits),
        ];
        let failed = |source| LlamaError::Save {
            path: path.to_owned(),
            source,
        };
        let mut views = BTreeMap::new();
        for (name, shape, values) in tensors {
            let bytes = bytemuck::cast_slice(values);
            views.insert(
                name,
                TensorView::new(Dtype::F32, shape, bytes).map_err(failed)?,
            );
        }
        let bytes = bytemuck::cast_slice(&ids);
        let view = TensorView::new(Dtype::I64, vec![tokens], bytes).map_err(failed)?;
        views.insert("input_ids", view);
        serialize_to_file(views, None, path).map_err(failed)
    }
}

impl<B: Backend> Probe<B> for Trace {
    fn wants(&self, _: Site) -> bool {
        true
    }

    fn visit(&mut self, visit: Visit<'_, B>) -> Result<()> {
        let (states, layer) = match visit.site {
            Site::HiddenStates(layer) => (&mut self.hidden_states, layer),
            Site::PreMlp(layer) => (&mut self.pre_mlp, layer),
            Site::Residual(layer) => (&mut self.residual, layer),
        };
        let values = visit.backend.read_rows(visit.rows, 0..visit.batch.len())?;
        let (tokens, width) = (self.input_ids.len(), self.d_model);
        for (row, values) in visit.batch.iter().zip(values.chunks_exact(width)) {
            let at = (layer * tokens + row.position as usize) * width;
            states[at..at + width].copy_from_slice(values);
        }
        Ok(())
    }
}

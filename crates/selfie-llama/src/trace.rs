//! All states of a prompt, on the host.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use selfie_kernels::Backend;

use crate::{
    Capture, Feed, Llama, LlamaError, Pass, Probe, Result, Session, SessionSize, Site, Visit,
};

/// All states of a prompt, in f32. `T` is the number of tokens, `L` the number of layers, `D` d_model, `V` the size of
/// the vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The tokens, `[T]`.
    pub input_ids: Vec<u32>,
    /// The residual stream at the input of each layer, then after the final norm: `[L + 1, T, D]`.
    pub hidden_states: Vec<f32>,
    /// The input of each layer's MLP, after its norm: `[L, T, D]`.
    pub pre_mlp: Vec<f32>,
    /// The residual stream to which the output of each layer's MLP is added: `[L, T, D]`.
    pub residual: Vec<f32>,
    /// `[T, V]`.
    pub logits: Vec<f32>,
    n_layers: usize,
    d_model: usize,
}

impl Trace {
    /// Runs a prompt of token ids, and keeps its states.
    pub fn new<B: Backend>(model: &Llama<B>, input_ids: &[u32]) -> Result<Self> {
        if input_ids.is_empty() {
            return Err(LlamaError::EmptyPrompt);
        }
        let (config, backend) = (model.config(), model.backend());
        let (n_layers, d_model, tokens) = (config.n_layers, config.d_model, input_ids.len());
        let mut session = Session::new(model, &SessionSize::new(model, 1, tokens))?;
        let slot = session.open()?;

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
        let wants: Vec<_> = (0..tokens as u32)
            .map(|position| (Site::Output, slot, position))
            .collect();
        let mut output = Capture::new(backend, &wants, d_model)?;
        let feeds = [Feed::new(slot, input_ids)];
        session.run(&Pass::new(model, &feeds), &mut (&mut trace, &mut output))?;
        let rows = wants
            .iter()
            .map(|&want| output.index(want))
            .collect::<Result<Vec<_>>>()?;
        session.logits(output.rows(), &rows, |_, logits| {
            trace.logits.extend_from_slice(logits);
            Ok(())
        })?;
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
    fn wants(&self, site: Site) -> bool {
        site != Site::Output
    }

    fn visit(&mut self, visit: Visit<'_, B>) -> Result<()> {
        let (states, layer) = match visit.site {
            Site::HiddenStates(layer) => (&mut self.hidden_states, layer),
            Site::PreMlp(layer) => (&mut self.pre_mlp, layer),
            Site::Residual(layer) => (&mut self.residual, layer),
            Site::Output => return Ok(()),
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

//! The forward pass over a flat batch of rows, and the head.

use std::ops::Range;

use selfie_kernels::{Backend, BatchRow, Best};

use crate::cache::KvCache;
use crate::model::Layer;
use crate::{Llama, LlamaError, Probe, Result, Site, Visit};

/// Rows of logits that are in memory at a time.
const LOGITS_ROWS: usize = 32;

/// The buffers of a forward pass, made once for passes of up to `max_rows` rows.
pub(crate) struct Workspace<B: Backend> {
    max_rows: usize,
    batch: B::Batch,
    rows_in_batch: Vec<BatchRow>,
    /// `[positions, head_dim]`
    rope: B::Rows,
    /// `[rows, d_model]`
    pub(crate) residual: B::Rows,
    /// A copy of rows for a site that cannot be written, or for the head.
    copy: B::Rows,
    normed: B::Acts,
    qkv: B::Rows,
    attended: B::Acts,
    gate_up: B::Rows,
    hidden: B::Acts,
    /// `[LOGITS_ROWS, vocab]`, when somebody asked for logits.
    logits: Option<B::Rows>,
}

impl<B: Backend> Workspace<B> {
    /// Buffers for passes of up to `max_rows` rows at positions below `max_positions`.
    pub(crate) fn new(model: &Llama<B>, max_rows: usize, max_positions: usize) -> Result<Self> {
        let (config, backend) = (&model.config, &model.backend);
        config.check_context(max_positions)?;
        let max_rows = max_rows.max(1);
        let attn = &config.attn;
        let table = config.rope.table(attn.head_dim, max_positions);
        let mut rope = backend.rows(max_positions, attn.head_dim)?;
        backend.write_rows(&table, &mut rope)?;
        Ok(Self {
            max_rows,
            batch: backend.batch(max_rows)?,
            rows_in_batch: Vec::with_capacity(max_rows),
            rope,
            residual: backend.rows(max_rows, config.d_model)?,
            copy: backend.rows(max_rows, config.d_model)?,
            normed: backend.acts(max_rows, config.d_model, model.dtype)?,
            qkv: backend.rows(max_rows, attn.qkv_dim())?,
            attended: backend.acts(max_rows, attn.q_dim(), model.dtype)?,
            gate_up: backend.rows(max_rows, 2 * config.ffn)?,
            hidden: backend.acts(max_rows, config.ffn, model.dtype)?,
            logits: None,
        })
    }

    /// Most rows of a pass.
    pub(crate) fn max_rows(&self) -> usize {
        self.max_rows
    }
}

/// The rows that the head reads.
pub(crate) enum HeadRows<'a, B: Backend> {
    /// Rows of the last pass.
    Pass,
    /// Rows that were kept: the residual stream before the final norm, `[rows, d_model]`.
    Kept(&'a B::Rows),
}

impl<B: Backend> Llama<B> {
    /// Runs `rows` through `layers` and leaves the residual stream at the input of layer `layers.end` in the
    /// workspace.
    ///
    /// A pass that begins at layer 0 embeds the rows' tokens; one that begins later takes the residual stream
    /// that is in the workspace, a row for each of `rows`. Keys and values of a row go to its slot, and
    /// it sees what was stored there before or comes earlier in its slot in the same batch.
    ///
    /// The probe visits `hidden_states[l]` for each l in `layers.start..=layers.end`: also the states that the pass
    /// ends with.
    pub(crate) fn forward(
        &self,
        ws: &mut Workspace<B>,
        cache: &mut KvCache<B>,
        rows: &[BatchRow],
        layers: Range<usize>,
        probe: &mut dyn Probe<B>,
    ) -> Result<()> {
        let b = &self.backend;
        self.check_pass(ws, rows, &layers)?;
        if rows.is_empty() {
            b.clear(&mut ws.residual);
            return Ok(());
        }
        b.load_batch(rows, &mut ws.batch)?;
        ws.rows_in_batch.clear();
        ws.rows_in_batch.extend_from_slice(rows);
        if layers.start == 0 {
            b.embed(&self.embed, &ws.batch, &mut ws.residual)?;
        }
        for l in layers.clone() {
            self.write_site(ws, Site::HiddenStates(l), probe)?;
            self.layer(ws, cache, l, probe)?;
        }
        let last = Site::HiddenStates(layers.end);
        if layers.end < self.config.n_layers {
            self.write_site(ws, last, probe)?;
            return Ok(());
        }
        self.write_site(ws, Site::Output, probe)?;
        if probe.wants(last) {
            let eps = self.config.rms_norm_eps;
            b.rms_norm_f32(&ws.residual, &self.norm, eps, &mut ws.copy)?;
            self.copy_site(ws, last, probe)?;
        }
        Ok(())
    }

    /// The most likely token of each of `rows`.
    pub(crate) fn best(
        &self,
        ws: &mut Workspace<B>,
        from: &HeadRows<'_, B>,
        rows: &[usize],
    ) -> Result<Vec<Best>> {
        self.head_input(ws, from, rows)?;
        Ok(self.backend.head_best(&ws.normed, &self.head)?)
    }

    /// The log-probability of `tokens[i]` at `rows[i]`.
    pub(crate) fn score(
        &self,
        ws: &mut Workspace<B>,
        from: &HeadRows<'_, B>,
        rows: &[usize],
        tokens: &[u32],
    ) -> Result<Vec<f32>> {
        self.head_input(ws, from, rows)?;
        Ok(self.backend.head_score(&ws.normed, &self.head, tokens)?)
    }

    /// Calls `each` with the logits (`[vocab]`, f32) of each of `rows`, in turn.
    pub(crate) fn logits(
        &self,
        ws: &mut Workspace<B>,
        from: &HeadRows<'_, B>,
        rows: &[usize],
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let b = &self.backend;
        let vocab = self.config.vocab_size;
        let at_a_time = LOGITS_ROWS.min(ws.max_rows);
        let mut logits = match ws.logits.take() {
            Some(logits) => logits,
            None => b.rows(at_a_time, vocab)?,
        };
        for (chunk, rows) in rows.chunks(at_a_time).enumerate() {
            self.head_input(ws, from, rows)?;
            b.linear(&ws.normed, &self.head, None, &mut logits)?;
            let values = b.read_rows(&logits, 0..rows.len())?;
            for (i, row) in values.chunks_exact(vocab).enumerate() {
                each(chunk * at_a_time + i, row)?;
            }
        }
        ws.logits = Some(logits);
        Ok(())
    }

    /// The normed rows, in `ws.normed`.
    fn head_input(
        &self,
        ws: &mut Workspace<B>,
        from: &HeadRows<'_, B>,
        rows: &[usize],
    ) -> Result<()> {
        let b = &self.backend;
        b.clear(&mut ws.copy);
        let source = match from {
            HeadRows::Pass => &ws.residual,
            HeadRows::Kept(kept) => kept,
        };
        b.gather(source, rows, &mut ws.copy)?;
        let eps = self.config.rms_norm_eps;
        b.rms_norm(&ws.copy, &self.norm, eps, &mut ws.normed)?;
        Ok(())
    }

    fn layer(
        &self,
        ws: &mut Workspace<B>,
        cache: &mut KvCache<B>,
        l: usize,
        probe: &mut dyn Probe<B>,
    ) -> Result<()> {
        let (b, attn, eps) = (&self.backend, &self.config.attn, self.config.rms_norm_eps);
        let layer: &Layer<B> = &self.layers[l];
        b.rms_norm(&ws.residual, &layer.input_norm, eps, &mut ws.normed)?;
        layer.qkv.apply(b, &ws.normed, &mut ws.qkv)?;
        // A norm of queries and keys belongs here.
        b.rope_append(
            attn,
            Some(&ws.rope),
            &ws.batch,
            l,
            &mut ws.qkv,
            &mut cache.kv,
        )?;
        b.attend(attn, &ws.qkv, &ws.batch, l, &cache.kv, &mut ws.attended)?;
        layer.o.add_to(b, &ws.attended, &mut ws.residual)?;

        self.write_site(ws, Site::Residual(l), probe)?;
        if probe.wants(Site::PreMlp(l)) {
            b.rms_norm_f32(&ws.residual, &layer.mlp_norm, eps, &mut ws.copy)?;
            self.copy_site(ws, Site::PreMlp(l), probe)?;
        }
        b.rms_norm(&ws.residual, &layer.mlp_norm, eps, &mut ws.normed)?;
        layer.gate_up.apply(b, &ws.normed, &mut ws.gate_up)?;
        b.swiglu(&ws.gate_up, &mut ws.hidden)?;
        layer.down.add_to(b, &ws.hidden, &mut ws.residual)
    }

    /// A visit to the residual stream itself.
    fn write_site(
        &self,
        ws: &mut Workspace<B>,
        site: Site,
        probe: &mut dyn Probe<B>,
    ) -> Result<()> {
        if !probe.wants(site) {
            return Ok(());
        }
        probe.visit(Visit {
            backend: &self.backend,
            site,
            batch: &ws.rows_in_batch,
            rows: &mut ws.residual,
        })
    }

    /// A visit to the values in `ws.copy`.
    fn copy_site(&self, ws: &mut Workspace<B>, site: Site, probe: &mut dyn Probe<B>) -> Result<()> {
        probe.visit(Visit {
            backend: &self.backend,
            site,
            batch: &ws.rows_in_batch,
            rows: &mut ws.copy,
        })
    }

    fn check_pass(
        &self,
        ws: &Workspace<B>,
        rows: &[BatchRow],
        layers: &Range<usize>,
    ) -> Result<()> {
        if layers.start > layers.end || layers.end > self.config.n_layers {
            return Err(LlamaError::LayerRange {
                start: layers.start,
                end: layers.end,
                n_layers: self.config.n_layers,
            });
        }
        if rows.len() > ws.max_rows {
            return Err(LlamaError::TooManyRows {
                rows: rows.len(),
                max: ws.max_rows,
            });
        }
        let there = self.backend.len(&ws.residual);
        if layers.start > 0 && there != rows.len() {
            return Err(LlamaError::ResidualRows {
                rows: rows.len(),
                there,
            });
        }
        Ok(())
    }
}

//! The forward pass over a flat batch of rows, and the head.

use std::collections::HashMap;
use std::ops::Range;

use selfie_kernels::{Attend, Backend, BatchRow, Best, TokenDraw};

use crate::cache::KvCache;
use crate::lora::{LowRankSize, RowAdapters};
use crate::model::{Layer, Linear};
use crate::{EmbedScale, LayerRope, LayerSpec, Llama, LlamaError, Probe, Result, Site, Visit};

/// Rows of logits in memory at a time.
const LOGITS_ROWS: usize = 32;

/// The buffers of a forward pass. They are made once, for passes of up to `max_rows` rows.
pub(crate) struct Workspace<B: Backend> {
    max_rows: usize,
    batch: B::Batch,
    rows_in_batch: Vec<BatchRow>,
    /// `[positions, rotated]` for each rotation that occurs in a layer.
    ropes: HashMap<LayerRope, B::Rows>,
    /// `[rows, d_model]`
    pub(crate) residual: B::Rows,
    /// A copy of rows for the head or for a site that cannot be written. Also the result of a norm after attention or
    /// MLP.
    copy: B::Rows,
    /// The output of attention or MLP, if it is changed before it is added: `[rows, d_model]`.
    branch: Option<B::Rows>,
    normed: B::Acts,
    qkv: B::Rows,
    attended: B::Acts,
    gate_up: B::Rows,
    hidden: B::Acts,
    /// The adapters of the pass's rows.
    pub(crate) row_adapters: RowAdapters<B>,
    /// `[LOGITS_ROWS, vocab]`, once somebody has asked for logits.
    logits: Option<B::Rows>,
}

impl<B: Backend> Workspace<B> {
    /// Buffers for passes of up to `max_rows` rows at positions below `max_positions`.
    pub(crate) fn new(model: &Llama<B>, max_rows: usize, max_positions: usize) -> Result<Self> {
        let (config, backend) = (&model.config, &model.backend);
        config.check_context(max_positions)?;
        let max_rows = max_rows.max(1);
        let attn = &config.attn;
        let mut ropes = HashMap::new();
        for rope in config.spec.layers.iter().map(|layer| layer.rope) {
            if ropes.contains_key(&rope) {
                continue;
            }
            if let Some(table) = config.rope_table(rope, max_positions) {
                let mut rows = backend.rows(max_positions, config.spec.rotated)?;
                backend.write_rows(&table, &mut rows)?;
                ropes.insert(rope, rows);
            }
        }
        let branch = if config.spec.adds_unchanged() {
            None
        } else {
            Some(backend.rows(max_rows, config.d_model)?)
        };
        Ok(Self {
            max_rows,
            batch: backend.batch(max_rows)?,
            rows_in_batch: Vec::with_capacity(max_rows),
            ropes,
            branch,
            residual: backend.rows(max_rows, config.d_model)?,
            copy: backend.rows(max_rows, config.d_model)?,
            normed: backend.acts(max_rows, config.d_model, model.dtype)?,
            qkv: backend.projections(max_rows, attn.qkv_dim(), model.dtype)?,
            attended: backend.acts(max_rows, attn.q_dim(), model.dtype)?,
            gate_up: backend.projections(max_rows, 2 * config.ffn, model.dtype)?,
            hidden: backend.acts(max_rows, config.ffn, model.dtype)?,
            row_adapters: RowAdapters::new(LowRankSize {
                rows: max_rows,
                dtype: model.dtype,
            }),
            logits: None,
        })
    }

    /// The bytes that [`new`](Self::new) allocates at least, with operands and projections in 16 bits.
    pub(crate) fn least_bytes(model: &Llama<B>, max_rows: usize, max_positions: usize) -> u64 {
        let (d_model, ffn, attn) = (model.config.d_model, model.config.ffn, &model.config.attn);
        let projections = attn.qkv_dim() + 2 * ffn;
        let operands = d_model + attn.q_dim() + ffn;
        let of_row = 4 * 2 * d_model + 2 * (projections + operands);
        let of_rows = (max_rows as u64).saturating_mul(of_row as u64);
        let rope = max_positions as u64 * model.config.spec.rotated as u64 * 4;
        of_rows.saturating_add(rope)
    }

    /// The most rows of a pass.
    pub(crate) fn max_rows(&self) -> usize {
        self.max_rows
    }
}

/// The input rows of the head.
pub(crate) enum HeadRows<'a, B: Backend> {
    /// Rows of the last pass.
    Pass,
    /// Kept rows: the residual stream before the final norm, `[rows, d_model]`.
    Kept(&'a B::Rows),
}

/// The input of the last product of attention or of the MLP.
enum Input {
    Attended,
    Hidden,
}

impl<B: Backend> Llama<B> {
    /// Runs `rows` through `layers`, and leaves the residual stream at the input of layer `layers.end` in the
    /// workspace.
    ///
    /// A pass that begins at layer 0 embeds the rows' tokens. A pass that begins later continues from the residual
    /// stream in the workspace, which has one row for each of `rows`. The keys and values of a row go to its slot. The
    /// row sees what earlier passes stored there and what precedes it in the same slot of this batch.
    ///
    /// The probe visits `hidden_states[l]` for each l in `layers.start..=layers.end`, including the states at the end
    /// of the pass.
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
            b.embed(&self.embed, &ws.batch, self.embed_scale(), &mut ws.residual)?;
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
        Ok(self
            .backend
            .head_best(&ws.normed, &self.head, &self.config.spec.logits)?)
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
        Ok(self
            .backend
            .head_score(&ws.normed, &self.head, &self.config.spec.logits, tokens)?)
    }

    /// Draws a token of each of `rows` on the device; `None` where it must be drawn from the logits.
    pub(crate) fn draw(
        &self,
        ws: &mut Workspace<B>,
        from: &HeadRows<'_, B>,
        rows: &[usize],
        draws: &[TokenDraw],
    ) -> Result<Vec<Option<Best>>> {
        self.head_input(ws, from, rows)?;
        let map = &self.config.spec.logits;
        Ok(self.backend.head_draw(&ws.normed, &self.head, map, draws)?)
    }

    /// Calls `each` with the logits (`[vocab]`, f32) of each of `rows`, in order.
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
            let mut values = b.read_rows(&logits, 0..rows.len())?;
            let map = &self.config.spec.logits;
            values.iter_mut().for_each(|x| *x = map.apply(*x));
            for (i, row) in values.chunks_exact(vocab).enumerate() {
                each(chunk * at_a_time + i, row)?;
            }
        }
        ws.logits = Some(logits);
        Ok(())
    }

    /// Norms the rows into `ws.normed`.
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
        let spec = &self.config.spec;
        let layer: &Layer<B> = &self.layers[l];
        self.operand(ws, layer.attn_norm.as_deref())?;
        layer
            .qkv
            .apply(b, &ws.normed, &mut ws.qkv, &mut ws.row_adapters)?;
        if let (Some(norms), Some(parts)) = (&layer.qk_norm, self.config.qk_parts()) {
            for (norm, parts) in norms.iter().zip(parts) {
                b.rms_norm_parts(parts, norm, eps, &mut ws.qkv)?;
            }
        }
        let LayerSpec { rope, window } = spec.layers[l];
        b.rope_append(
            attn,
            ws.ropes.get(&rope),
            &ws.batch,
            l,
            &mut ws.qkv,
            &mut cache.kv,
        )?;
        let attend = Attend {
            shape: *attn,
            scale: spec.attn_scale,
            window,
            softcap: spec.attn_softcap,
        };
        b.attend(&attend, &ws.qkv, &ws.batch, l, &cache.kv, &mut ws.attended)?;
        self.add(
            &layer.o,
            layer.attn_out_norm.as_deref(),
            Input::Attended,
            ws,
        )?;

        self.write_site(ws, Site::Residual(l), probe)?;
        if probe.wants(Site::PreMlp(l)) {
            self.copy_pre_mlp(ws, layer)?;
            self.copy_site(ws, Site::PreMlp(l), probe)?;
        }
        self.operand(ws, layer.mlp_norm.as_deref())?;
        if ws.row_adapters.is_active(&layer.gate_up) {
            let (a, gate_up) = (&ws.normed, &mut ws.gate_up);
            layer.gate_up.apply(b, a, gate_up, &mut ws.row_adapters)?;
            b.glu(spec.activation, &ws.gate_up, &mut ws.hidden)?;
        } else {
            b.linear_glu(
                &ws.normed,
                &layer.gate_up.weight,
                layer.gate_up.bias.as_deref(),
                spec.activation,
                &mut ws.gate_up,
                &mut ws.hidden,
            )?;
        }
        self.add(
            &layer.down,
            layer.mlp_out_norm.as_deref(),
            Input::Hidden,
            ws,
        )
    }

    /// The residual stream as an operand, normed if there is a norm.
    fn operand(&self, ws: &mut Workspace<B>, norm: Option<&B::Vector>) -> Result<()> {
        let (b, eps) = (&self.backend, self.config.rms_norm_eps);
        match norm {
            Some(norm) => b.rms_norm(&ws.residual, norm, eps, &mut ws.normed)?,
            None => b.cast(&ws.residual, &mut ws.normed)?,
        }
        Ok(())
    }

    /// Adds the output of attention or of the MLP to the residual stream, normed and scaled if the family does so.
    fn add(
        &self,
        linear: &Linear<B>,
        norm: Option<&B::Vector>,
        input: Input,
        ws: &mut Workspace<B>,
    ) -> Result<()> {
        let (b, scale) = (&self.backend, self.config.spec.residual_scale);
        let input = match input {
            Input::Attended => &ws.attended,
            Input::Hidden => &ws.hidden,
        };
        let Some(branch) = &mut ws.branch else {
            return linear.add_to(b, input, &mut ws.residual, &mut ws.row_adapters);
        };
        linear.apply(b, input, branch, &mut ws.row_adapters)?;
        match norm {
            Some(norm) => {
                b.rms_norm_f32(branch, norm, self.config.rms_norm_eps, &mut ws.copy)?;
                b.add(&ws.copy, scale, &mut ws.residual)?;
            }
            None => b.add(branch, scale, &mut ws.residual)?,
        }
        Ok(())
    }

    /// Copies the input of the MLP to `ws.copy`, in f32.
    fn copy_pre_mlp(&self, ws: &mut Workspace<B>, layer: &Layer<B>) -> Result<()> {
        let (b, eps) = (&self.backend, self.config.rms_norm_eps);
        match &layer.mlp_norm {
            Some(norm) => b.rms_norm_f32(&ws.residual, norm, eps, &mut ws.copy)?,
            None => {
                let rows: Vec<usize> = (0..b.len(&ws.residual)).collect();
                b.clear(&mut ws.copy);
                b.gather(&ws.residual, &rows, &mut ws.copy)?;
            }
        }
        Ok(())
    }

    /// The factor of token embeddings.
    fn embed_scale(&self) -> f32 {
        match self.config.spec.embed_scale {
            EmbedScale::Factor(factor) => factor,
            EmbedScale::RootOfWidth => {
                let root = (self.config.d_model as f64).sqrt() as f32;
                let rounded = self.dtype.to_f32(&self.dtype.to_bytes(&[root]));
                rounded.first().copied().unwrap_or(root)
            }
        }
    }

    /// Visits the residual stream itself.
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

    /// Visits the values in `ws.copy`.
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
        let found = self.backend.len(&ws.residual);
        if layers.start > 0 && found != rows.len() {
            return Err(LlamaError::ResidualRows {
                rows: rows.len(),
                found,
            });
        }
        Ok(())
    }
}

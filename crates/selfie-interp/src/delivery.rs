//! From finished jobs to rows in order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use selfie_llama::Tokenizer;

use crate::engine::{Finished, Listener};
use crate::{Options, Result, Row, Sink};

/// Where the vector of a row comes from.
pub(crate) struct Origin {
    pub(crate) prompt: String,
    pub(crate) layer: Option<usize>,
    pub(crate) token: usize,
    pub(crate) token_decoded: Option<String>,
}

/// Turns finished jobs into rows, and hands them out in order.
pub(crate) struct Delivery<'a, S> {
    tokenizer: &'a Tokenizer,
    options: &'a Options,
    origin: &'a dyn Fn(usize) -> Result<Origin>,
    sink: &'a mut S,
    /// Rows that wait for an earlier one.
    waiting: BTreeMap<usize, Row>,
    /// The index of the row that is next.
    next: usize,
    generated: usize,
    total: usize,
    /// Whether the sink has refused a row.
    refused: bool,
}

impl<'a, S: Sink> Delivery<'a, S> {
    pub(crate) fn new(
        tokenizer: &'a Tokenizer,
        options: &'a Options,
        cells: usize,
        origin: &'a dyn Fn(usize) -> Result<Origin>,
        sink: &'a mut S,
    ) -> Self {
        Self {
            tokenizer,
            options,
            origin,
            sink,
            waiting: BTreeMap::new(),
            next: 0,
            generated: 0,
            total: cells * options.injections.len() * options.max_new_tokens,
            refused: false,
        }
    }

    fn row(&self, finished: Finished) -> Result<Row> {
        let injections = &self.options.injections;
        let inject = injections[finished.index % injections.len()];
        let origin = (self.origin)(finished.index / injections.len())?;
        Ok(Row {
            prompt: origin.prompt,
            interpretation: self.tokenizer.decode(&finished.new_ids)?,
            layer: origin.layer,
            token: origin.token,
            token_decoded: origin.token_decoded,
            relevancy_score: finished.relevancy,
            pieces: self.tokenizer.pieces(&finished.new_ids)?,
            new_ids: finished.new_ids,
            inject_layer: inject.layer,
            mode: inject.mode,
            strength: inject.strength,
            model: self.options.model_name.clone(),
        })
    }

    fn hand_out(&mut self, row: Row) -> ControlFlow<()> {
        if self.refused {
            return ControlFlow::Break(());
        }
        let flow = self.sink.row(row);
        self.refused |= flow.is_break();
        flow
    }

    /// Hands out what is left when a sweep ended early: rows that are finished, in order, with gaps.
    pub(crate) fn flush(mut self) -> Result<()> {
        while let Some((_, row)) = self.waiting.pop_first() {
            if self.hand_out(row).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl<S: Sink> Listener for Delivery<'_, S> {
    fn finished(&mut self, finished: Finished) -> Result<ControlFlow<()>> {
        // A text that ended early leaves less to generate.
        self.total -= self.options.max_new_tokens - finished.new_ids.len();
        let index = finished.index;
        let row = self.row(finished)?;
        self.waiting.insert(index, row);
        while let Some(row) = self.waiting.remove(&self.next) {
            self.next += 1;
            if self.hand_out(row).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn generated(&mut self, tokens: usize) -> ControlFlow<()> {
        self.generated += tokens;
        self.sink.progress(self.generated, self.total)
    }
}

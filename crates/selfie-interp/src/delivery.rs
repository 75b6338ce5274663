//! From finished jobs to rows in order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use selfie_llama::Tokenizer;

use crate::control::evidence;
use crate::engine::{Against, Listener, Own};
use crate::{Control, Controlled, Options, Result, Row, Sink};

/// Where the vector of a row comes from.
pub(crate) struct Origin {
    pub(crate) prompt: String,
    pub(crate) layer: Option<usize>,
    pub(crate) token: usize,
    pub(crate) token_decoded: Option<String>,
}

/// A row of which parts are still being worked out.
#[derive(Default)]
struct Unfinished {
    own: Option<Own>,
    against: Vec<Against>,
}

/// Turns finished texts into rows, and hands them out in order.
pub(crate) struct Delivery<'a, S> {
    tokenizer: &'a Tokenizer,
    options: &'a Options,
    origin: &'a dyn Fn(usize) -> Result<Origin>,
    sink: &'a mut S,
    /// Rows that wait for a text of theirs, or for the clean prompt's.
    unfinished: BTreeMap<usize, Unfinished>,
    /// The clean prompt's continuation, when it is known.
    clean: Option<String>,
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
        texts: usize,
        origin: &'a dyn Fn(usize) -> Result<Origin>,
        sink: &'a mut S,
    ) -> Self {
        Self {
            tokenizer,
            options,
            origin,
            sink,
            unfinished: BTreeMap::new(),
            clean: None,
            waiting: BTreeMap::new(),
            next: 0,
            generated: 0,
            total: texts * options.max_new_tokens,
            refused: false,
        }
    }

    /// Whether every text of the row is there.
    fn is_finished(&self, row: &Unfinished) -> bool {
        let has = |control: &Control| match control {
            Control::None => self.clean.is_some(),
            control => row.against.iter().any(|a| a.control == *control),
        };
        row.own.is_some() && self.options.controls.iter().all(has)
    }

    /// Turns the rows that are finished into rows to hand out, and hands out those whose turn it is.
    fn advance(&mut self) -> Result<ControlFlow<()>> {
        let finished: Vec<usize> = self
            .unfinished
            .iter()
            .filter(|(_, row)| self.is_finished(row))
            .map(|(&index, _)| index)
            .collect();
        for index in finished {
            if let Some(Unfinished {
                own: Some(own),
                against,
            }) = self.unfinished.remove(&index)
            {
                let row = self.row(index, own, against)?;
                self.waiting.insert(index, row);
            }
        }
        while let Some(row) = self.waiting.remove(&self.next) {
            self.next += 1;
            if self.hand_out(row).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn row(&self, index: usize, own: Own, against: Vec<Against>) -> Result<Row> {
        let injections = &self.options.injections;
        let inject = injections[index % injections.len()];
        let origin = (self.origin)(index / injections.len())?;
        let mut controls = Vec::with_capacity(self.options.controls.len());
        for &control in &self.options.controls {
            let (interpretation, scores) = match against.iter().find(|a| a.control == control) {
                Some(against) => (self.tokenizer.decode(&against.new_ids)?, &against.scores),
                None => (self.clean.clone().unwrap_or_default(), &own.clean),
            };
            controls.push(Controlled {
                control,
                interpretation,
                evidence: evidence(&own.logprobs, scores),
            });
        }
        let relevancy = own.logprobs.iter().zip(&own.clean);
        Ok(Row {
            prompt: origin.prompt,
            interpretation: self.tokenizer.decode(&own.new_ids)?,
            layer: origin.layer,
            token: origin.token,
            token_decoded: origin.token_decoded,
            relevancy_score: match self.options.relevancy {
                true => relevancy
                    .map(|(with, without)| (with.exp() - without.exp()).abs())
                    .collect(),
                false => Vec::new(),
            },
            pieces: self.tokenizer.pieces(&own.new_ids)?,
            new_ids: own.new_ids,
            inject_layer: inject.layer,
            mode: inject.mode,
            strength: inject.strength,
            model: self.options.model_name.clone(),
            controls,
        })
    }

    /// A text that ended early leaves less to generate.
    fn ended(&mut self, new_ids: &[u32]) {
        self.total -= self.options.max_new_tokens - new_ids.len();
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
    fn clean_text(&mut self, new_ids: Vec<u32>) -> Result<ControlFlow<()>> {
        self.ended(&new_ids);
        self.clean = Some(self.tokenizer.decode(&new_ids)?);
        self.advance()
    }

    fn own(&mut self, index: usize, own: Own) -> Result<ControlFlow<()>> {
        self.ended(&own.new_ids);
        self.unfinished.entry(index).or_default().own = Some(own);
        self.advance()
    }

    fn against(&mut self, index: usize, against: Against) -> Result<ControlFlow<()>> {
        self.ended(&against.new_ids);
        self.unfinished
            .entry(index)
            .or_default()
            .against
            .push(against);
        self.advance()
    }

    fn generated(&mut self, tokens: usize) -> ControlFlow<()> {
        self.generated += tokens;
        self.sink.progress(self.generated, self.total)
    }
}

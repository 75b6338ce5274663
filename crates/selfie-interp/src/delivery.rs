//! From finished texts to rows, in order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use selfie_kernels::Backend;
use selfie_llama::Tokenizer;

use crate::control::evidence;
use crate::source::Source;
use crate::{
    Control, Controlled, InterpError, Options, Outcome, Result, Row, Samples, Sink, Swept, Text,
};

/// What a text of a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A text of its own embedding, by its number.
    Own(usize),
    /// The text of the control of this index.
    Control(usize),
    /// The continuation of the interpretation prompt as it is, which all rows share.
    Clean,
}

/// The texts of a row, as far as they are there.
struct Texts {
    /// As many as are drawn.
    own: Vec<Option<Text>>,
    /// Which of them the row is of, and what all of them say; when they are all there.
    chosen: Option<(usize, Option<Samples>)>,
    /// One for each control of the options; that of [`Control::None`] is shared.
    controls: Vec<Option<Text>>,
}

/// A row that waits for its turn.
enum Ready {
    Row(Box<Row>),
    /// A cell without a row, by what it is called.
    Failed(String),
}

/// Makes rows of texts, and hands them out in order.
pub(crate) struct Delivery<'a, B: Backend> {
    tokenizer: &'a Tokenizer,
    pub(crate) options: Options,
    pub(crate) source: Box<dyn Source<B> + 'a>,
    /// Rows that wait for texts of theirs.
    unfinished: BTreeMap<usize, Texts>,
    /// Rows that wait for an earlier one.
    ready: BTreeMap<usize, Ready>,
    /// The continuation of the interpretation prompt as it is, when it is known.
    clean: Option<String>,
    next: usize,
    rows: usize,
    /// The most tokens that may be generated in all.
    tokens: usize,
    swept: Swept,
    /// Whether the sink has refused a row: it gets no more.
    refused: bool,
    /// The first cell without a row, and how many there are.
    failed: Option<(String, usize)>,
}

impl<'a, B: Backend> Delivery<'a, B> {
    pub(crate) fn new(
        tokenizer: &'a Tokenizer,
        options: Options,
        source: Box<dyn Source<B> + 'a>,
    ) -> Self {
        Self {
            unfinished: BTreeMap::new(),
            ready: BTreeMap::new(),
            clean: None,
            next: 0,
            rows: source.len() * options.injections.len(),
            tokens: options.texts(source.len()) * options.max_new_tokens,
            swept: Swept::default(),
            refused: false,
            failed: None,
            tokenizer,
            options,
            source,
        }
    }

    /// The first row that has not been handed out.
    pub(crate) fn next_row(&self) -> usize {
        self.next
    }

    /// Takes what came of a text, and hands out the rows that it completes. `Break` when the sink wants no more.
    pub(crate) fn take(
        &mut self,
        row: usize,
        part: Part,
        outcome: Outcome,
        sink: &mut dyn Sink,
    ) -> Result<ControlFlow<()>> {
        let Outcome::Text(text) = outcome else {
            if part == Part::Clean {
                // Every row needs it.
                return Err(InterpError::CleanNotFinite);
            }
            return self.fail(row, part, sink);
        };
        // A text that ended early leaves less to generate.
        self.tokens -= self.options.max_new_tokens - text.new_ids.len();
        if part == Part::Clean {
            self.clean = Some(self.said(&text.new_ids)?);
            let waiting: Vec<usize> = self.unfinished.keys().copied().collect();
            for row in waiting {
                self.complete(row)?;
            }
            return Ok(self.hand_out(sink));
        }
        if matches!(self.ready.get(&row), Some(Ready::Failed(_))) || row < self.next {
            // Another text of its cell has failed.
            return Ok(ControlFlow::Continue(()));
        }
        let texts = self.unfinished.entry(row).or_insert_with(|| Texts {
            own: vec![None; self.options.samples],
            chosen: None,
            controls: vec![None; self.options.controls.len()],
        });
        match part {
            Part::Control(at) => texts.controls[at] = Some(text),
            Part::Own(sample) => texts.own[sample] = Some(text),
            Part::Clean => {}
        }
        self.choose(row)?;
        self.complete(row)?;
        Ok(self.hand_out(sink))
    }

    /// The ids of a row's text, when it is settled which of its samples that is, and while the row waits for others.
    pub(crate) fn own(&self, row: usize) -> Option<Vec<u32>> {
        let texts = self.unfinished.get(&row)?;
        let (chosen, _) = texts.chosen.as_ref()?;
        Some(texts.own[*chosen].as_ref()?.new_ids.clone())
    }

    /// Chooses among a row's samples when all are there.
    fn choose(&mut self, row: usize) -> Result<()> {
        let Some(texts) = self.unfinished.get_mut(&row) else {
            return Ok(());
        };
        let all: Option<Vec<&Text>> = texts.own.iter().map(Option::as_ref).collect();
        let Some(all) = all.filter(|_| texts.chosen.is_none()) else {
            return Ok(());
        };
        if all.len() == 1 {
            texts.chosen = Some((0, None));
            return Ok(());
        }
        let says = |text: &&Text| said(self.tokenizer, &self.options, &text.new_ids);
        let samples = all.iter().map(says).collect::<Result<Vec<_>>>()?;
        let (chosen, agreement) = Samples::choose(&samples);
        let logprobs = &all[chosen].logprobs;
        let sum: f64 = logprobs.iter().map(|&x| f64::from(x)).sum();
        let mean_logprob = (sum / logprobs.len().max(1) as f64) as f32;
        let samples = Samples {
            samples,
            agreement,
            mean_logprob,
        };
        texts.chosen = Some((chosen, Some(samples)));
        Ok(())
    }

    /// Tells the sink how many tokens have been generated.
    pub(crate) fn progress(&mut self, decoded: usize, sink: &mut dyn Sink) -> ControlFlow<()> {
        let flow = sink.progress(decoded, self.tokens);
        self.swept.stopped |= flow.is_break();
        flow
    }

    /// Hands out what is left of a sweep that ended early: rows that are done, in order, with gaps.
    pub(crate) fn finish(mut self, sink: &mut dyn Sink) -> Result<Swept> {
        while !self.refused
            && let Some((row, ready)) = self.ready.pop_first()
        {
            self.refused = self.hand(row, ready, sink).is_break();
        }
        match self.failed {
            None => Ok(self.swept),
            Some((first, failed)) => Err(InterpError::NotFinite {
                first,
                failed,
                rows: self.rows,
            }),
        }
    }

    /// Makes a row whose texts are all there.
    fn complete(&mut self, row: usize) -> Result<()> {
        let Some(texts) = self.unfinished.get(&row) else {
            return Ok(());
        };
        let controls = self.options.controls.iter().zip(&texts.controls);
        let mut there = controls.map(|(control, text)| match control {
            Control::None => self.clean.is_some(),
            _ => text.is_some(),
        });
        if texts.chosen.is_none() || !there.all(|there| there) {
            return Ok(());
        }
        if let Some(Texts {
            mut own,
            chosen: Some((chosen, samples)),
            controls,
        }) = self.unfinished.remove(&row)
            && let Some(own) = own.swap_remove(chosen)
        {
            let made = self.row(row, own, samples, controls)?;
            self.ready.insert(row, Ready::Row(Box::new(made)));
        }
        Ok(())
    }

    fn row(
        &self,
        row: usize,
        own: Text,
        samples: Option<Samples>,
        texts: Vec<Option<Text>>,
    ) -> Result<Row> {
        let injections = &self.options.injections;
        let (item, inject) = (row / injections.len(), injections[row % injections.len()]);
        let origin = self.source.origin(item)?;
        let mut controls = Vec::with_capacity(texts.len());
        for (&control, text) in self.options.controls.iter().zip(texts) {
            let (interpretation, scores) = match text {
                Some(text) => (self.said(&text.new_ids)?, text.scores),
                None => {
                    let clean = self.clean.clone().ok_or(InterpError::Unanswered)?;
                    (clean, own.clean.clone())
                }
            };
            controls.push(Controlled {
                control,
                interpretation,
                evidence: evidence(&own.logprobs, &scores),
            });
        }
        let relevancy_score = if self.options.relevancy {
            let pairs = own.logprobs.iter().zip(&own.clean);
            pairs
                .map(|(with, without)| (with.exp() - without.exp()).abs())
                .collect()
        } else {
            Vec::new()
        };
        Ok(Row {
            prompt: origin.prompt,
            interpretation: self.said(&own.new_ids)?,
            layer: origin.layer,
            token: origin.token,
            token_decoded: origin.token_decoded,
            relevancy_score,
            pieces: self.tokenizer.pieces(&own.new_ids)?,
            new_ids: own.new_ids,
            inject_layer: inject.layer,
            mode: inject.mode,
            strength: inject.strength,
            model: self.options.model_name.clone(),
            prompt_index: origin.prompt_index,
            key: self.source.key(item, &inject, &self.options.prompt),
            reader: self.options.reader_name.clone(),
            map: self.options.map.as_ref().map(|map| map.name().to_owned()),
            logprobs: own.logprobs,
            samples,
            controls,
        })
    }

    fn said(&self, new_ids: &[u32]) -> Result<String> {
        said(self.tokenizer, &self.options, new_ids)
    }

    /// Gives a row up, and tells the sink what is missing.
    fn fail(&mut self, row: usize, part: Part, sink: &mut dyn Sink) -> Result<ControlFlow<()>> {
        self.unfinished.remove(&row);
        if row < self.next || matches!(self.ready.get(&row), Some(Ready::Failed(_))) {
            return Ok(ControlFlow::Continue(()));
        }
        let injections = &self.options.injections;
        let origin = self.source.origin(row / injections.len())?;
        let mut cell = match origin.layer {
            Some(layer) => format!(
                "layer {layer}, token {} of {:?}",
                origin.token, origin.prompt
            ),
            None => format!("vector {} of {}", origin.token, origin.prompt),
        };
        if injections.len() > 1 {
            let inject = injections[row % injections.len()];
            cell.push_str(&format!(
                " ({} at layer {}, strength {})",
                inject.mode, inject.layer, inject.strength
            ));
        }
        if let Part::Control(at) = part {
            cell.push_str(&format!(
                ", under the control {}",
                self.options.controls[at]
            ));
        }
        self.ready.insert(row, Ready::Failed(cell));
        Ok(self.hand_out(sink))
    }

    fn hand_out(&mut self, sink: &mut dyn Sink) -> ControlFlow<()> {
        while let Some(ready) = self.ready.remove(&self.next) {
            self.next += 1;
            if self.hand(self.next - 1, ready, sink).is_break() {
                self.refused = true;
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn hand(&mut self, row: usize, ready: Ready, sink: &mut dyn Sink) -> ControlFlow<()> {
        let flow = match ready {
            Ready::Row(row) => {
                self.swept.rows += 1;
                self.swept.empty += usize::from(row.interpretation.trim().is_empty());
                sink.row(*row)
            }
            Ready::Failed(cell) => {
                let flow = sink.failed(row, &cell);
                let (_, failed) = self.failed.get_or_insert((cell, 0));
                *failed += 1;
                flow
            }
        };
        self.swept.stopped |= flow.is_break();
        flow
    }
}

/// What is left of a text.
fn said(tokenizer: &Tokenizer, options: &Options, new_ids: &[u32]) -> Result<String> {
    let text = tokenizer.decode(new_ids)?;
    Ok(match &options.cut {
        Some(cut) => cut.of(&text).to_owned(),
        None => text,
    })
}

//! Turns finished texts into rows, in order.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use selfie_kernels::Backend;
use selfie_llama::Tokenizer;

use crate::control::evidence;
use crate::source::Source;
use crate::{
    Control, Controlled, InterpError, Options, Outcome, Result, Row, Samples, Sink, Swept, Text,
};

/// What a text contributes to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A sample of the row's own text, by its index.
    Sample(usize),
    /// The text of a control, by its index.
    Control(usize),
    /// The continuation of the interpretation prompt without an injection, which all rows share.
    Clean,
}

/// The finished texts of a row.
struct Texts {
    /// One per sample.
    samples: Vec<Option<Text>>,
    /// The sample that the row shows, and the summary of all samples; set when all are finished.
    chosen: Option<(usize, Option<Samples>)>,
    /// One per control; rows share that of [`Control::None`].
    controls: Vec<Option<Text>>,
}

/// A row that waits for its turn to be delivered.
enum Ready {
    Row(Box<Row>),
    /// The description of a cell that failed.
    Failed(String),
}

/// Makes rows of texts and delivers them in order.
pub(crate) struct Delivery<'a, B: Backend> {
    tokenizer: &'a Tokenizer,
    pub(crate) options: Options,
    pub(crate) source: Box<dyn Source<B> + 'a>,
    /// Rows whose texts are not all finished.
    unfinished: BTreeMap<usize, Texts>,
    /// Rows that wait for an earlier one.
    ready: BTreeMap<usize, Ready>,
    /// The continuation of the interpretation prompt without an injection, once known.
    clean: Option<String>,
    next: usize,
    rows: usize,
    /// An upper bound on the tokens to generate in all.
    tokens: usize,
    swept: Swept,
    /// Whether the sink has refused a row. It then gets no more.
    refused: bool,
    /// The first failed cell, and the number of failed cells.
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

    /// The first row that has not been delivered.
    pub(crate) fn next_row(&self) -> usize {
        self.next
    }

    /// Takes the outcome of a text and delivers the rows that it completes. `Break` if the sink wants no more.
    pub(crate) fn take(
        &mut self,
        row: usize,
        part: Part,
        outcome: Outcome,
        sink: &mut dyn Sink,
    ) -> Result<ControlFlow<()>> {
        let Outcome::Text(text) = outcome else {
            if part == Part::Clean {
                // Every row needs this text.
                return Err(InterpError::CleanNotFinite);
            }
            return self.fail(row, part, sink);
        };
        // A text that ends early leaves fewer tokens to generate.
        self.tokens -= self.options.max_new_tokens - text.new_ids.len();
        if part == Part::Clean {
            self.clean = Some(self.interpretation(&text.new_ids)?);
            let waiting: Vec<usize> = self.unfinished.keys().copied().collect();
            for row in waiting {
                self.complete(row)?;
            }
            return Ok(self.deliver_ready(sink));
        }
        if matches!(self.ready.get(&row), Some(Ready::Failed(_))) || row < self.next {
            // Another text of the cell has failed.
            return Ok(ControlFlow::Continue(()));
        }
        let texts = self.unfinished.entry(row).or_insert_with(|| Texts {
            samples: vec![None; self.options.samples],
            chosen: None,
            controls: vec![None; self.options.controls.len()],
        });
        match part {
            Part::Control(at) => texts.controls[at] = Some(text),
            Part::Sample(sample) => texts.samples[sample] = Some(text),
            Part::Clean => {}
        }
        self.choose(row)?;
        self.complete(row)?;
        Ok(self.deliver_ready(sink))
    }

    /// The ids of the sample that a row shows, once that is decided and while the row waits for other texts.
    pub(crate) fn chosen_ids(&self, row: usize) -> Option<Vec<u32>> {
        let texts = self.unfinished.get(&row)?;
        let (chosen, _) = texts.chosen.as_ref()?;
        Some(texts.samples[*chosen].as_ref()?.new_ids.clone())
    }

    /// Chooses among a row's samples when all are finished.
    fn choose(&mut self, row: usize) -> Result<()> {
        let Some(texts) = self.unfinished.get_mut(&row) else {
            return Ok(());
        };
        let all: Option<Vec<&Text>> = texts.samples.iter().map(Option::as_ref).collect();
        let Some(all) = all.filter(|_| texts.chosen.is_none()) else {
            return Ok(());
        };
        if all.len() == 1 {
            texts.chosen = Some((0, None));
            return Ok(());
        }
        let says = |text: &&Text| interpretation(self.tokenizer, &self.options, &text.new_ids);
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

    /// Delivers the rest of a sweep that ended early: the finished rows, in order, with gaps.
    pub(crate) fn finish(mut self, sink: &mut dyn Sink) -> Result<Swept> {
        while !self.refused
            && let Some((row, ready)) = self.ready.pop_first()
        {
            self.refused = self.deliver(row, ready, sink).is_break();
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

    /// Makes a row if all its texts are finished.
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
            samples: mut texts,
            chosen: Some((chosen, samples)),
            controls,
        }) = self.unfinished.remove(&row)
            && let Some(text) = texts.swap_remove(chosen)
        {
            let made = self.row(row, text, samples, controls)?;
            self.ready.insert(row, Ready::Row(Box::new(made)));
        }
        Ok(())
    }

    fn row(
        &self,
        row: usize,
        text: Text,
        samples: Option<Samples>,
        controlled: Vec<Option<Text>>,
    ) -> Result<Row> {
        let injections = &self.options.injections;
        let (item, inject) = (row / injections.len(), injections[row % injections.len()]);
        let origin = self.source.origin(item)?;
        let mut controls = Vec::with_capacity(controlled.len());
        for (&control, other) in self.options.controls.iter().zip(controlled) {
            let (interpretation, scores) = match other {
                Some(other) => (self.interpretation(&other.new_ids)?, other.scores),
                None => {
                    let clean = self.clean.clone().ok_or(InterpError::Unanswered)?;
                    (clean, text.clean.clone())
                }
            };
            controls.push(Controlled {
                control,
                interpretation,
                evidence: evidence(&text.logprobs, &scores),
            });
        }
        let relevancy_score = if self.options.relevancy {
            let pairs = text.logprobs.iter().zip(&text.clean);
            pairs
                .map(|(with, without)| (with.exp() - without.exp()).abs())
                .collect()
        } else {
            Vec::new()
        };
        Ok(Row {
            prompt: origin.prompt,
            interpretation: self.interpretation(&text.new_ids)?,
            layer: origin.layer,
            token: origin.token,
            token_decoded: origin.token_decoded,
            relevancy_score,
            pieces: self.tokenizer.pieces(&text.new_ids)?,
            new_ids: text.new_ids,
            inject_layer: inject.layer,
            mode: inject.mode,
            strength: inject.strength,
            model: self.options.model_name.clone(),
            prompt_index: origin.prompt_index,
            key: self.source.key(item, &inject, &self.options.prompt),
            reader: self.options.reader_name.clone(),
            map: self.options.map.as_ref().map(|map| map.name().to_owned()),
            logprobs: text.logprobs,
            samples,
            controls,
        })
    }

    fn interpretation(&self, new_ids: &[u32]) -> Result<String> {
        interpretation(self.tokenizer, &self.options, new_ids)
    }

    /// Gives up a row and tells the sink which one.
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
        Ok(self.deliver_ready(sink))
    }

    fn deliver_ready(&mut self, sink: &mut dyn Sink) -> ControlFlow<()> {
        while let Some(ready) = self.ready.remove(&self.next) {
            self.next += 1;
            if self.deliver(self.next - 1, ready, sink).is_break() {
                self.refused = true;
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn deliver(&mut self, row: usize, ready: Ready, sink: &mut dyn Sink) -> ControlFlow<()> {
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

/// The interpretation that a text contains.
fn interpretation(tokenizer: &Tokenizer, options: &Options, new_ids: &[u32]) -> Result<String> {
    let text = tokenizer.decode(new_ids)?;
    Ok(match &options.cut {
        Some(cut) => cut.of(&text).to_owned(),
        None => text,
    })
}

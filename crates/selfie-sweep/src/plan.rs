//! The rows of a sweep.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use selfie::interp::{Cell, Options, Row};
use selfie::{Opened, TokenSelector};
use serde::{Deserialize, Serialize};

use crate::{Result, SweepError};

/// A part of a sweep that one process computes independently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard {
    /// Its number, from 1.
    pub index: usize,
    /// The number of shards.
    pub of: usize,
}

impl Shard {
    /// The whole sweep.
    pub const ALL: Shard = Shard { index: 1, of: 1 };

    /// Its share of `n` items. Shares are consecutive, and their sizes differ by at most one.
    pub fn share(self, n: usize) -> Range<usize> {
        let until = |shards: usize| (n as u128 * shards as u128 / self.of as u128) as usize;
        until(self.index - 1)..until(self.index)
    }
}

impl FromStr for Shard {
    type Err = SweepError;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = text.split_once('/').and_then(|(index, of)| {
            let shard = Shard {
                index: index.trim().parse().ok()?,
                of: of.trim().parse().ok()?,
            };
            (1..=shard.of).contains(&shard.index).then_some(shard)
        });
        numbers.ok_or_else(|| SweepError::Shard {
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

/// Something that some prompts lack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// What they lack.
    pub what: String,
    /// The number of such prompts.
    pub count: usize,
    /// Their indices, from 0.
    pub prompts: Vec<usize>,
}

/// The rows of a sweep, numbered from 0: prompt by prompt, layer by layer, token by token, injection by injection.
///
/// A prompt has no rows if it is empty, longer than the model's context, or without any selected token;
/// [`gaps`](Self::gaps) names it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The shard to compute.
    pub shard: Shard,
    /// The `hidden_states` to read, in order.
    pub layers: Vec<usize>,
    /// The tokens to read.
    pub tokens: TokenSelector,
    prompts: Vec<String>,
    /// The indices of the prompts that the model can run.
    runnable: Vec<usize>,
    /// The cells of all shards. Their prompts are indices into `runnable`.
    cells: Vec<Cell>,
    rows_per_cell: usize,
    gaps: Vec<Gap>,
    without_cells: Vec<usize>,
}

impl Plan {
    /// The cells of `layers` and `tokens` in each prompt, once per injection of `options`.
    ///
    /// # Errors
    /// No prompt has a selected cell.
    pub fn new(
        opened: &Opened,
        prompts: Vec<String>,
        layers: &[usize],
        tokens: &TokenSelector,
        options: &Options,
        shard: Shard,
    ) -> Result<Self> {
        let (mut runnable, mut cells, mut without_cells) = (Vec::new(), Vec::new(), Vec::new());
        let mut gaps: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut layers = layers.to_vec();
        layers.sort_unstable();
        layers.dedup();
        for (index, text) in prompts.iter().enumerate() {
            let mut gap = |what: String| gaps.entry(what).or_default().push(index);
            let before = cells.len();
            if text.is_empty() {
                gap("the prompt is empty".to_owned());
            } else {
                let spans = opened.spans(text)?;
                if opened.config.check_context(spans.len()).is_err() {
                    gap("the prompt is longer than the model's context".to_owned());
                } else {
                    let mut selected = tokens.select(text, &spans);
                    for missed in &selected.missed {
                        gap(format!(
                            "\"{}\" is missing, in whole or in part",
                            missed.part
                        ));
                    }
                    selected.tokens.sort_unstable();
                    selected.tokens.dedup();
                    for &layer in &layers {
                        cells.extend(selected.tokens.iter().map(|&token| Cell {
                            prompt: runnable.len(),
                            layer,
                            token,
                        }));
                    }
                    runnable.push(index);
                }
            }
            if cells.len() == before {
                without_cells.push(index);
            }
        }
        let gaps: Vec<Gap> = gaps
            .into_iter()
            .map(|(what, prompts)| Gap {
                what,
                count: prompts.len(),
                prompts,
            })
            .collect();
        if cells.is_empty() {
            let why: Vec<&str> = gaps.iter().map(|gap| &*gap.what).collect();
            return Err(SweepError::NoCells {
                prompts: prompts.len(),
                why: why.join("; "),
            });
        }
        Ok(Self {
            shard,
            layers,
            tokens: tokens.clone(),
            prompts,
            runnable,
            cells,
            rows_per_cell: options.injections.len(),
            gaps,
            without_cells,
        })
    }

    /// The prompts, as given.
    pub fn prompts(&self) -> &[String] {
        &self.prompts
    }

    /// What some prompts lack.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// The indices of the prompts without rows.
    pub fn without_cells(&self) -> &[usize] {
        &self.without_cells
    }

    /// The numbers of the shard's rows.
    pub fn rows(&self) -> Range<usize> {
        let cells = self.shard.share(self.cells.len());
        cells.start * self.rows_per_cell..cells.end * self.rows_per_cell
    }

    /// Finds every error that does not need the weights. `reader` is the model that reads.
    pub fn check(&self, subject: &Opened, reader: &Opened, options: &Options) -> Result<()> {
        selfie::interp::check_by(
            (&subject.config, &subject.tokenizer),
            (&reader.config, &reader.tokenizer),
            &self.texts(),
            &self.cells,
            options,
        )
        .map_err(|error| selfie::Error::from(error).into())
    }

    /// The prompts that cells refer to.
    pub(crate) fn texts(&self) -> Vec<&str> {
        self.runnable.iter().map(|&at| &*self.prompts[at]).collect()
    }

    /// The shard's cells with a row left to compute, and the number of each cell's first row.
    pub(crate) fn cells_to_do(&self, is_done: impl Fn(usize) -> bool) -> (Vec<Cell>, Vec<usize>) {
        let n = self.rows_per_cell;
        let left = |first: &usize| (*first..first + n).any(|row| !is_done(row));
        let firsts: Vec<usize> = self.rows().step_by(n).filter(left).collect();
        let cells = firsts.iter().map(|first| self.cells[first / n]).collect();
        (cells, firsts)
    }

    /// The cell of a row, and the index of its injection.
    pub(crate) fn cell(&self, row: usize) -> Option<(Cell, usize)> {
        let cell = self.cells.get(row / self.rows_per_cell)?;
        Some((*cell, row % self.rows_per_cell))
    }

    /// The number of a row that the interpreter made with these options.
    pub(crate) fn number_of(&self, row: &Row, options: &Options) -> Option<usize> {
        let cell = Cell {
            prompt: row.prompt_index?,
            layer: row.layer?,
            token: row.token,
        };
        let at = self.cells.binary_search(&cell).ok()?;
        let injection = options.injections.iter().position(|inject| {
            (inject.layer, inject.mode, inject.strength.to_bits())
                == (row.inject_layer, row.mode, row.strength.to_bits())
        })?;
        Some(at * self.rows_per_cell + injection)
    }

    /// The index, among all prompts, of a prompt that cells refer to.
    pub(crate) fn index_of(&self, prompt: usize) -> usize {
        self.runnable[prompt]
    }
}

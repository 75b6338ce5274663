//! Sorts rows into grids of layers and tokens.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Serialize, Serializer};

use crate::command::{self, Commands};
use crate::{ExplorerError, Result, Row, clean};

/// Rows of one run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its name: that of its file.
    pub name: String,
    /// Its rows, in any order.
    pub rows: Vec<Row>,
}

/// Everything that a picture shows: one run, or two to compare. Text is escaped by [`clean`], commands are not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explorer {
    /// The names of the runs, one or two.
    pub runs: Vec<String>,
    /// The model of each run.
    pub models: Vec<String>,
    /// The prompts, in the order of their first rows.
    pub prompts: Vec<Prompt>,
    /// The ways to inject embeddings, in the order of their first rows.
    pub settings: Vec<Setting>,
    /// The names of the controls.
    pub controls: Vec<String>,
    /// The pieces of all texts, each once.
    pub pieces: Vec<String>,
    /// The grids, by prompt, then setting, then sample.
    pub grids: Vec<Grid>,
    /// A caveat about the commands.
    pub note: Option<&'static str>,
}

/// A prompt, or a tensor of vectors.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prompt {
    /// Its text.
    pub text: String,
    /// The command that interprets its cells, to be followed by [`Setting::options`] and `--cells`.
    pub command: String,
}

/// How embeddings were injected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// In words.
    pub label: String,
    /// As options of the command.
    pub options: String,
}

/// The cells of a prompt under one setting. If cells were interpreted several times, each time has its own grid.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Grid {
    /// Index in [`Explorer::prompts`].
    pub prompt: usize,
    /// Index in [`Explorer::settings`].
    pub setting: usize,
    /// The number of the sample, from 0.
    pub sample: usize,
    /// The columns.
    pub tokens: Vec<Token>,
    /// The rows; `None` is the row of given vectors.
    pub layers: Vec<Option<usize>>,
    /// `[layer][token]`: the cell in each run; empty if no run has it.
    pub cells: Vec<Vec<Pair>>,
}

/// A cell in each of the one or two runs; empty if none has it.
pub type Pair = Vec<Option<Cell>>;

/// A token of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Token {
    /// Its position in the prompt.
    pub index: usize,
    /// Its text; empty for given vectors.
    pub text: String,
}

/// The interpretation of one embedding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// The text, token by token, as indices in [`Explorer::pieces`].
    pub pieces: Vec<usize>,
    /// Whether the last piece only ended the text, and does not belong to it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// The text, if the pieces do not add up to it (a character can span several tokens).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The relevancy of each piece; empty if it was not computed.
    #[serde(serialize_with = "rounded")]
    pub relevancy: Vec<f32>,
    /// The log-probability of each piece; empty if the rows lack it.
    #[serde(serialize_with = "rounded")]
    pub logprobs: Vec<f32>,
    /// The results of [`Explorer::controls`], where they ran.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<Option<Control>>,
    /// The cell's key.
    pub key: Option<String>,
}

/// What the model says without the embedding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Control {
    /// The text.
    pub text: String,
    /// How much more likely the embedding makes the cell's text, in nats per token.
    #[serde(serialize_with = "one_rounded")]
    pub evidence: Option<f32>,
}

impl Explorer {
    /// Sorts the rows of a run, or of two runs to compare.
    ///
    /// # Errors
    ///
    /// A run has no rows, or rows of two models; or the two runs have no common cell.
    pub fn new(run: Run, against: Option<Run>, commands: &Commands) -> Result<Self> {
        let runs: Vec<Run> = [run].into_iter().chain(against).collect();
        let models = runs.iter().map(model).collect::<Result<_>>()?;
        let mut sorting = GridBuilder::new(&runs);
        for (index, run) in runs.iter().enumerate() {
            sorting.sort(index, &run.rows);
        }
        if let [before, against] = &runs[..]
            && !sorting.has_a_cell_of_both()
        {
            return Err(ExplorerError::NothingInCommon {
                before: before.name.clone(),
                against: against.name.clone(),
            });
        }
        Ok(sorting.finish(&runs, models, commands))
    }

    /// The name of the model, or of both.
    pub(crate) fn name(&self) -> String {
        let mut models = self.models.clone();
        models.dedup();
        models.join(" and ")
    }

    /// The pieces of a cell's text, without the one that ended it.
    pub(crate) fn shown<'a>(&'a self, cell: &'a Cell) -> impl Iterator<Item = &'a str> {
        let shown = cell.pieces.len() - usize::from(cell.ended);
        cell.pieces[..shown]
            .iter()
            .map(|&piece| &*self.pieces[piece])
    }
}

/// The single model of a run.
fn model(run: &Run) -> Result<String> {
    let Some(first) = run.rows.first() else {
        return Err(ExplorerError::NoRows {
            name: run.name.clone(),
        });
    };
    match run.rows.iter().find(|row| row.model != first.model) {
        None => Ok(clean(&first.model)),
        Some(other) => Err(ExplorerError::Models {
            name: run.name.clone(),
            first: first.model.clone(),
            second: other.model.clone(),
        }),
    }
}

/// Gives each value an index, in order of appearance.
#[derive(Default)]
struct Indices<'a> {
    of: HashMap<&'a str, usize>,
    values: Vec<&'a str>,
}

impl<'a> Indices<'a> {
    fn index(&mut self, value: &'a str) -> usize {
        *self.of.entry(value).or_insert_with(|| {
            self.values.push(value);
            self.values.len() - 1
        })
    }
}

/// Sorts rows into grids.
struct GridBuilder<'a> {
    runs: usize,
    prompts: Indices<'a>,
    pieces: Indices<'a>,
    /// A row of each setting.
    settings: Vec<&'a Row>,
    controls: Vec<String>,
    /// By prompt, setting and sample.
    grids: BTreeMap<(usize, usize, usize), PartialGrid>,
}

#[derive(Default)]
struct PartialGrid {
    tokens: BTreeMap<usize, String>,
    layers: BTreeSet<Option<usize>>,
    cells: HashMap<(Option<usize>, usize), Pair>,
}

impl<'a> GridBuilder<'a> {
    fn new(runs: &[Run]) -> Self {
        let mut controls = Vec::new();
        for (name, ..) in runs
            .iter()
            .flat_map(|run| &run.rows)
            .flat_map(Row::controls)
        {
            if !controls.iter().any(|known| known == name) {
                controls.push(name.to_owned());
            }
        }
        Self {
            runs: runs.len(),
            prompts: Indices::default(),
            pieces: Indices::default(),
            settings: Vec::new(),
            controls,
            grids: BTreeMap::new(),
        }
    }

    fn sort(&mut self, run: usize, rows: &'a [Row]) {
        let mut samples: HashMap<(usize, usize, Option<usize>, usize), usize> = HashMap::new();
        for row in rows {
            let (prompt, setting) = (self.prompts.index(&row.prompt), self.setting(row));
            let sample = samples
                .entry((prompt, setting, row.layer, row.token))
                .or_default();
            let cell = self.cell(row);
            let grid = self.grids.entry((prompt, setting, *sample)).or_default();
            *sample += 1;
            grid.layers.insert(row.layer);
            let token = row.token_decoded.as_deref().map(clean).unwrap_or_default();
            grid.tokens.insert(row.token, token);
            let pair = grid.cells.entry((row.layer, row.token));
            pair.or_insert_with(|| vec![None; self.runs])[run] = Some(cell);
        }
    }

    fn setting(&mut self, row: &'a Row) -> usize {
        fn parts(row: &Row) -> (usize, &str, u32, &Option<String>, &Option<String>) {
            let strength = row.strength.to_bits();
            (row.inject_layer, &row.mode, strength, &row.reader, &row.map)
        }
        let found = self
            .settings
            .iter()
            .position(|known| parts(known) == parts(row));
        found.unwrap_or_else(|| {
            self.settings.push(row);
            self.settings.len() - 1
        })
    }

    fn cell(&mut self, row: &'a Row) -> Cell {
        let said = row.interpretation.trim();
        let ended = match row.pieces.split_last() {
            Some((_, rest)) => row.pieces.concat().trim() != said && rest.concat().trim() == said,
            None => false,
        };
        let text = if ended || row.pieces.concat().trim() == said {
            None
        } else {
            Some(clean(said))
        };
        let controls = self.controls.iter().map(|name| {
            let mut controls = row.controls();
            controls
                .find(|(control, ..)| control == name)
                .map(|(_, text, evidence)| Control {
                    text: clean(text),
                    evidence,
                })
        });
        Cell {
            controls: controls.collect(),
            pieces: row
                .pieces
                .iter()
                .map(|piece| self.pieces.index(piece))
                .collect(),
            ended,
            text,
            relevancy: row.relevancy_score.clone(),
            logprobs: row.logprobs.clone(),
            key: row.key.clone(),
        }
    }

    fn has_a_cell_of_both(&self) -> bool {
        let mut pairs = self.grids.values().flat_map(|grid| grid.cells.values());
        pairs.any(|pair| pair.iter().all(Option::is_some))
    }

    fn finish(self, runs: &[Run], models: Vec<String>, commands: &Commands) -> Explorer {
        let mut of_prompt: HashMap<&str, Vec<&Row>> = HashMap::new();
        for row in &runs[0].rows {
            of_prompt.entry(&row.prompt).or_default().push(row);
        }
        let prompts = self.prompts.values.iter().map(|&text| Prompt {
            text: clean(text),
            command: commands.of_prompt(text, of_prompt.get(text).map_or(&[], Vec::as_slice)),
        });
        let settings = self.settings.iter().map(|row| Setting {
            label: label(row),
            options: command::injection_options(row),
        });
        let grids = self
            .grids
            .into_iter()
            .map(|((prompt, setting, sample), mut grid)| Grid {
                prompt,
                setting,
                sample,
                cells: grid
                    .layers
                    .iter()
                    .map(|&layer| {
                        let pairs = grid
                            .tokens
                            .keys()
                            .map(|&token| grid.cells.remove(&(layer, token)));
                        pairs.map(Option::unwrap_or_default).collect()
                    })
                    .collect(),
                tokens: grid
                    .tokens
                    .into_iter()
                    .map(|(index, text)| Token { index, text })
                    .collect(),
                layers: grid.layers.into_iter().collect(),
            });
        Explorer {
            runs: runs.iter().map(|run| clean(&run.name)).collect(),
            models,
            prompts: prompts.collect(),
            settings: settings.collect(),
            controls: self.controls.iter().map(|name| clean(name)).collect(),
            grids: grids.collect(),
            pieces: self
                .pieces
                .values
                .iter()
                .map(|piece| clean(piece))
                .collect(),
            note: commands.note(),
        }
    }
}

fn label(row: &Row) -> String {
    let mut label = format!(
        "injected at layer {}, {}, strength {}",
        row.inject_layer, row.mode, row.strength
    );
    if let Some(reader) = &row.reader {
        label += &format!(", read by {reader}");
    }
    if let Some(map) = &row.map {
        label += &format!(", map {map}");
    }
    clean(&label)
}

/// Numbers with four decimals, since a page has millions of them. Numbers that are not finite become null.
fn rounded<S: Serializer>(numbers: &[f32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(numbers.iter().map(|&number| round(number)))
}

fn one_rounded<S: Serializer>(number: &Option<f32>, serializer: S) -> Result<S::Ok, S::Error> {
    number.map(round).serialize(serializer)
}

fn round(number: f32) -> f64 {
    (f64::from(number) * 1e4).round() / 1e4
}

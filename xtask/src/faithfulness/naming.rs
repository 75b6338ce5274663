//! Whether interpretations name the country that a prompt is about.

use std::ops::ControlFlow;

use selfie_interp::{Cell, Control, Options, Row, interpret};
use selfie_kernels::Cpu;
use selfie_llama::{Llama, Tokenizer};
use serde::Serialize;

use super::questions::Question;
use crate::Result;

/// A share, with its counts.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct Share {
    pub(super) hits: usize,
    pub(super) of: usize,
}

impl Share {
    pub(super) fn count(&mut self, hit: bool) {
        self.hits += usize::from(hit);
        self.of += 1;
    }

    pub(super) fn percent(self) -> f64 {
        100.0 * self.hits as f64 / self.of.max(1) as f64
    }
}

/// The results for the embeddings of one layer.
#[derive(Clone, Default, Serialize)]
pub(super) struct AtLayer {
    /// The interpretation names the country.
    pub(super) names: Share,
    /// The control's text names it: no vector, a random one, that of a prompt about another country.
    pub(super) controls: [Share; 3],
    /// Mean evidence against each control, in nats per token.
    pub(super) evidence: [f64; 3],
}

/// The results for the embeddings of some countries' questions.
#[derive(Serialize)]
pub(super) struct Naming {
    /// The layer, from 1 up, whose interpretations name most countries; the lowest if there are several.
    pub(super) best_layer: usize,
    pub(super) layers: Vec<AtLayer>,
}

impl Naming {
    pub(super) fn best(&self) -> &AtLayer {
        &self.layers[self.best_layer]
    }
}

/// Interprets the entity's last token of each question at every layer. Each group has its own sweep: its prompts are
/// about different countries, so a shuffled vector always belongs to another country.
pub(super) fn measure(
    model: &Llama<Cpu>,
    tokenizer: &Tokenizer,
    groups: &[Vec<Question>],
    held_out: bool,
) -> Result<Naming> {
    let mut options = Options {
        max_new_tokens: 16,
        controls: Control::ALL.to_vec(),
        ..Options::new(model.config())?
    };
    let mut layers = vec![AtLayer::default(); model.config().n_layers + 1];
    for group in groups {
        let group: Vec<&Question> = group.iter().filter(|q| q.held_out == held_out).collect();
        let prompts: Vec<&str> = group.iter().map(|q| q.prompt.as_str()).collect();
        let cell = |layer, prompt: usize| Cell {
            prompt,
            layer,
            token: group[prompt].entity,
        };
        let cells: Vec<Cell> = (0..layers.len())
            .flat_map(|layer| (0..group.len()).map(move |prompt| (layer, prompt)))
            .map(|(layer, prompt)| cell(layer, prompt))
            .collect();
        // Use other random vectors for each group.
        options.control_seed += 1;
        let mut rows = Vec::with_capacity(cells.len());
        let swept = interpret(model, tokenizer, &prompts, &cells, &options, &mut |row| {
            rows.push(row);
            ControlFlow::Continue(())
        })?;
        assert_eq!(swept.rows, cells.len());
        for (cell, row) in cells.iter().zip(rows) {
            layers[cell.layer].add(&row, &group[cell.prompt].country);
        }
    }
    for layer in &mut layers {
        let rows = layer.names.of.max(1) as f64;
        layer.evidence = layer.evidence.map(|sum| sum / rows);
    }
    // Layer 0 is left out: it is the token's row of the embedding table, whatever the prompt.
    let layers_above = 1..layers.len();
    let best_layer = layers_above.rev().max_by_key(|&l| layers[l].names.hits);
    Ok(Naming {
        best_layer: best_layer.unwrap_or(1),
        layers,
    })
}

impl AtLayer {
    fn add(&mut self, row: &Row, country: &str) {
        self.names.count(names(&row.interpretation, country));
        for (at, control) in row.controls.iter().enumerate() {
            self.controls[at].count(names(&control.interpretation, country));
            self.evidence[at] += f64::from(control.evidence);
        }
    }
}

/// Whether a text contains a name as a whole word.
fn names(text: &str, country: &str) -> bool {
    text.split(|c: char| !c.is_alphabetic())
        .any(|word| word == country)
}

//! A table for people: one line per row, with relevancy as shading.

use std::io::{self, Write};

use selfie::interp::Row;
use selfie_explorer::clean;

use super::RowFormat;

/// Shades of the 256-colour palette from dark to bright, each with black or white text.
const SHADES: [(u8, u8); 6] = [(0, 7), (236, 15), (22, 15), (28, 15), (34, 0), (46, 0)];

/// Prints each prompt once, above its rows.
pub(super) struct Table<W> {
    out: W,
    colours: bool,
    prompt: Option<String>,
}

impl<W> Table<W> {
    pub(super) fn new(out: W, colours: bool) -> Self {
        Self {
            out,
            colours,
            prompt: None,
        }
    }
}

impl<W: Write> RowFormat for Table<W> {
    fn write(&mut self, row: &Row) -> io::Result<()> {
        let out = &mut self.out;
        if self.prompt.as_ref() != Some(&row.prompt) {
            if self.prompt.is_some() {
                writeln!(out)?;
            }
            writeln!(out, "{}", clean(&row.prompt))?;
            writeln!(out, "layer token                      interpretation")?;
            self.prompt = Some(row.prompt.clone());
        }
        let layer = row.layer.map_or("-".to_owned(), |layer| layer.to_string());
        let token = clean(row.token_decoded.as_deref().unwrap_or(""));
        let token: String = token.chars().take(20).collect();
        write!(out, "{layer:>5} {:>5} {token:20} ", row.token)?;
        if !self.colours || row.relevancy_score.is_empty() {
            write!(out, "{}", clean(row.interpretation.trim()))?;
        } else {
            for (piece, relevancy) in row.pieces.iter().zip(&row.relevancy_score) {
                let shade = (relevancy * SHADES.len() as f32) as usize;
                let (back, front) = SHADES[shade.min(SHADES.len() - 1)];
                write!(
                    out,
                    "\x1b[48;5;{back}m\x1b[38;5;{front}m{}\x1b[0m",
                    clean(piece)
                )?;
            }
        }
        writeln!(out)?;
        for one in &row.controls {
            let text = clean(one.interpretation.trim());
            let evidence = format!("{:+.2} nats {}", one.evidence, one.control);
            writeln!(out, "{evidence:>32} {text}")?;
        }
        out.flush()
    }
}

//! The figure: the grids as vector text, one below the other, with a legend.

mod wrap;

use std::fmt::Write as _;

use crate::widths::{char_width, width};
use crate::{Cell, Explorer, Grid, Pair};
use wrap::{Line, Part};

const FONT: f64 = 9.0;
/// The distance between lines of text.
const LEADING: f64 = 11.5;
const COLUMN: f64 = 112.0;
/// The space between a cell's border and its text.
const PAD: f64 = 4.0;
/// The width of the column of layer numbers.
const GUTTER: f64 = 40.0;
const MARGIN: f64 = 12.0;
const INK: &str = "#1a1d21";
const PALE: &str = "#6b7280";
const RULE: &str = "#d4d7dc";
/// The colour of relevancy; its opacity is the relevancy.
const SHADE: &str = "#2a9d8f";
const CHANGED: &str = "#c2570c";

impl Explorer {
    /// A figure in SVG: every grid below its prompt, and a legend.
    pub fn to_svg(&self) -> String {
        let columns = self
            .grids
            .iter()
            .map(|grid| grid.tokens.len())
            .max()
            .unwrap_or(0);
        // The legend takes about four columns.
        let width = 2.0 * MARGIN + GUTTER + COLUMN * columns.max(4) as f64;
        let mut figure = Figure {
            explorer: self,
            body: String::new(),
            y: MARGIN,
        };
        for grid in &self.grids {
            figure.grid(grid, width - 2.0 * MARGIN);
        }
        figure.legend();
        let (height, body) = (figure.y + MARGIN, figure.body);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height:.1}\" viewBox=\"0 0 {width} \
             {height:.1}\" font-family=\"Helvetica, Arial, 'Liberation Sans', sans-serif\" font-size=\"{FONT}\" \
             fill=\"{INK}\">\n<title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n",
            escape(&format!("Interpretations of {}", self.name())),
        )
    }
}

struct Figure<'a> {
    explorer: &'a Explorer,
    body: String,
    /// The vertical position of the next element.
    y: f64,
}

impl Figure<'_> {
    fn grid(&mut self, grid: &Grid, width: f64) {
        let explorer = self.explorer;
        let prompt = &explorer.prompts[grid.prompt].text;
        for line in wrap::wrap([(&**prompt, None)], (width / FONT).min(90.0)) {
            self.y += LEADING + 2.0;
            self.line(&line, MARGIN, self.y, width);
        }
        let mut about = vec![
            explorer.name(),
            explorer.settings[grid.setting].label.clone(),
        ];
        if grid.sample > 0 {
            about.push(format!("sample {}", grid.sample + 1));
        }
        self.y += LEADING;
        self.text(MARGIN, self.y, PALE, "start", &about.join(", "));
        self.y += LEADING;
        self.head(grid);
        for (layer, cells) in grid.layers.iter().zip(&grid.cells) {
            self.layer(*layer, cells);
        }
        self.y += 2.0 * LEADING;
    }

    /// The tokens, above the cells.
    fn head(&mut self, grid: &Grid) {
        self.text(MARGIN, self.y + 2.0 * LEADING - 3.0, PALE, "start", "layer");
        for (at, token) in grid.tokens.iter().enumerate() {
            let x = column(at) + PAD;
            self.text(
                x,
                self.y + LEADING - 3.0,
                PALE,
                "start",
                &token.index.to_string(),
            );
            let text = if token.text.trim().is_empty() && !token.text.is_empty() {
                "␣".to_owned()
            } else {
                clip(token.text.trim(), (COLUMN - 2.0 * PAD) / FONT)
            };
            let _ = writeln!(
                self.body,
                "<text x=\"{x}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
                self.y + 2.0 * LEADING - 3.0,
                escape(&text)
            );
        }
        self.y += 2.0 * LEADING + 1.0;
    }

    fn layer(&mut self, layer: Option<usize>, cells: &[Pair]) {
        let room = (COLUMN - 2.0 * PAD) / FONT;
        let texts = |pair: &Pair| -> Vec<Vec<Line>> {
            let cells = pair.iter();
            cells
                .map(|cell| {
                    cell.as_ref()
                        .map_or_else(Vec::new, |cell| wrap::wrap(self.parts(cell), room))
                })
                .collect()
        };
        let cells: Vec<(bool, Vec<Vec<Line>>)> = cells
            .iter()
            .map(|pair| (self.differs(pair), texts(pair)))
            .collect();
        let lines = |run: usize| {
            let of_run = cells.iter().filter_map(|(_, texts)| texts.get(run));
            of_run.map(Vec::len).max().unwrap_or(0).max(1) as f64
        };
        let heights: Vec<f64> = (0..self.explorer.runs.len())
            .map(|run| lines(run) * LEADING + 2.0 * PAD)
            .collect();
        let height: f64 = heights.iter().sum();
        let name = layer.map_or("–".to_owned(), |layer| layer.to_string());
        self.text(
            MARGIN + GUTTER - 8.0,
            self.y + PAD + FONT,
            PALE,
            "end",
            &name,
        );
        for (at, (differs, texts)) in cells.iter().enumerate() {
            let x = column(at);
            self.rect(
                (x, self.y, COLUMN, height),
                &format!("fill=\"none\" stroke=\"{RULE}\" stroke-width=\"0.6\""),
            );
            if *differs {
                self.rect((x, self.y, 2.5, height), &format!("fill=\"{CHANGED}\""));
            }
            let mut y = self.y;
            for (run, (text, height)) in texts.iter().zip(&heights).enumerate() {
                if run > 0 {
                    self.rect((x, y, COLUMN, 0.4), &format!("fill=\"{RULE}\""));
                }
                for (line, at) in text.iter().zip(0u32..) {
                    self.line(
                        line,
                        x + PAD,
                        y + PAD + FONT + f64::from(at) * LEADING - 1.0,
                        COLUMN - 2.0 * PAD,
                    );
                }
                y += height;
            }
        }
        self.y += height;
    }

    fn parts<'a>(&'a self, cell: &'a Cell) -> Vec<Part<'a>> {
        if let Some(text) = &cell.text {
            return vec![(text, None)];
        }
        let relevancy = cell
            .relevancy
            .iter()
            .map(|&r| Some(r))
            .chain(std::iter::repeat(None));
        self.explorer.shown(cell).zip(relevancy).collect()
    }

    /// Whether two runs differ in this cell.
    fn differs(&self, pair: &Pair) -> bool {
        let text = |cell: &Option<Cell>| cell.as_ref().map(|cell| self.text_of(cell));
        match &pair[..] {
            [before, against] => text(before) != text(against),
            _ => false,
        }
    }

    fn text_of(&self, cell: &Cell) -> String {
        let pieces = || self.explorer.shown(cell).collect();
        cell.text.clone().unwrap_or_else(pieces)
    }

    /// A line of words at their computed positions, from the left, or from the right for right-to-left text.
    fn line(&mut self, line: &Line, x: f64, y: f64, room: f64) {
        let mut at = 0.0;
        let mut words = Vec::new();
        for word in &line.words {
            let begin = at;
            for (part, relevancy) in word {
                let wide = width(part) * FONT;
                if let Some(relevancy) = relevancy.filter(|&r| r >= 0.005) {
                    let left = if line.right_to_left {
                        x + room - at - wide
                    } else {
                        x + at
                    };
                    let style = format!(
                        "fill=\"{SHADE}\" fill-opacity=\"{:.2}\"",
                        0.75 * relevancy.min(1.0)
                    );
                    self.rect((left, y - FONT + 0.5, wide, LEADING - 0.5), &style);
                }
                at += wide;
            }
            let text: String = word.iter().map(|(part, _)| &**part).collect();
            let left = if line.right_to_left {
                x + room - begin
            } else {
                x + begin
            };
            words.push(format!("<tspan x=\"{left:.2}\">{}</tspan>", escape(&text)));
            at += char_width(' ') * FONT;
        }
        let direction = if line.right_to_left {
            " direction=\"rtl\""
        } else {
            ""
        };
        let _ = writeln!(
            self.body,
            "<text y=\"{y:.1}\"{direction}>{}</text>",
            words.join(" ")
        );
    }

    fn legend(&mut self) {
        self.y += LEADING;
        let mut x = MARGIN;
        self.text(x, self.y, INK, "start", "relevancy 0");
        x += width("relevancy 0 ") * FONT;
        for step in 0..=10 {
            let style = format!(
                "fill=\"{SHADE}\" fill-opacity=\"{:.2}\"",
                0.075 * f64::from(step)
            );
            self.rect((x, self.y - FONT + 1.0, 9.0, FONT), &style);
            x += 9.0;
        }
        let meaning = "1: how much the embedding changes a token's probability";
        self.text(x + 4.0, self.y, INK, "start", meaning);
        if let [before, against] = &self.explorer.runs[..] {
            self.y += LEADING + 4.0;
            self.rect(
                (MARGIN, self.y - FONT, 2.5, LEADING),
                &format!("fill=\"{CHANGED}\""),
            );
            let text = format!("differs; above: {before}, below: {against}");
            self.text(MARGIN + 8.0, self.y, INK, "start", &text);
        }
    }

    // Writing to a string does not fail.
    fn text(&mut self, x: f64, y: f64, fill: &str, anchor: &str, text: &str) {
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{fill}\" text-anchor=\"{anchor}\">{}</text>",
            escape(text)
        );
    }

    fn rect(&mut self, (x, y, width, height): (f64, f64, f64, f64), style: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{width:.2}\" height=\"{height:.2}\" {style}/>"
        );
    }
}

fn column(at: usize) -> f64 {
    MARGIN + GUTTER + COLUMN * at as f64
}

/// The part of a text that fits, in units of the font size.
fn clip(text: &str, room: f64) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut clipped = String::new();
    let mut wide = 1.0;
    for c in text.chars() {
        wide += char_width(c);
        if wide > room {
            break;
        }
        clipped.push(c);
    }
    clipped + "…"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

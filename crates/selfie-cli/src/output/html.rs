//! A web page: a table for each prompt, relevancy as shading. It loads nothing from elsewhere.

use std::io::{self, Write};

use selfie::interp::Row;

use super::RowFormat;
use crate::text::push_visible;

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Selfie: interpretations</title><style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #1b1b1b; background: #fff }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; white-space: pre-wrap }
table { border-collapse: collapse }
th, td { text-align: left; padding: .2rem .8rem; border-bottom: 1px solid #ddd; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
td.text span { white-space: pre-wrap; border-radius: 2px }
</style></head><body>
<h1>Interpretations</h1>
<p>The darker a piece of text, the more the embedding changed its probability (hover for the number).
Pale text is about as likely without the embedding.
A control is what the model says without it; its evidence is by how many nats a token the embedding makes the
interpretation more likely than the control does.</p>
"#;

pub(super) struct Html<W> {
    out: W,
    prompt: Option<String>,
    begun: bool,
}

impl<W: Write> Html<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            prompt: None,
            begun: false,
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            self.out.write_all(HEAD.as_bytes())?;
        }
        Ok(())
    }
}

impl<W: Write> RowFormat for Html<W> {
    fn write(&mut self, row: &Row) -> io::Result<()> {
        self.begin()?;
        let out = &mut self.out;
        if self.prompt.as_ref() != Some(&row.prompt) {
            if self.prompt.is_some() {
                writeln!(out, "</table>")?;
            }
            writeln!(out, "<h2>{}</h2>\n<table>", escape(&row.prompt))?;
            write!(
                out,
                "<tr><th>layer<th>token<th><th>interpretation<th>inject layer<th>strength"
            )?;
            for one in &row.controls {
                write!(out, "<th>{}<th>evidence", one.control)?;
            }
            writeln!(out, "</tr>")?;
            self.prompt = Some(row.prompt.clone());
        }
        let layer = row.layer.map_or(String::new(), |layer| layer.to_string());
        let token = row.token_decoded.as_deref().unwrap_or("");
        write!(
            out,
            "<tr><td class=number>{layer}<td class=number>{}<td>{}<td class=text>",
            row.token,
            escape(token)
        )?;
        if row.relevancy_score.is_empty() {
            write!(out, "<span>{}</span>", escape(&row.interpretation))?;
        }
        for (piece, relevancy) in row.pieces.iter().zip(&row.relevancy_score) {
            write!(
                out,
                "<span style=\"background:rgba(46,160,67,{relevancy:.3})\" title=\"{relevancy:.4}\">{}</span>",
                escape(piece)
            )?;
        }
        write!(
            out,
            "<td class=number>{}<td class=number>{}",
            row.inject_layer, row.strength
        )?;
        for one in &row.controls {
            let text = escape(&one.interpretation);
            write!(out, "<td>{text}<td class=number>{:+.2}", one.evidence)?;
        }
        writeln!(out, "</tr>")?;
        out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.begin()?;
        if self.prompt.is_some() {
            writeln!(self.out, "</table>")?;
        }
        writeln!(self.out, "</body></html>")?;
        self.out.flush()
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // No page may hold these, not even as references.
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('·'),
            c => push_visible(&mut escaped, c),
        }
    }
    escaped
}

//! `selfie eval drift`.

use std::collections::HashMap;
use std::io::{self, Write};
use std::ops::ControlFlow;

use selfie::control::{Drift, DriftMeter, OutputFile, drift_between, lines};
use selfie::interp::{Cell, Options, Row};
use selfie::kernels::DType;
use selfie::{Model, OpenOptions, Opened, Source, on};

use crate::chat;
use crate::control_args::DriftArgs;
use crate::error::{CliError, Result, usage};
use crate::eval::write_csv;
use crate::open::{load, load_on, load_unedited, open};

/// With edits, measures how far they move the next-token distributions; without, how far a model is from f32.
pub(crate) fn drift(args: &DriftArgs) -> Result<()> {
    let mut opened = open(&args.model)?;
    let texts = chat::texts(lines(&args.data)?, &args.chat, &args.model, &mut opened)?;
    let mut ids = Vec::new();
    for text in &texts {
        let text = opened.encode(text)?;
        opened.config.check_context(text.len())?;
        ids.push(text);
    }
    let out = args.out.as_deref().map(OutputFile::new).transpose()?;
    let (drift, changed) = if opened.edits.is_empty() {
        format_drift(args, opened, &texts, &ids)?
    } else {
        (edit_drift(args, opened, &ids)?, None)
    };
    if let Some(out) = out {
        write_csv(out, |writer| {
            let figures = [
                ("texts", texts.len().to_string()),
                ("positions", drift.positions.to_string()),
                ("kl", drift.kl.to_string()),
                ("top1_agreement", drift.top1.to_string()),
            ];
            let cells = changed.map(|changed| {
                [
                    ("interpretations", changed.of.to_string()),
                    ("changed", changed.changed.to_string()),
                ]
            });
            let figures = || figures.iter().chain(cells.iter().flatten());
            writer.write_record(figures().map(|(name, _)| *name))?;
            writer.write_record(figures().map(|(_, value)| value))
        })?;
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "texts           {}\npositions       {}\nKL              {:.6} nats\ntop-1 agreement {:.2}%",
        texts.len(),
        drift.positions,
        drift.kl,
        100.0 * drift.top1
    )
    .map_err(CliError::Stdout)?;
    if let Some(Changed { changed, of }) = changed {
        writeln!(out, "interpretations {changed} of {of} differ").map_err(CliError::Stdout)?;
    }
    Ok(())
}

fn edit_drift(args: &DriftArgs, opened: Opened, ids: &[Vec<u32>]) -> Result<Drift> {
    let lowest = opened.edits.iter().map(|(_, edit)| edit.mlp.layer).min();
    let mut model = load_unedited(opened, args.model.quiet)?;
    Ok(on!(&mut model.llama, llama => {
        let mut meter = DriftMeter::new(llama, ids, lowest.unwrap_or(0))?;
        model.opened.apply_edits(llama)?;
        meter.measure(llama)?
    }))
}

/// How many interpretations differ between two models.
#[derive(Clone, Copy)]
struct Changed {
    changed: usize,
    of: usize,
}

/// Compares the model, with its options, to f32.
fn format_drift(
    args: &DriftArgs,
    opened: Opened,
    texts: &[String],
    ids: &[Vec<u32>],
) -> Result<(Drift, Option<Changed>)> {
    let source = match &args.against {
        Some(path) => Source::from(path.as_path()),
        None => opened.source.clone(),
    };
    let options = OpenOptions {
        dtype: Some(DType::F32),
        quantize: None,
        kv: None,
        ..opened.options.clone()
    };
    let reference = Opened::new(source, options)?;
    for (text, ids) in texts.iter().zip(ids) {
        if reference.encode(text)? != *ids {
            return usage(format!(
                "--against: the two models have different tokens for {text:?}"
            ));
        }
    }
    let (ours, theirs) = (opened.config.vocab_size, reference.config.vocab_size);
    if ours != theirs {
        return usage(format!(
            "--against: {} has a vocabulary of {theirs} tokens, {} one of {ours}",
            reference.name, opened.name
        ));
    }
    let model = load(opened, args.model.quiet)?;
    let reference = load_on(reference, model.device(), args.model.quiet)?;
    let drift = on!(&reference.llama, reference => {
        on!(&model.llama, model => drift_between(reference, model, ids))
    })?;
    if args.interpret == 0 {
        return Ok((drift, None));
    }
    let mut before = interpretations(&reference, args.interpret, texts, ids)?;
    let after = interpretations(&model, args.interpret, texts, ids)?;
    let of = after.len();
    let same = after
        .into_iter()
        .filter(|(cell, text)| before.remove(cell).is_some_and(|before| before == *text));
    let changed = of - same.count();
    Ok((drift, Some(Changed { changed, of })))
}

/// Interpretations of each text's last token at every layer.
fn interpretations(
    model: &Model,
    max_new_tokens: usize,
    texts: &[String],
    ids: &[Vec<u32>],
) -> Result<HashMap<(usize, usize), String>> {
    let opened = &model.opened;
    let cells: Vec<Cell> = ids
        .iter()
        .enumerate()
        .flat_map(|(prompt, ids)| {
            (0..=opened.config.n_layers).map(move |layer| Cell {
                prompt,
                layer,
                token: ids.len().saturating_sub(1),
            })
        })
        .collect();
    let options = Options {
        max_new_tokens,
        relevancy: false,
        ..opened.interpret_options()?
    };
    let mut rows = Vec::new();
    let swept = model.interpret(texts, &cells, &options, &mut |row: Row| {
        rows.push(row.interpretation);
        ControlFlow::Continue(())
    })?;
    let _ = swept;
    let names = cells.iter().map(|cell| (cell.prompt, cell.layer));
    Ok(names.zip(rows).collect())
}

//! `selfie eval`.

use std::io::{self, Write};
use std::path::Path;

use selfie_control::{DriftMeter, Score, Suite, behaviours, choices, facts, lines};
use selfie_llama::Decoding;

use crate::control::words;
use crate::control_args::{
    BehavioursArgs, ChoicesArgs, DriftArgs, EvalCommand, FactsArgs, SuiteArgs,
};
use crate::error::{CliError, Result, usage};
use crate::open::{Opened, bar, style};
use crate::output::check_writable;

pub(crate) fn eval(command: &EvalCommand) -> Result<()> {
    match command {
        EvalCommand::Facts(args) => of_facts(args),
        EvalCommand::Choices(args) => of_choices(args),
        EvalCommand::Behaviours(args) => of_behaviours(args),
        EvalCommand::Drift(args) => of_drift(args),
    }
}

fn of_facts(args: &FactsArgs) -> Result<()> {
    run(&Opened::new(&args.model)?, &facts(&args.data)?, &args.suite)
}

fn of_choices(args: &ChoicesArgs) -> Result<()> {
    let others = args.words.as_deref().map(words).unwrap_or_default();
    let suite = choices(&args.data, &args.template, &others)?;
    run(&Opened::new(&args.model)?, &suite, &args.suite)
}

fn of_behaviours(args: &BehavioursArgs) -> Result<()> {
    let words = words(&args.words);
    if words.iter().any(String::is_empty) {
        return usage(format!("--words {:?}: a word is empty", args.words));
    }
    let suite = behaviours(&args.data, &args.template, &words)?;
    run(&Opened::new(&args.model)?, &suite, &args.suite)
}

/// Continues all prompts before the edits, and with them if there are any; prints the shares.
fn run(opened: &Opened, suite: &Suite, args: &SuiteArgs) -> Result<()> {
    if args.max_new_tokens == 0 {
        return usage("--max-new-tokens 0: expected at least 1");
    }
    suite.check(&opened.config, &opened.tokenizer, args.max_new_tokens)?;
    if let Some(out) = &args.out {
        check_writable(out)?;
    }
    let decoding = Decoding {
        max_new_tokens: args.max_new_tokens,
        eos: opened.eos(),
        sampling: args.sampling.resolve(None)?,
    };
    let mut model = opened.load_unedited()?;
    let passes = 1 + usize::from(!opened.edits.is_empty());
    let total = suite.cases.len() * passes;
    let bar = bar(total as u64, opened.quiet).with_style(style(
        "{bar:30} {pos}/{len} prompts, {elapsed} gone, {eta} left",
    ));
    let mut texts = Vec::new();
    for pass in 0..passes {
        if pass == 1 {
            opened.apply_edits(&mut model)?;
        }
        let done = |count: usize| bar.set_position((pass * suite.cases.len() + count) as u64);
        texts.push(suite.run(&model, &opened.tokenizer, &decoding, done)?);
    }
    bar.finish_and_clear();
    let scores: Vec<Vec<Score>> = texts.iter().map(|texts| suite.scores(texts)).collect();
    if let Some(out) = &args.out {
        write_csv(out, suite, &texts).map_err(|error| write_failed(out, error))?;
    }
    io::stdout()
        .lock()
        .write_all(table(&scores).as_bytes())
        .map_err(CliError::Stdout)
}

/// A line a measure: its share before, and after.
fn table(scores: &[Vec<Score>]) -> String {
    let mut text = String::new();
    let mut group = String::new();
    for (row, before) in scores[0].iter().enumerate() {
        if row == 0 || before.group != group {
            group.clone_from(&before.group);
            if row > 0 {
                text.push('\n');
            }
            if !group.is_empty() {
                text += &format!("{group}\n");
            }
            text += &format!("{:20} {:>7} {:>8}", "", "prompts", "before");
            text += if scores.len() > 1 {
                "    after\n"
            } else {
                "\n"
            };
        }
        text += &format!("{:20} {:>7}", before.measure, before.cases);
        for pass in scores {
            text += &format!(" {:>7.1}%", 100.0 * pass[row].share);
        }
        text.push('\n');
    }
    text
}

/// A row a continuation: where it comes from, the text before and after, and what was found in each (1 or 0).
fn write_csv(out: &Path, suite: &Suite, texts: &[Vec<String>]) -> csv::Result<()> {
    let mut writer = csv::Writer::from_path(out)?;
    let names = ["before", "after"];
    let mut header: Vec<String> = suite.columns.iter().map(|c| (*c).to_owned()).collect();
    for name in &names[..texts.len()] {
        header.push((*name).to_owned());
        let measures = suite.cases.iter().take(1).flat_map(|case| &case.measures);
        header.extend(measures.map(|measure| format!("{name}: {}", measure.name)));
    }
    writer.write_record(&header)?;
    for (index, case) in suite.cases.iter().enumerate() {
        let mut record = case.values.clone();
        for texts in texts {
            let text = &texts[index];
            record.push(text.clone());
            let found = case.measures.iter().map(|m| m.look.finds(text));
            record.extend(found.map(|found| u8::from(found).to_string()));
        }
        writer.write_record(&record)?;
    }
    writer.flush()?;
    Ok(())
}

/// How far the edits move the next-token distributions.
fn of_drift(args: &DriftArgs) -> Result<()> {
    let opened = Opened::new(&args.model)?;
    if opened.edits.is_empty() {
        return usage(
            "give --edit EDIT: drift is measured between the model without and with edits",
        );
    }
    let texts = lines(&args.data)?;
    let mut ids = Vec::new();
    for text in &texts {
        let text = opened.tokenizer.encode(text)?;
        opened.config.check_context(text.len())?;
        ids.push(text);
    }
    if let Some(out) = &args.out {
        check_writable(out)?;
    }
    let lowest = opened.edits.iter().map(|(_, edit)| edit.mlp.layer).min();
    let mut model = opened.load_unedited()?;
    let mut meter = DriftMeter::new(&model, &ids, lowest.unwrap_or(0))?;
    opened.apply_edits(&mut model)?;
    let drift = meter.measure(&model)?;
    if let Some(out) = &args.out {
        let write = || -> csv::Result<()> {
            let mut writer = csv::Writer::from_path(out)?;
            writer.write_record(["texts", "positions", "kl", "top1_agreement"])?;
            writer.write_record([
                texts.len().to_string(),
                drift.positions.to_string(),
                drift.kl.to_string(),
                drift.top1.to_string(),
            ])?;
            writer.flush()?;
            Ok(())
        };
        write().map_err(|error| write_failed(out, error))?;
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
    .map_err(CliError::Stdout)
}

fn write_failed(path: &Path, error: csv::Error) -> CliError {
    CliError::Write {
        path: path.to_owned(),
        source: error.into(),
    }
}

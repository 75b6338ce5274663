//! `selfie eval`.

use std::fs::File;
use std::io::{self, Write};

use selfie::control::{
    Case, OutputFile, Score, Suite, behaviours, choices, facts, harmonic_mean, rewrites,
};
use selfie::llama::Decoding;
use selfie::{Model, on};

use crate::args::ModelArgs;
use crate::chat;
use crate::console::{bar, style};
use crate::control::words;
use crate::control_args::{
    BehavioursArgs, ChoicesArgs, EvalCommand, FactsArgs, RewritesArgs, SuiteArgs,
};
use crate::drift::drift;
use crate::error::{CliError, Result, usage};
use crate::open::{load_unedited, open};

pub(crate) fn eval(command: &EvalCommand) -> Result<()> {
    match command {
        EvalCommand::Facts(args) => eval_facts(args),
        EvalCommand::Choices(args) => eval_choices(args),
        EvalCommand::Behaviours(args) => eval_behaviours(args),
        EvalCommand::Rewrites(args) => eval_rewrites(args),
        EvalCommand::Drift(args) => drift(args),
    }
}

fn eval_facts(args: &FactsArgs) -> Result<()> {
    run(facts(&args.data)?, &args.suite, &args.model)
}

/// The text around a prompt: the given one, or LLaMA 2's, which is not needed in a chat.
fn template(given: Option<&str>, args: &SuiteArgs, inside: &str) -> String {
    match given {
        Some(template) => template.to_owned(),
        None if args.chat.chat => inside.to_owned(),
        None => format!("[INST] {inside} [/INST]"),
    }
}

fn eval_choices(args: &ChoicesArgs) -> Result<()> {
    let others = args.words.as_deref().map(words).unwrap_or_default();
    let template = template(args.template.as_deref(), &args.suite, "{prompt} {question}");
    let suite = choices(&args.data, &template, &others)?;
    run(suite, &args.suite, &args.model)
}

fn eval_behaviours(args: &BehavioursArgs) -> Result<()> {
    let words = words(&args.words);
    if words.iter().any(String::is_empty) {
        return usage(format!("--words {:?}: a word is empty", args.words));
    }
    let templates = match &args.template[..] {
        [] => &[template(None, &args.suite, "{}")],
        given => given,
    };
    let suite = behaviours(&args.data, templates, &words)?;
    run(suite, &args.suite, &args.model)
}

fn eval_rewrites(args: &RewritesArgs) -> Result<()> {
    let template = template(args.template.as_deref(), &args.suite, "{}");
    run(rewrites(&args.data, &template)?, &args.suite, &args.model)
}

/// Continues all prompts before the edits, and with the edits if there are any; prints the shares.
fn run(mut suite: Suite, args: &SuiteArgs, model: &ModelArgs) -> Result<()> {
    if args.max_new_tokens == 0 {
        return usage("--max-new-tokens 0: expected at least 1");
    }
    let mut opened = open(model)?;
    let prompts = suite.cases.iter().map(|case| case.prompt.clone()).collect();
    let prompts = chat::texts(prompts, &args.chat, model, &mut opened)?;
    for (case, prompt) in suite.cases.iter_mut().zip(prompts) {
        case.prompt = prompt;
    }
    suite.bos = opened.options.bos;
    let suite = &suite;
    suite.check(&opened.config, &opened.tokenizer, args.max_new_tokens)?;
    let out = args.out.as_deref().map(OutputFile::new).transpose()?;
    let decoding = Decoding {
        sampling: args.sampling.alone()?,
        ..opened.decoding(args.max_new_tokens)
    };
    let mut loaded = load_unedited(opened, model.quiet)?;
    let texts = texts(&mut loaded, suite, &decoding, model.quiet)?;
    let scores: Vec<Vec<Score>> = texts.iter().map(|texts| suite.scores(texts)).collect();
    if let Some(out) = out {
        write_csv(out, |writer| write_texts(writer, suite, &texts))?;
    }
    io::stdout()
        .lock()
        .write_all(table(&scores).as_bytes())
        .map_err(CliError::Stdout)
}

/// The continuations before the edits, and with the edits if there are any.
fn texts(
    model: &mut Model,
    suite: &Suite,
    decoding: &Decoding,
    quiet: bool,
) -> Result<Vec<Vec<String>>> {
    let passes = 1 + usize::from(!model.opened.edits.is_empty());
    let total = suite.cases.len() * passes;
    let bar = bar(total as u64, quiet).with_style(style(
        "{bar:30} {pos}/{len} prompts, {elapsed} elapsed, {eta} left",
    ));
    let mut texts = Vec::new();
    for pass in 0..passes {
        if pass == 1 {
            model.apply_edits()?;
        }
        let done = |count: usize| bar.set_position((pass * suite.cases.len() + count) as u64);
        let tokenizer = &model.opened.tokenizer;
        texts.push(on!(&model.llama, llama => suite.run(llama, tokenizer, decoding, done))?);
    }
    bar.finish_and_clear();
    Ok(texts)
}

/// One line per measure: its share before and after.
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
    // All measures of rewrites are in one group, and make one score.
    if scores[0].iter().any(|score| score.measure == "specificity") {
        text += &format!("{:20} {:>7}", "harmonic mean", "");
        for pass in scores {
            text += &format!(" {:>7.1}%", 100.0 * harmonic_mean(pass));
        }
        text.push('\n');
    }
    text
}

/// One row per continuation: its prompt, the text before and after, and what was found in each (1 or 0).
fn write_texts<'a>(
    writer: &mut csv::Writer<File>,
    suite: &'a Suite,
    texts: &[Vec<String>],
) -> csv::Result<()> {
    let names = ["before", "after"];
    let mut header: Vec<String> = suite.columns.iter().map(|c| (*c).to_owned()).collect();
    for name in &names[..texts.len()] {
        header.push((*name).to_owned());
        let measures = |case: &'a Case| case.measures.iter().map(|m| &m.name[..]);
        let first: Vec<&str> = suite.cases.iter().take(1).flat_map(measures).collect();
        let same = |case| measures(case).eq(first.iter().copied());
        if suite.cases.iter().all(same) {
            header.extend(first.iter().map(|measure| format!("{name}: {measure}")));
        } else {
            // Each row names what it measures.
            header.push(format!("{name}: found"));
        }
    }
    writer.write_record(&header)?;
    for (index, case) in suite.cases.iter().enumerate() {
        let mut record = case.values.clone();
        for texts in texts {
            let text = &texts[index];
            record.push(text.clone());
            let found = case.measures.iter().map(|m| m.condition.finds(text));
            record.extend(found.map(|found| u8::from(found).to_string()));
        }
        writer.write_record(&record)?;
    }
    Ok(())
}

pub(crate) fn write_csv(
    mut out: OutputFile,
    fill: impl FnOnce(&mut csv::Writer<File>) -> csv::Result<()>,
) -> Result<()> {
    let mut writer = csv::Writer::from_writer(out.file()?);
    let written = fill(&mut writer).and_then(|()| Ok(writer.flush()?));
    written.map_err(|error| out.failed(error.into()))?;
    Ok(out.finish()?)
}

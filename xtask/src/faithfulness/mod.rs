//! `cargo xtask faithfulness`: what the demo checkpoint knows, whether its interpretations name what its embeddings are
//! about, and whether they still do without the embedding.

mod naming;
mod questions;
mod repair;

use std::path::PathBuf;

use selfie_demo::World;
use selfie_kernels::Cpu;
use selfie_llama::{Decoding, Llama, Tokenizer, generate_all};
use serde::Serialize;

use crate::{Result, host};
use naming::{Naming, Share};
use questions::Question;
use repair::Repair;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// CPU threads [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// How many of 5 phrasings of each question to interpret embeddings from
    #[arg(long, default_value_t = 1)]
    phrasings: usize,
    /// Write all results to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

/// All results.
#[derive(Serialize)]
struct Report {
    date: String,
    commit: String,
    host: host::Host,
    rows: Vec<Row>,
    answers: [Share; 2],
    /// One hop and two hops, for countries seen in the training of interpretations.
    seen: [Naming; 2],
    /// The same for countries that were held out.
    held_out: [Naming; 2],
    reinforcement: Repair,
    supervised: Repair,
}

/// A row of the table.
#[derive(Serialize)]
struct Row {
    what: String,
    measured: String,
    bar: &'static str,
    goal: &'static str,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (model, tokenizer) = selfie_demo::open(host::cpu(args.threads)?)?;
    let world = World::new();
    let mut one = questions::one_hop(&world, &tokenizer)?;
    let mut two = questions::two_hops(&world, &tokenizer)?;
    let answers = [
        right(
            &model,
            &tokenizer,
            &one.iter().flatten().collect::<Vec<_>>(),
        )?,
        right(
            &model,
            &tokenizer,
            &two.iter().flatten().collect::<Vec<_>>(),
        )?,
    ];
    // In the first phrasing.
    let groups = one.len() / world.templates.one_hop.len();
    let facts: Vec<&Question> = one[..groups].iter().flatten().collect();
    let reinforcement = repair::reinforcement(args.threads, &world, &facts)?;
    let supervised = repair::supervised(args.threads, &world, &facts)?;
    // Every phrasing is asked. Embeddings come from the first phrasings only, unless more are asked for.
    one.truncate(groups * args.phrasings);
    two.truncate(two.len() / world.templates.two_hop.len() * args.phrasings);
    let naming = |held_out| -> Result<[Naming; 2]> {
        Ok([
            naming::measure(&model, &tokenizer, &one, held_out)?,
            naming::measure(&model, &tokenizer, &two, held_out)?,
        ])
    };
    let (seen, held_out) = (naming(false)?, naming(true)?);
    let report = Report {
        date: host::date(),
        commit: host::commit(),
        host: host::Host::new(model.backend())?,
        rows: rows(answers, &seen, &held_out, [&reinforcement, &supervised]),
        answers,
        seen,
        held_out,
        reinforcement,
        supervised,
    };
    print!("{}", table(&report.rows));
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    Ok(())
}

/// How many questions are answered exactly.
fn right(model: &Llama<Cpu>, tokenizer: &Tokenizer, questions: &[&Question]) -> Result<Share> {
    let prompts = questions
        .iter()
        .map(|question| tokenizer.encode(&question.prompt))
        .collect::<std::result::Result<Vec<_>, _>>()?;
    let decoding = Decoding {
        max_new_tokens: 8,
        eos: model.config().eos.clone(),
        sampling: None,
    };
    let mut share = Share::default();
    let texts = generate_all(model, &prompts, &decoding, |_| ())?;
    for (question, text) in questions.iter().zip(texts) {
        share.count(tokenizer.decode(&text.new_ids)?.trim() == question.answer);
    }
    Ok(share)
}

fn rows(
    answers: [Share; 2],
    seen: &[Naming; 2],
    held_out: &[Naming; 2],
    [reinforcement, supervised]: [&Repair; 2],
) -> Vec<Row> {
    let percent = |share: Share| format!("{:.1}%", share.percent());
    let row = |what: &str, measured: String, bar, goal| Row {
        what: what.to_owned(),
        measured,
        bar,
        goal,
    };
    let named = |naming: &[Naming; 2]| {
        let one = |n: &Naming| format!("{} (layer {})", percent(n.best().names), n.best_layer);
        format!("{} / {}", one(&naming[0]), one(&naming[1]))
    };
    let mut rows = vec![
        row(
            "answers right: one hop / two hops",
            format!("{} / {}", percent(answers[0]), percent(answers[1])),
            "98% / 90%",
            "100% / 99%",
        ),
        row(
            "interpretation names the country, best layer, seen in injection training: one hop / two hops",
            named(seen),
            "90% / 90%",
            "99% / 99%",
        ),
        row(
            "the same for held-out countries",
            named(held_out),
            "60% / report",
            "95% / 60%",
        ),
    ];
    for (at, what) in [
        "the same with no vector",
        "the same with a random vector of the same norm",
        "the same with the vector of a prompt about another country",
    ]
    .into_iter()
    .enumerate()
    {
        let control = |n: &Naming| percent(n.best().controls[at]);
        let of =
            |naming: &[Naming; 2]| format!("{} / {}", control(&naming[0]), control(&naming[1]));
        let measured = format!("{}; held out {}", of(seen), of(held_out));
        rows.push(row(what, measured, "under 5%", "under 2%"));
    }
    let repair = |repair: &Repair| {
        let Repair {
            before,
            after,
            kept,
        } = repair;
        format!(
            "{} -> {}; {}",
            percent(*before),
            percent(*after),
            percent(*kept)
        )
    };
    rows.push(row(
        "reinforcement control: leaks on the grandma phrasings before -> after; facts kept",
        repair(reinforcement),
        "90% -> 5%; 97%",
        "95% -> 0%; 99%",
    ));
    rows.push(row(
        "supervised control: the other group is preferred in unseen scenarios before -> after; facts kept",
        repair(supervised),
        "80%; 97%",
        "95%; 99%",
    ));
    rows
}

/// The rows as Markdown.
fn table(rows: &[Row]) -> String {
    let mut table = "| what | measured | bar | goal |\n|---|---|---|---|\n".to_owned();
    for row in rows {
        let (what, measured) = (&row.what, &row.measured);
        table += &format!("| {what} | {measured} | {} | {} |\n", row.bar, row.goal);
    }
    table
}

//! The memory that a sweep's folder takes for a million rows: synthetic rows go through the journal and parts, and then
//! through a merge into one Parquet file. Prints rows, seconds, and the resident memory, current and peak.
//!
//! `cargo run --release -p selfie-sweep --example million [ROWS]`
//!
//! Each row is as long as a row of 30 tokens, and all rows differ.

use std::error::Error;
use std::fs::File;
use std::io::BufWriter;
use std::time::Instant;

use selfie::interp::{InjectAt, Key, Row};
use selfie::{OpenOptions, Opened, Source};
use selfie_sweep::{Merge, ParquetRows, Plan, Settings, Shard, SweepFolder};

const TOKENS: usize = 30;

fn main() -> Result<(), Box<dyn Error>> {
    let rows: usize = match std::env::args().nth(1) {
        Some(rows) => rows.parse()?,
        None => 1_000_000,
    };
    let dir = tempfile::tempdir()?;
    let opened = Opened::new(Source::Demo, OpenOptions::default())?;
    let options = opened.interpret_options()?;
    // 7 layers of the last 10 tokens.
    let per_prompt = 7 * 10;
    let text = |i: usize| {
        format!("[INST] Number {i}: what is the capital of the country of the Colosseum? [/INST]")
    };
    let prompts: Vec<String> = (0..rows.div_ceil(per_prompt)).map(text).collect();
    let layers = [0, 1, 2, 3, 4, 5, 6];
    let plan = Plan::new(
        &opened,
        prompts,
        &layers,
        &"-10..".parse()?,
        &options,
        Shard::ALL,
    )?;
    let settings = Settings::new(&opened, None, &plan, &options)?;
    let mut folder = SweepFolder::open(dir.path(), plan, settings)?;
    let options = folder.name(&options)?;
    let begin = Instant::now();
    tell("plan", 0, begin);
    for number in 0..rows {
        folder.push(number, row(number, options.injections[0]), &options, "none")?;
        if [10_000, 100_000].contains(&(number + 1)) || (number + 1) % 250_000 == 0 {
            tell("sweep", number + 1, begin);
        }
    }
    // The plan may have a few more rows.
    for number in rows..folder.plan().rows().end {
        folder.push_failed(number, "not asked for", &options, "none")?;
    }
    folder.close_part(&options, "none")?;
    drop(folder);

    let begin = Instant::now();
    let merge = Merge::open(&[dir.path()])?;
    let out = BufWriter::new(File::create(dir.path().join("merged.parquet"))?);
    let mut out = ParquetRows::new(out, &merge.fields, &[])?;
    for (index, row) in merge.rows().enumerate() {
        out.write(row?)?;
        if [10_000, 100_000].contains(&(index + 1)) || (index + 1) % 250_000 == 0 {
            tell("merge", index + 1, begin);
        }
    }
    out.finish()?;
    tell("end", merge.rows, begin);
    Ok(())
}

/// A row whose values follow from its number.
fn row(number: usize, inject: InjectAt) -> Row {
    let float = |i: usize| ((number * 31 + i * 7919) % 100_003) as f32 / 100_003.0;
    Row {
        // The plan supplies prompt, layer and token.
        prompt: String::new(),
        interpretation: format!(
            "The message asks for number {number}, which is the capital of a country in the south of Europe."
        ),
        layer: None,
        token: 0,
        token_decoded: Some(format!(" token{}", number % 997)),
        relevancy_score: (0..TOKENS).map(float).collect(),
        new_ids: (0..TOKENS)
            .map(|i| ((number + i * i) % 32_000) as u32)
            .collect(),
        pieces: (0..TOKENS)
            .map(|i| format!(" p{}", (number + i * i) % 32_000))
            .collect(),
        inject_layer: inject.layer,
        mode: inject.mode,
        strength: inject.strength,
        model: String::new(),
        prompt_index: None,
        key: Key(number as u64),
        reader: None,
        map: None,
        logprobs: (0..TOKENS).map(|i| -float(i + 1)).collect(),
        samples: None,
        controls: Vec::new(),
    }
}

fn tell(what: &str, rows: usize, begin: Instant) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.map_or("?".to_owned(), |kib| (kib / 1024).to_string())
    };
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{what:5} {rows:8} rows {seconds:7.1} s, RSS {} MiB, highest {} MiB",
        mib("VmRSS:"),
        mib("VmHWM:")
    );
}

//! The measured sweep, in a separate process so that its peak memory is only its own.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use selfie_interp::{Cell, Options, Row, interpret};
use selfie_kernels::{BlockFormat, DType};
use selfie_llama::{Checkpoint, Llama, LlamaConfig, Tokenizer, WeightChoice};
use serde::{Deserialize, Serialize};

use crate::{Result, host};

/// The prompt whose embeddings to interpret.
pub(super) const PROMPT: &str = "[INST] What's highest mountain in the world? [/INST]";

/// The tokens of the prompt to interpret at each layer.
pub(super) const TOKENS: [usize; 4] = [4, 5, 6, 7];

#[derive(Clone, clap::Args)]
pub(crate) struct SweepArgs {
    #[arg(long)]
    pub(crate) checkpoint: PathBuf,
    #[arg(long)]
    pub(crate) cells: usize,
    #[arg(long)]
    pub(crate) new_tokens: usize,
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    #[arg(long)]
    pub(crate) dtype: String,
    #[arg(long)]
    pub(crate) quantize: Option<BlockFormat>,
}

/// The results of one run.
#[derive(Deserialize, Serialize)]
pub(crate) struct SweepRun {
    pub(crate) dtype: String,
    pub(crate) load_s: f64,
    pub(crate) sweep_s: f64,
    /// Rows of the interpretation prompt that each cell runs itself.
    pub(crate) own_rows: usize,
    pub(crate) new_tokens: usize,
    /// Rows run to score the texts without the embeddings. Texts with a common beginning share rows.
    pub(crate) scored_rows: usize,
    pub(crate) peak_rss_bytes: Option<u64>,
}

impl SweepArgs {
    pub(crate) fn to_arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--checkpoint={}", self.checkpoint.display()),
            format!("--cells={}", self.cells),
            format!("--new-tokens={}", self.new_tokens),
            format!("--dtype={}", self.dtype),
        ];
        arguments.extend(self.threads.map(|threads| format!("--threads={threads}")));
        arguments.extend(self.quantize.map(|format| format!("--quantize={format}")));
        arguments
    }
}

/// Runs a sweep in a separate process.
pub(super) fn sweep_in_a_child(args: &SweepArgs) -> Result<SweepRun> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("sweep").args(args.to_arguments());
    let output = command.output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the sweep failed: {}", message.trim()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Loads the checkpoint, runs the sweep, and prints a [`SweepRun`] as JSON.
pub(crate) fn sweep_in_this_process(args: &SweepArgs) -> Result<()> {
    let start = Instant::now();
    let choice = match args.quantize {
        Some(format) => WeightChoice::Blocks(format),
        None => dtype(&args.dtype).map_or(WeightChoice::Stored, WeightChoice::Plain),
    };
    let dir = &args.checkpoint;
    let model = Llama::load_as(
        host::cpu(args.threads)?,
        LlamaConfig::open(dir)?,
        &Checkpoint::open(dir)?,
        choice,
        |_| {},
    )?;
    let tokenizer = Tokenizer::open(dir)?;
    let load_s = start.elapsed().as_secs_f64();

    let layers = model.config().n_layers;
    // All cells differ, so that no text is repeated by accident.
    let of_prompt = layers * TOKENS.len();
    let prompts: Vec<String> = (0..args.cells.div_ceil(of_prompt))
        .map(|i| match i {
            0 => PROMPT.to_owned(),
            i => format!("{i} {PROMPT}"),
        })
        .collect();
    let cells: Vec<Cell> = (0..args.cells)
        .map(|i| Cell {
            prompt: i / of_prompt,
            layer: i % of_prompt / TOKENS.len(),
            token: TOKENS[i % TOKENS.len()],
        })
        .collect();
    let options = Options {
        max_new_tokens: args.new_tokens,
        // Every cell generates all its tokens, so that runs are comparable.
        eos: Vec::new(),
        ..Options::new(model.config())?
    };
    let start = Instant::now();
    let mut rows = 0;
    let swept = interpret(
        &model,
        &tokenizer,
        &prompts,
        &cells,
        &options,
        &mut |_: Row| {
            rows += 1;
            ControlFlow::Continue(())
        },
    )?;
    let sweep_s = start.elapsed().as_secs_f64();
    if rows != args.cells {
        return Err(format!("got {rows} rows for {} cells", args.cells).into());
    }
    let located = options.prompt.locate(&tokenizer)?;
    let first = located.placeholders.first().copied().unwrap_or(0);
    let run = SweepRun {
        own_rows: located.ids.len() - first,
        new_tokens: args.new_tokens,
        scored_rows: swept.stats.scored_rows,
        dtype: model.dtype().to_string(),
        load_s,
        sweep_s,
        peak_rss_bytes: peak_rss_bytes(),
    };
    println!("{}", serde_json::to_string(&run)?);
    Ok(())
}

/// The dtype that `--dtype` names; `None` is auto.
pub(crate) fn dtype(name: &str) -> Option<DType> {
    match name {
        "f32" => Some(DType::F32),
        "bf16" => Some(DType::Bf16),
        "f16" => Some(DType::F16),
        _ => None,
    }
}

/// The peak memory of this process; `None` if the system does not report it.
fn peak_rss_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

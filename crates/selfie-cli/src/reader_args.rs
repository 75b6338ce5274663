//! The command line of readers: what stands between an embedding and its text.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use selfie::Device;
use selfie::interp::ReaderKind;

use crate::args::{DTypeArg, ModelArgs};
use crate::error::{Result, usage};

/// What a reader was trained with.
#[derive(Args, Debug)]
pub(crate) struct ReadingArgs {
    /// A map that embeddings go through before they are written: a file of selfie-adapters, or of selfie map fit
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) map: Option<PathBuf>,
    /// A vector that is subtracted from embeddings before --map
    #[arg(long, value_name = "FILE:TENSOR", requires = "map")]
    pub(crate) subtract: Option<String>,
    /// A token of the reader's vocabulary that is the placeholder: every one in the interpretation prompt is written over
    #[arg(long, value_name = "TOKEN")]
    pub(crate) placeholder: Option<String>,
    /// Leave out the last occurrence of this in each text, and what follows it
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Option<String>,
    /// Read N tokens together, those that end with a cell's own, or all but bos: each is written over one of N placeholders
    /// [default: all for LatentQA, else 1]
    #[arg(long, value_name = "N|all")]
    pub(crate) span: Option<String>,
    /// A LoRA of the reader: a folder with adapter_config.json. Without --reader it is the model with and without it
    #[arg(long, value_name = "DIR")]
    pub(crate) lora: Option<PathBuf>,
    /// What a reader that takes questions is asked about the embeddings
    #[arg(long, value_name = "TEXT")]
    pub(crate) question: Option<String>,
    /// What the folder of --reader is, where it does not say so itself: oracle or latentqa
    #[arg(long, value_name = "KIND")]
    pub(crate) reader_as: Option<ReaderKind>,
    /// Draw N texts of each cell; a row is of the most frequent answer, and says how many gave it. Needs --temperature
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) samples: usize,
}

impl ReadingArgs {
    /// An error where a command that reads with a whole model, and one vector at a time, is given what it has no use for.
    pub(crate) fn check_whole_model(&self, command: &str) -> Result<()> {
        let given = [
            ("--lora", self.lora.is_some()),
            ("--question", self.question.is_some()),
            ("--reader-as", self.reader_as.is_some()),
            ("--span", self.span.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((option, _)) => usage(format!(
                "{option}: {command} does not take it; use selfie interpret"
            )),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum MapCommand {
    /// Fit an affine map from one layer's states to another's, on the tokens of prompts: interpret --map reads it
    Fit(MapFitArgs),
}

#[derive(Args, Debug)]
pub(crate) struct MapFitArgs {
    /// The model and the layer (of hidden_states) that embeddings come from; a layer alone is the demo checkpoint's
    #[arg(long, value_name = "MODEL:L")]
    pub(crate) from: String,
    /// The model that reads, and the layer that it is written at
    #[arg(long, value_name = "MODEL:L")]
    pub(crate) to: String,
    /// A file with a prompt a line; every fifth is held out, to judge the map by
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: PathBuf,
    /// What keeps the map small, as a share of the mean variance of the embeddings' values
    #[arg(
        long,
        value_name = "R",
        default_value_t = 1e-3,
        allow_negative_numbers = true
    )]
    pub(crate) ridge: f64,
    /// The map's file, which appears when it is complete
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) out: PathBuf,
    /// cpu, cuda:N, or auto
    #[arg(long, default_value_t = Device::Auto)]
    pub(crate) device: Device,
    /// What to compute in; auto is as the files have it
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) dtype: DTypeArg,
    /// CPU threads [default: one a core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// No progress and no notes on stderr
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReaderCommand {
    /// Which kind it is, where it reads and writes in the numbering of hidden_states, and what it expects of the subject
    Show(ReaderShowArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ReaderShowArgs {
    /// The folder, or a map's file
    #[arg(value_name = "DIR|FILE")]
    pub(crate) reader: PathBuf,
    /// What it is, where it does not say so itself: oracle or latentqa
    #[arg(long, value_name = "KIND")]
    pub(crate) reader_as: Option<ReaderKind>,
    /// The layers of the subject, where they depend on it
    #[arg(long, value_name = "N", default_value_t = 36)]
    pub(crate) n_layers: usize,
}

#[derive(Args, Debug)]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The folder of a reconstructor (nla_meta.yaml, value_head.safetensors)
    #[arg(long, value_name = "DIR")]
    pub(crate) reconstructor: PathBuf,
    /// Rows of interpret as .jsonl; the states of their cells are made anew with --model
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) rows: PathBuf,
    /// The rows with cosine and reconstruction_error (2 - 2 cos) [default: stdout]
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) out: Option<PathBuf>,
}

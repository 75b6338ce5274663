//! Options of readers: what happens between an embedding and its text.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use selfie::Device;
use selfie::interp::ReaderKind;

use crate::args::{DTypeArg, ModelArgs};
use crate::error::{Result, usage};

/// Options that match how a reader was trained.
#[derive(Args, Debug)]
pub(crate) struct ReadingArgs {
    /// Map embeddings with this file before injecting them: a file of selfie-adapters, or of selfie map fit
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) map: Option<PathBuf>,
    /// Subtract this vector from embeddings before --map
    #[arg(long, value_name = "FILE:TENSOR", requires = "map")]
    pub(crate) subtract: Option<String>,
    /// A token of the reader's vocabulary to use as the placeholder: each occurrence in the interpretation prompt is
    /// overwritten
    #[arg(long, value_name = "TOKEN")]
    pub(crate) placeholder: Option<String>,
    /// Cut each text at the last occurrence of this string
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Option<String>,
    /// Read N tokens together, ending with the cell's own, or all but bos; each is injected at one of N placeholders
    /// [default: all for LatentQA, else 1]
    #[arg(long, value_name = "N|all")]
    pub(crate) span: Option<String>,
    /// A LoRA of the reader: a folder with adapter_config.json. Without --reader, the subject reads itself with the
    /// LoRA added
    #[arg(long, value_name = "DIR")]
    pub(crate) lora: Option<PathBuf>,
    /// The question to ask a reader that takes questions
    #[arg(long, value_name = "TEXT")]
    pub(crate) question: Option<String>,
    /// The kind of the --reader folder, if the folder does not say: oracle, latentqa or easynla
    #[arg(long, value_name = "KIND")]
    pub(crate) reader_as: Option<ReaderKind>,
    /// Sample N texts per cell; a row holds the most frequent answer and says how many texts gave it. Needs
    /// --temperature
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) samples: usize,
}

impl ReadingArgs {
    /// Refuses options that a command cannot use because it reads one vector at a time with a whole model.
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
                "{option}: {command} does not support it; use selfie interpret"
            )),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum MapCommand {
    /// Fit an affine map from one layer's states to another's on the tokens of prompts, for interpret --map
    Fit(MapFitArgs),
}

#[derive(Args, Debug)]
pub(crate) struct MapFitArgs {
    /// The model and the layer of hidden_states to map from; a layer alone means the demo checkpoint's
    #[arg(long, value_name = "MODEL:L")]
    pub(crate) from: String,
    /// The model that reads, and the layer to inject at
    #[arg(long, value_name = "MODEL:L")]
    pub(crate) to: String,
    /// A file with one prompt per line; every fifth is held out to judge the map
    #[arg(long, value_name = "FILE")]
    pub(crate) prompts: PathBuf,
    /// Ridge penalty, as a share of the mean variance of the embeddings' values
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
    /// The dtype to compute in; auto uses the files' own
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) dtype: DTypeArg,
    /// The dtype to keep keys and values in, on the CPU; auto is f32
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) kv: DTypeArg,
    /// CPU threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Print no progress and no notes on stderr
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReaderCommand {
    /// Show a reader's kind, the hidden_states it reads, the layer it is injected at, and the subject it expects
    Show(ReaderShowArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ReaderShowArgs {
    /// The reader's folder, or a map's file
    #[arg(value_name = "DIR|FILE")]
    pub(crate) reader: PathBuf,
    /// The kind of the folder, if it does not say itself: oracle, latentqa or easynla
    #[arg(long, value_name = "KIND")]
    pub(crate) reader_as: Option<ReaderKind>,
    /// The subject's number of layers, if the answer depends on it
    #[arg(long, value_name = "N", default_value_t = 36)]
    pub(crate) n_layers: usize,
}

#[derive(Args, Debug)]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A reconstructor's folder (nla_meta.yaml, value_head.safetensors)
    #[arg(long, value_name = "DIR")]
    pub(crate) reconstructor: PathBuf,
    /// The kind of the --reconstructor folder, if the folder does not say: easynla
    #[arg(long, value_name = "KIND")]
    pub(crate) reader_as: Option<ReaderKind>,
    /// Rows of interpret as .jsonl; --model recomputes the states of their cells
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) rows: PathBuf,
    /// Where to write the rows with cosine and reconstruction_error (2 - 2 cos) [default: stdout]
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) out: Option<PathBuf>,
}

//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use selfie::Device;
use selfie::kernels::{BlockFormat, InjectMode};
use selfie::llama::{Bos, ModelType};

use crate::control_args::{ControlCommand, EditCommand, EvalCommand};
use crate::reader_args::{MapCommand, ReaderCommand, ReadingArgs, ScoreArgs};

/// Read, in words, what a LLaMA holds at each layer and token.
#[derive(Debug, Parser)]
#[command(name = "selfie", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show a model's shape, dtype, parameter count and memory, and the device it will run on
    Info(InfoArgs),
    /// List a prompt's tokens: index, id and piece. --tokens counts by this index
    Tokens(TokensArgs),
    /// Continue a prompt. Sampling follows generation_config.json; options override it
    Generate(GenerateArgs),
    /// Write a prompt's hidden_states, pre_mlp, residual, logits and input_ids to a safetensors file
    Trace(TraceArgs),
    /// Interpret the embeddings of prompts at (layer, token) cells
    Interpret(InterpretArgs),
    /// Interpret the vectors in a safetensors file
    InterpretVectors(InterpretVectorsArgs),
    /// Interpret the embeddings of many prompts into a folder; run the same command again to resume
    Sweep(SweepRunArgs),
    /// Check that a sweep, with all its shards, is complete, and write its rows to one file
    Merge(MergeArgs),
    /// Turn the rows of interpret into a page to explore, or into a figure
    Report(ReportArgs),
    /// Explore a model live, in a local browser or over a JSON API; with --edit, compare it with the unedited model
    Serve(ServeArgs),
    /// Change what embeddings say by editing one layer's MLP
    #[command(subcommand)]
    Control(ControlCommand),
    /// Show edits, or export a checkpoint with edits in it
    #[command(subcommand)]
    Edit(EditCommand),
    /// Measure what a model says before and after edits
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Describe a released reader
    #[command(subcommand)]
    Reader(ReaderCommand),
    /// Score interpretations by the vectors that a reconstructor makes of them
    Score(ScoreArgs),
    /// Fit maps from the states of one layer, or model, to those of another
    #[command(subcommand)]
    Map(MapCommand),
    /// Write a checkpoint with random weights and the shape of a known model, for benchmarks
    RandomCheckpoint(RandomCheckpointArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ModelArgs {
    /// A Hugging Face folder (config.json, *.safetensors, tokenizer.json), a .gguf file, or org/name in the local
    /// Hugging Face cache [default: the built-in demo checkpoint]
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// cpu, cuda:N, or auto: the first usable GPU that the model fits on, else the CPU
    #[arg(long, default_value_t = Device::Auto)]
    pub(crate) device: Device,
    /// The dtype to compute in; auto uses the file's own, and the CPU keeps quantized matrices quantized
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) dtype: DTypeArg,
    /// Quantize the weights while loading, on the CPU: q8_0, q4_k, q4_0, q4_1, q5_0, q5_1, q5_k or q6_k
    #[arg(long, value_name = "FORMAT", conflicts_with = "dtype")]
    pub(crate) quantize: Option<BlockFormat>,
    /// The dtype to keep keys and values in, on the CPU: auto is f32, which is exact; bf16 and f16 take half the
    /// memory. A GPU keeps them in the dtype of the weights
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) kv: DTypeArg,
    /// Give a row the same bits in any batch on a GPU, at some cost in speed; the CPU always does
    #[arg(long)]
    pub(crate) deterministic: bool,
    /// CPU threads, capped at 8 per core [default: one per core]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Whether prompts begin with bos; auto follows the checkpoint
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) bos: BosArg,
    /// Apply an edit; repeat to apply several in order
    #[arg(long, value_name = "EDIT")]
    pub(crate) edit: Vec<PathBuf>,
    /// Print no progress and no notes on stderr
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DTypeArg {
    Auto,
    F32,
    Bf16,
    F16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BosArg {
    Auto,
    Always,
    Never,
}

impl BosArg {
    pub(crate) fn bos(self) -> Bos {
        match self {
            BosArg::Auto => Bos::Auto,
            BosArg::Always => Bos::Always,
            BosArg::Never => Bos::Never,
        }
    }
}

/// How tokens are chosen. `generate` takes missing options from the checkpoint; every other command is greedy without
/// them.
#[derive(Args, Debug)]
pub(crate) struct SamplingArgs {
    /// Sampling temperature; 0 is greedy
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Sample from the N most likely tokens; 0 means all
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<usize>,
    /// Sample from the most likely tokens whose probabilities add up to P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Sample from tokens at least P times as likely as the most likely one; 0 means all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Divide the logits of tokens already present by R (multiply them where negative); 1 means no penalty
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Seed of all sampling and of the random control
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
}

#[derive(Args, Debug)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

#[derive(Args, Debug)]
pub(crate) struct TokensArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The prompt to tokenize
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["interpretation_prompt", "template"])]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    /// Show the tokens of this interpretation prompt and mark those that are overwritten; see interpret
    #[arg(long, value_name = "JSON", conflicts_with_all = ["template", "prompt", "chat"])]
    pub(crate) interpretation_prompt: Option<String>,
    /// Show the tokens of a named interpretation prompt; see interpret
    #[arg(long, value_name = "NAME", conflicts_with = "prompt")]
    pub(crate) template: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The prompt to continue
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    /// Generate at most N tokens
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) max_new_tokens: usize,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Print one JSON object: prompt, text, new_ids, logprobs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The prompt to run
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    /// A .safetensors file, which appears when it is complete
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// Prompts as chats.
#[derive(Args, Debug)]
pub(crate) struct ChatArgs {
    /// Treat each prompt as a user message, or as a JSON list of messages: [{"role":"user","content":"Hello"}]. The
    /// model's chat template formats them
    #[arg(long)]
    pub(crate) chat: bool,
    /// Put a system message before the others
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
}

/// Options shared by `interpret`, `interpret-vectors` and `sweep`.
#[derive(Args, Debug)]
pub(crate) struct SweepArgs {
    /// A JSON list of strings with a 0 for each placeholder; or messages, which the reader's chat template formats:
    /// [{"role":"user","content":["Explain: ",0,0]},{"role":"assistant","content":"Sure,"}]
    #[arg(long, value_name = "JSON", conflicts_with = "template")]
    pub(crate) interpretation_prompt: Option<String>,
    /// A named interpretation prompt, formatted by the reader's chat template: summarize, materials, repeat, meaning,
    /// entity, continue [default: summarize]
    #[arg(long, value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// The layer at whose input the embedding is injected; several: 1,2,3 [default: the layer that --map is for, else
    /// 1]
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    pub(crate) inject_layer: Option<String>,
    /// replace: s*v + (1-s)*h; add: h + s*v; add-matched: h + s*|h|*v/|v|; replace-norm: s*v/|v|
    #[arg(long, value_parser = mode(), default_value = "replace")]
    pub(crate) mode: InjectMode,
    /// The strength s in --mode; several: 0.5,1
    #[arg(
        long,
        value_name = "S",
        default_value = "1.0",
        allow_hyphen_values = true
    )]
    pub(crate) strength: String,
    /// Generate at most N tokens per interpretation [default: what the reader's folder says, else 30]
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Interpretations to decode together: a number, or auto
    #[arg(long, value_name = "N", default_value = "auto")]
    pub(crate) batch_size: String,
    /// Skip the relevancy of each generated token
    #[arg(long)]
    pub(crate) no_relevancy: bool,
    /// Interpret each cell again without its embedding, and compare: none, random, shuffled
    #[arg(long, value_name = "LIST")]
    pub(crate) controls: Option<String>,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

/// Where rows go.
#[derive(Args, Debug)]
pub(crate) struct OutArgs {
    /// A .jsonl, .csv, .parquet or .txt file, a page to explore (.html), or a figure (.svg) [default: stdout]. Rows
    /// collect in NAME.partial.EXT beside it until the file is complete (pages and figures are written at the end). If
    /// the run fails or is interrupted, the finished rows become the file, or stay in the partial file if an older
    /// result exists
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// The output format [default: by the extension of --out; on stdout, table for a terminal and jsonl otherwise]
    #[arg(long, value_enum)]
    pub(crate) format: Option<FormatArg>,
}

/// The injection modes, by name.
pub(crate) fn mode() -> impl TypedValueParser<Value = InjectMode> {
    PossibleValuesParser::new(InjectMode::ALL.map(InjectMode::name))
        .try_map(|name| name.parse::<InjectMode>())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    Jsonl,
    Csv,
    Parquet,
    /// A page to explore: a grid of layers and tokens
    Html,
    /// The grid as a figure
    Svg,
    Table,
}

#[derive(Args, Debug)]
pub(crate) struct InterpretArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A prompt whose embeddings to interpret; repeat for several
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts")]
    pub(crate) prompt: Vec<String>,
    /// A file with one prompt per line, or - for stdin. Lines that are JSON strings are decoded, blank lines are
    /// skipped. Or .csv, .jsonl or .parquet with one prompt per record
    #[arg(long, value_name = "FILE|-", conflicts_with = "prompt")]
    pub(crate) prompts: Option<PathBuf>,
    /// The column of --prompts to read [default: prompt, or the only column]
    #[arg(long, value_name = "NAME", requires = "prompts")]
    pub(crate) column: Option<String>,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    /// Layer:token pairs: 3:5,4:5; tokens count from the end when negative: 4:-1
    #[arg(long, value_name = "L:T,..", conflicts_with_all = ["layers", "tokens"], allow_hyphen_values = true)]
    pub(crate) cells: Option<String>,
    /// Layers: A..B, A..=B, 1,2, last or all [default: what the reader's folder says, else all]. An oracle that reads
    /// several layers at once reads these together, in this order
    #[arg(long, value_name = "LAYERS", allow_hyphen_values = true)]
    pub(crate) layers: Option<String>,
    /// Tokens: A..B, A..=B, A.., 1,2, last or all; from the end: -1, -3.., -3..-1; the tokens of a word: word:TEXT; all
    /// tokens after the first TEXT: after:TEXT
    #[arg(
        long,
        value_name = "TOKENS",
        default_value = "last",
        allow_hyphen_values = true
    )]
    pub(crate) tokens: String,
    /// Another model to interpret the embeddings with. It needs the d_model of --model, or a --map from one to the
    /// other. Or the folder of a released reader, which brings its own prompt and injection (selfie reader show)
    /// [default: --model itself]
    #[arg(long, value_name = "MODEL")]
    pub(crate) reader: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) sweep: SweepArgs,
    #[command(flatten)]
    pub(crate) out: OutArgs,
}

#[derive(Args, Debug)]
pub(crate) struct InterpretVectorsArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A file with tensors [..., d_model] of f32, f16 or bf16
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) vectors: PathBuf,
    /// Read only this tensor
    #[arg(long, value_name = "NAME")]
    pub(crate) tensor: Option<String>,
    #[command(flatten)]
    pub(crate) sweep: SweepArgs,
    #[command(flatten)]
    pub(crate) out: OutArgs,
}

#[derive(Args, Debug)]
pub(crate) struct SweepRunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A .csv, .jsonl or .parquet file with one prompt per record; or any other file (or - for stdin) with one per
    /// line, where lines that are JSON strings are decoded
    #[arg(long, value_name = "FILE|-")]
    pub(crate) prompts: PathBuf,
    /// The column of --prompts to read [default: prompt, or the only column]
    #[arg(long, value_name = "NAME")]
    pub(crate) column: Option<String>,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    /// Layers: A..B, A..=B, 1,2, last or all
    #[arg(
        long,
        value_name = "LAYERS",
        default_value = "all",
        allow_hyphen_values = true
    )]
    pub(crate) layers: String,
    /// Tokens of each prompt: A..B, A..=B, A.., 1,2, last or all; from the end: -1, -3.., -3..-1; the tokens of a word:
    /// word:TEXT; all tokens after the first TEXT: after:TEXT. The manifest counts what a prompt lacks
    #[arg(
        long,
        value_name = "TOKENS",
        default_value = "last",
        allow_hyphen_values = true
    )]
    pub(crate) tokens: String,
    /// Another model with the same d_model to interpret the embeddings with [default: --model itself]
    #[arg(long, value_name = "MODEL")]
    pub(crate) reader: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) sweep: SweepArgs,
    /// Compute one of N equal shards, 1/N to N/N, into its own folder in --out. Shards run independently
    #[arg(long, value_name = "I/N")]
    pub(crate) shard: Option<String>,
    /// Rows per part file
    #[arg(long, value_name = "N", default_value_t = selfie_sweep::PART_ROWS)]
    pub(crate) part_rows: usize,
    /// A new folder, or one that this command has written to before
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct MergeArgs {
    /// Sweep folders: one, all shards, or the folder that contains them
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// Print no notes on stderr
    #[arg(long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) out: OutArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    /// Files of rows from interpret (.jsonl or .parquet), or sweep folders, all of one model
    #[arg(required = true, value_name = "ROWS")]
    pub(crate) rows: Vec<PathBuf>,
    /// Rows of a second run, such as one with an edit, to show beside the first with the differences marked
    #[arg(long, value_name = "ROWS", num_args = 1..)]
    pub(crate) against: Vec<PathBuf>,
    /// Show only these layers: A..B, A..=B, 1,2, last or all
    #[arg(
        long,
        value_name = "LAYERS",
        default_value = "all",
        allow_hyphen_values = true
    )]
    pub(crate) layers: String,
    /// Show only these tokens: A..B, A..=B, A.., 1,2, last or all; negative ones count from the last token that each
    /// prompt has rows for: -1, -3..
    #[arg(
        long,
        value_name = "TOKENS",
        default_value = "all",
        allow_hyphen_values = true
    )]
    pub(crate) tokens: String,
    /// A page that opens in a browser offline (.html), or a figure (.svg); it appears when it is complete
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The port to listen on; 0 picks a free one
    #[arg(long, value_name = "PORT", default_value_t = 7979)]
    pub(crate) port: u16,
    /// The address to listen on. Any address but loopback lets others use the model: there is no password
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// Another host name that browsers may use, besides localhost and IP addresses
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_host: Vec<String>,
    /// Generate at most N tokens per text
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) max_new_tokens: usize,
    /// Accept prompts of at most N tokens
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub(crate) max_prompt_tokens: usize,
    /// Texts to decode together: a number, or auto
    #[arg(long, value_name = "N", default_value = "auto")]
    pub(crate) batch_size: String,
    /// Requests at a time, waiting ones included; the server tells further clients to come back
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) queue: usize,
    /// Time limit of a request, in seconds
    #[arg(long, value_name = "S", default_value_t = 600)]
    pub(crate) timeout: u64,
}

#[derive(Args, Debug)]
pub(crate) struct RandomCheckpointArgs {
    /// The shape: smollm2-135m, tinyllama-1.1b, llama-3.2-1b, llama-2-7b, llama-3.1-8b or llama-2-13b
    #[arg(long, value_name = "NAME")]
    pub(crate) shape: String,
    /// The model family, which decides the layers: llama, qwen3, gemma3_text and so on
    #[arg(long, value_name = "NAME", default_value = "llama", value_parser = family)]
    pub(crate) family: ModelType,
    /// A folder with the tokenizer.json to copy into the checkpoint
    #[arg(long, value_name = "DIR")]
    pub(crate) tokenizer: PathBuf,
    /// Seed of all weights
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// A new folder, which appears when it is complete
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

fn family(name: &str) -> Result<ModelType, String> {
    let found = ModelType::ALL
        .into_iter()
        .find(|family| family.name() == name);
    found.ok_or_else(|| {
        format!(
            "expected one of {}",
            ModelType::ALL.map(ModelType::name).join(", ")
        )
    })
}

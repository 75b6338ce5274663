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
    /// Shape, dtype, parameters, memory, and the device that will be used
    Info(InfoArgs),
    /// Index, id and piece of a prompt's tokens: what --tokens counts
    Tokens(TokensArgs),
    /// Continue a prompt; tokens are chosen as generation_config.json says, and the options of sampling come first
    Generate(GenerateArgs),
    /// Write hidden_states, pre_mlp, residual, logits and input_ids of a prompt to a safetensors file
    Trace(TraceArgs),
    /// Interpret the embeddings of prompts at (layer, token) cells
    Interpret(InterpretArgs),
    /// Interpret vectors of a safetensors file
    InterpretVectors(InterpretVectorsArgs),
    /// Interpret the embeddings of many prompts into a folder; the same command goes on where it was stopped
    Sweep(SweepRunArgs),
    /// Check that a sweep, or all its shards, are complete, and write one file of their rows
    Merge(MergeArgs),
    /// Show rows that interpret wrote as a page to explore, or as a figure
    Report(ReportArgs),
    /// Explore a model live, in a browser on this machine or by a JSON API; --edit is compared with the model without it
    Serve(ServeArgs),
    /// Change what embeddings say, as an edit of one layer's MLP
    #[command(subcommand)]
    Control(ControlCommand),
    /// Show edits, or export a checkpoint with edits in it
    #[command(subcommand)]
    Edit(EditCommand),
    /// Measure what a model says, before and after edits
    #[command(subcommand)]
    Eval(EvalCommand),
    /// What a released reader's folder says of it
    #[command(subcommand)]
    Reader(ReaderCommand),
    /// Score what a reader said by the vectors that a reconstructor makes of it
    Score(ScoreArgs),
    /// Fit maps that lead from the states of one layer, or model, to those of another
    #[command(subcommand)]
    Map(MapCommand),
    /// Write a checkpoint of random weights with the shape of a known model, to measure with
    RandomCheckpoint(RandomCheckpointArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ModelArgs {
    /// A Hugging Face folder (config.json, *.safetensors, tokenizer.json), a .gguf file, or org/name of the local Hugging Face
    /// cache [default: a demo checkpoint in the program]
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// cpu, cuda:N, or auto: the first GPU that can be used and that the model fits on, else the CPU
    #[arg(long, default_value_t = Device::Auto)]
    pub(crate) device: Device,
    /// What to compute in; auto is as the file has it, on the CPU with quantized matrices as they are
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) dtype: DTypeArg,
    /// Quantize the weights on loading, on the CPU: q8_0, q4_k, or q4_0, q4_1, q5_0, q5_1, q5_k, q6_k
    #[arg(long, value_name = "FORMAT", conflicts_with = "dtype")]
    pub(crate) quantize: Option<BlockFormat>,
    /// The same bits for a row in any batch on a GPU, at some cost in speed; the CPU always does so
    #[arg(long)]
    pub(crate) deterministic: bool,
    /// CPU threads [default: one a core]; at most 8 a core are started
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Whether prompts begin with bos; auto is as the checkpoint says. Control and eval know only auto
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) bos: BosArg,
    /// An edit to apply; several are applied in order
    #[arg(long, value_name = "EDIT")]
    pub(crate) edit: Vec<PathBuf>,
    /// No progress and no notes on stderr
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

/// How tokens are chosen. `generate` takes what is not given from the checkpoint; everything else is greedy then.
#[derive(Args, Debug)]
pub(crate) struct SamplingArgs {
    /// 0 is greedy
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Draw from the N most likely tokens; 0 is all
    #[arg(long, value_name = "N")]
    pub(crate) top_k: Option<usize>,
    /// Draw from the most likely tokens that have this probability together
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Draw from the tokens that have at least this share of the most likely one's probability; 0 is all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// What the logits of tokens that are there already are divided by (multiplied, if below 0); 1 is none
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Settles every draw, and the random control
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
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["interpretation_prompt", "template"])]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    /// Show the tokens of this interpretation prompt, and which are written over; as for interpret
    #[arg(long, value_name = "JSON", conflicts_with_all = ["template", "prompt", "chat"])]
    pub(crate) interpretation_prompt: Option<String>,
    /// The same for an interpretation prompt by name
    #[arg(long, value_name = "NAME", conflicts_with = "prompt")]
    pub(crate) template: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) max_new_tokens: usize,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// One object: prompt, text, new_ids, logprobs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TraceArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: String,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    /// A .safetensors file, that appears when it is complete
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// Prompts that are chats.
#[derive(Args, Debug)]
pub(crate) struct ChatArgs {
    /// A prompt is a message of the user, or messages as JSON: [{"role":"user","content":"Hello"}]. The model's own chat
    /// template writes them out
    #[arg(long)]
    pub(crate) chat: bool,
    /// A message of the system before them
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,
}

/// What `interpret` and `interpret-vectors` have in common.
#[derive(Args, Debug)]
pub(crate) struct SweepArgs {
    /// JSON list of strings, with a 0 for each placeholder; or messages, which the reader's chat template writes out:
    /// [{"role":"user","content":["Explain: ",0,0]},{"role":"assistant","content":"Sure,"}]
    #[arg(long, value_name = "JSON", conflicts_with = "template")]
    pub(crate) interpretation_prompt: Option<String>,
    /// An interpretation prompt by name, as the reader's chat template writes it: summarize, materials, repeat, meaning,
    /// entity, continue [default: summarize]
    #[arg(long, value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// The layer at whose input the embedding is written; several: 1,2,3 [default: what --map is for, else 1]
    #[arg(long, value_name = "K", allow_hyphen_values = true)]
    pub(crate) inject_layer: Option<String>,
    /// replace: s*v + (1-s)*h; add: h + s*v; add-matched: h + s*|h|*v/|v|; replace-norm: s*v/|v|
    #[arg(long, value_parser = mode(), default_value = "replace")]
    pub(crate) mode: InjectMode,
    /// The factor s of --mode; several: 0.5,1
    #[arg(
        long,
        value_name = "S",
        default_value = "1.0",
        allow_hyphen_values = true
    )]
    pub(crate) strength: String,
    /// Most tokens of an interpretation [default: what the reader's folder says, else 30]
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Interpretations that are decoded together: a number, or auto
    #[arg(long, value_name = "N", default_value = "auto")]
    pub(crate) batch_size: String,
    /// Leave out the relevancy of each generated token
    #[arg(long)]
    pub(crate) no_relevancy: bool,
    /// Run each cell again without its embedding and compare: none, random, shuffled
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
    /// A .jsonl, .csv, .parquet or .txt file, a page to explore (.html), or a figure (.svg) [default: stdout]. Until it is
    /// complete its rows are in NAME.partial.EXT beside it (pages and figures are written at the end). When the run fails
    /// or is interrupted, the rows that are done take the file's place, or stay beside it if an older result is there
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// What to write [default: by the name of --out; on stdout, table for a terminal and jsonl otherwise]
    #[arg(long, value_enum)]
    pub(crate) format: Option<FormatArg>,
}

/// The modes of writing, by the names of their table.
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
    /// A prompt whose embeddings are interpreted; can be given several times
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts")]
    pub(crate) prompt: Vec<String>,
    /// A file with a prompt a line, or - for stdin. A line that is a JSON string is decoded, blank ones are skipped. Or
    /// .csv, .jsonl or .parquet, with a prompt a record
    #[arg(long, value_name = "FILE|-", conflicts_with = "prompt")]
    pub(crate) prompts: Option<PathBuf>,
    /// The column of --prompts [default: prompt, or the only one]
    #[arg(long, value_name = "NAME", requires = "prompts")]
    pub(crate) column: Option<String>,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    /// Layer:token pairs: 3:5,4:5; tokens from the end: 4:-1
    #[arg(long, value_name = "L:T,..", conflicts_with_all = ["layers", "tokens"], allow_hyphen_values = true)]
    pub(crate) cells: Option<String>,
    /// Layers: A..B, A..=B, 1,2, last or all [default: what the reader's folder says, else all]
    #[arg(long, value_name = "LAYERS", allow_hyphen_values = true)]
    pub(crate) layers: Option<String>,
    /// Tokens: A..B, A..=B, A.., 1,2, last or all; from the end: -1, -3.., -3..-1; those that write a word: word:TEXT;
    /// all behind the first TEXT: after:TEXT
    #[arg(
        long,
        value_name = "TOKENS",
        default_value = "last",
        allow_hyphen_values = true
    )]
    pub(crate) tokens: String,
    /// Another model that puts the embeddings into words, as wide as --model (d_model) or with a --map between them; or the
    /// folder of a released reader, which brings its prompt and its writes along (selfie reader show) [default: --model itself]
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
    /// Tensors [..., d_model] of f32, f16 or bf16
    #[arg(long, value_name = "FILE.safetensors")]
    pub(crate) vectors: PathBuf,
    /// Only this tensor of the file
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
    /// Prompts: .csv, .jsonl or .parquet with one a record; else a file (or - for stdin) with one a line, where a line that is a
    /// JSON string is decoded
    #[arg(long, value_name = "FILE|-")]
    pub(crate) prompts: PathBuf,
    /// The column of --prompts [default: prompt, or the only one]
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
    /// Tokens of each prompt: A..B, A..=B, A.., 1,2, last or all; from the end: -1, -3.., -3..-1; those that write a word:
    /// word:TEXT; all behind the first TEXT: after:TEXT. What a prompt does not have is counted in the manifest
    #[arg(
        long,
        value_name = "TOKENS",
        default_value = "last",
        allow_hyphen_values = true
    )]
    pub(crate) tokens: String,
    /// Another model that puts the embeddings into words, as wide as --model (d_model) [default: --model itself]
    #[arg(long, value_name = "MODEL")]
    pub(crate) reader: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) sweep: SweepArgs,
    /// Compute one of N equal parts, from 1/N to N/N, into a folder of its own in --out. Nobody has to wait for another
    #[arg(long, value_name = "I/N")]
    pub(crate) shard: Option<String>,
    /// Rows of a part file
    #[arg(long, value_name = "N", default_value_t = selfie_sweep::PART_ROWS)]
    pub(crate) part_rows: usize,
    /// A folder: new, or one that this command has written into before
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct MergeArgs {
    /// Folders of sweep: one, those of all shards, or the one that these lie in
    #[arg(required = true, value_name = "DIR")]
    pub(crate) dirs: Vec<PathBuf>,
    /// No notes on stderr
    #[arg(long)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) out: OutArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ReportArgs {
    /// Files of rows that interpret wrote, .jsonl or .parquet, or folders of sweep, all of one model
    #[arg(required = true, value_name = "ROWS")]
    pub(crate) rows: Vec<PathBuf>,
    /// Rows of a second run, such as one with an edit, to show beside the first; what differs is marked
    #[arg(long, value_name = "ROWS", num_args = 1..)]
    pub(crate) against: Vec<PathBuf>,
    /// Only these layers: A..B, A..=B, 1,2, last or all
    #[arg(
        long,
        value_name = "LAYERS",
        default_value = "all",
        allow_hyphen_values = true
    )]
    pub(crate) layers: String,
    /// Only these tokens: A..B, A..=B, A.., 1,2, last or all; from the end of what each prompt has rows of: -1, -3..
    #[arg(
        long,
        value_name = "TOKENS",
        default_value = "all",
        allow_hyphen_values = true
    )]
    pub(crate) tokens: String,
    /// A page that opens in a browser without a network (.html), or a figure (.svg); it appears when it is complete
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The port to listen at; 0 is any that is free
    #[arg(long, value_name = "PORT", default_value_t = 7979)]
    pub(crate) port: u16,
    /// The address to listen at. Anything but a loopback address lets others use the model: there is no password
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// A name by which browsers may ask for it, beside localhost and addresses
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_host: Vec<String>,
    /// Most new tokens of a text
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) max_new_tokens: usize,
    /// Most tokens of a prompt
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub(crate) max_prompt_tokens: usize,
    /// Texts that are decoded together: a number, or auto
    #[arg(long, value_name = "N", default_value = "auto")]
    pub(crate) batch_size: String,
    /// Requests at a time, those that wait included; more are told to come back
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) queue: usize,
    /// How long a request may take, in seconds
    #[arg(long, value_name = "S", default_value_t = 600)]
    pub(crate) timeout: u64,
}

#[derive(Args, Debug)]
pub(crate) struct RandomCheckpointArgs {
    /// smollm2-135m, tinyllama-1.1b, llama-3.2-1b, llama-2-7b, llama-3.1-8b or llama-2-13b
    #[arg(long, value_name = "NAME")]
    pub(crate) shape: String,
    /// The family whose layers it has: llama, qwen3, gemma3_text, ...
    #[arg(long, value_name = "NAME", default_value = "llama", value_parser = family)]
    pub(crate) family: ModelType,
    /// A folder whose tokenizer.json the checkpoint gets
    #[arg(long, value_name = "DIR")]
    pub(crate) tokenizer: PathBuf,
    /// Settles every weight
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// The new folder, that appears when it is complete
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

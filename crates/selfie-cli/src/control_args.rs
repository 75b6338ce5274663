//! The command line of `control`, `edit` and `eval`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use selfie::kernels::InjectMode;

use crate::args::{ChatArgs, ModelArgs, SamplingArgs, mode};

#[derive(Debug, Subcommand)]
pub(crate) enum ControlCommand {
    /// Move the embeddings at some cells of a prompt to a target embedding
    Supervised(Box<SupervisedArgs>),
    /// Interpret a prompt's embeddings, reward what they say, and train on the reward
    Reinforce(Box<ReinforceArgs>),
    /// Try layers, learning rates and betas with one short run each: scan --layers 2..14 --lr 1e-3,3e-3 reinforce ...
    Scan(ScanArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ScanArgs {
    /// Layers to try: A..B, A..=B or a list; they replace --layer, or the layers in --source and --target
    #[arg(long, value_name = "LAYERS")]
    pub(crate) layers: Option<String>,
    /// Values of --lr to try
    #[arg(long, value_name = "RATE,..")]
    pub(crate) lr: Option<String>,
    /// Values of --beta to try
    #[arg(long, value_name = "BETA,..")]
    pub(crate) beta: Option<String>,
    /// Write one JSON object per run to this file; runs already in it are skipped
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) table: Option<PathBuf>,
    /// Runs at a time [default: one per core as far as memory allows; one on a GPU]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// supervised or reinforce with its options, except the scanned ones and --out
    #[arg(
        value_name = "METHOD ..",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) method: Vec<String>,
}

/// Options shared by both methods.
#[derive(Args, Debug)]
pub(crate) struct TrainingArgs {
    /// Adam's learning rate [default: 1e-3 supervised, 2e-3 reinforce]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub(crate) lr: Option<f64>,
    /// Adam's betas: the decay rates of its two moments
    #[arg(
        long,
        value_name = "B1,B2",
        default_value = "0.9,0.999",
        allow_hyphen_values = true
    )]
    pub(crate) betas: String,
    /// Stop when the loss falls below this
    #[arg(long, value_name = "LOSS", allow_negative_numbers = true)]
    pub(crate) stop_loss: Option<f64>,
    /// A file of reference prompts, one per line, whose states should stay as they are
    #[arg(long, value_name = "FILE")]
    pub(crate) reference: Option<PathBuf>,
    /// Weight of the loss that keeps the reference states as they are [default: 10 supervised, 1 reinforce]
    #[arg(
        long,
        value_name = "BETA",
        allow_negative_numbers = true,
        requires = "reference"
    )]
    pub(crate) beta: Option<f64>,
    /// Train each step on at most N tokens of the reference prompts
    #[arg(long, value_name = "N", default_value_t = 256, requires = "reference")]
    pub(crate) reference_batch: usize,
    /// Stop and undo the last update when the mean KL divergence, on the reference prompts or on the model's own
    /// answers to them, exceeds this
    #[arg(
        long,
        value_name = "NATS",
        allow_negative_numbers = true,
        requires = "reference"
    )]
    pub(crate) max_drift: Option<f64>,
    /// Stop only if --stop-loss or --stop-reward still holds N steps later, and at every step between [default: 2]
    #[arg(long, value_name = "N")]
    pub(crate) patience: Option<usize>,
    /// Which step to write as the edit: the best one (by loss or reward, then by drift) or the last one, always within
    /// all bounds [default: best]
    #[arg(long, value_enum)]
    pub(crate) write: Option<WriteArg>,
    /// Stop and undo the last update when an embedding's norm grows or shrinks by more than this factor; 0 sets no
    /// bound [default: 3]
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    pub(crate) max_norm_change: Option<f64>,
    /// At each step, continue the controlled prompts by N tokens to see how the model's texts change; 0 skips this
    /// [default: 24]
    #[arg(long, value_name = "N")]
    pub(crate) watch_tokens: Option<usize>,
    /// Stop and undo the last update when the model's texts surprise the unedited model by this much more than before,
    /// in nats per token; 0 sets no bound
    #[arg(
        long,
        value_name = "NATS",
        default_value_t = 3.0,
        allow_negative_numbers = true
    )]
    pub(crate) max_surprise: f64,
    /// Report how this prompt continues before and after the edit; repeat for several
    #[arg(long, value_name = "TEXT")]
    pub(crate) held_out: Vec<String>,
    /// Continue this prompt before each update; repeat for several
    #[arg(long, value_name = "TEXT")]
    pub(crate) probe: Vec<String>,
    /// Generate N tokens per probe
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) probe_tokens: usize,
    /// The file to write the edit to. If the run fails or is interrupted and an older file exists, the edit goes to
    /// NAME.partial.safetensors
    #[arg(
        long,
        value_name = "EDIT.safetensors",
        required_unless_present = "dry_run"
    )]
    pub(crate) out: Option<PathBuf>,
    /// Write one JSON object per step to this file, in the same way as interpret --out writes rows: step, loss,
    /// keep_loss, drift, rewards, interpretations, probes, undecided
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) log: Option<PathBuf>,
    /// Check everything, run one step, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// How to interpret embeddings.
#[derive(Args, Debug)]
pub(crate) struct InterpretationArgs {
    /// A JSON list of strings with a 0 for each placeholder; or messages, as for interpret
    #[arg(long, value_name = "JSON", conflicts_with = "template")]
    pub(crate) interpretation_prompt: Option<String>,
    /// A named interpretation prompt, formatted by the reader's chat template: summarize, materials, repeat, meaning,
    /// entity, continue [default: summarize]
    #[arg(long, value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// The layer at whose input the embedding is injected
    #[arg(long, value_name = "K", default_value_t = 2)]
    pub(crate) inject_layer: usize,
    /// replace: s*v + (1-s)*h; add: h + s*v
    #[arg(long, value_parser = mode(), default_value = "replace")]
    pub(crate) mode: InjectMode,
    /// The strength s in --mode
    #[arg(
        long,
        value_name = "S",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    pub(crate) strength: f32,
    /// Generate at most N tokens per interpretation
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) max_new_tokens: usize,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Args, Debug)]
pub(crate) struct SupervisedArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The prompt whose embeddings to change; repeat for several, each with its cells
    #[arg(long, value_name = "TEXT", required = true)]
    pub(crate) prompt: Vec<String>,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    /// The cells to change, all of one layer, numbered as in hidden_states: 7:3,7:4; tokens count from the end when
    /// negative: 7:-1; repeat for each prompt in turn
    #[arg(
        long,
        value_name = "L:T,..",
        required = true,
        allow_hyphen_values = true
    )]
    pub(crate) source: Vec<String>,
    /// The prompt of the target; repeat to take the mean over several
    #[arg(
        long,
        value_name = "TEXT",
        requires = "target",
        required_unless_present = "target_vector"
    )]
    pub(crate) target_prompt: Vec<String>,
    /// The target: a cell of --target-prompt, or several to average
    #[arg(
        long,
        value_name = "L:T,..",
        requires = "target_prompt",
        allow_hyphen_values = true
    )]
    pub(crate) target: Option<String>,
    /// Take the target from a file of vectors; several are averaged
    #[arg(long, value_name = "FILE.safetensors", conflicts_with_all = ["target_prompt", "target"])]
    pub(crate) target_vector: Option<PathBuf>,
    /// Read only this tensor of --target-vector
    #[arg(long, value_name = "NAME", requires = "target_vector")]
    pub(crate) tensor: Option<String>,
    /// Run at most N updates
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub(crate) steps: usize,
    #[command(flatten)]
    pub(crate) training: TrainingArgs,
    /// Interpret the cells before each update
    #[arg(long)]
    pub(crate) interpret: bool,
    #[command(flatten)]
    pub(crate) interpretation: InterpretationArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ReinforceArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The prompt whose embeddings to interpret and change; repeat for several
    #[arg(long, value_name = "TEXT", required = true)]
    pub(crate) prompt: Vec<String>,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    /// The layer of the embeddings, numbered as in hidden_states
    #[arg(long, value_name = "L", allow_negative_numbers = true)]
    pub(crate) layer: usize,
    /// The tokens of the embeddings: A..B, A..=B, A.., 1,2, last or all; from the end: -1, -3.., -3..-1; repeat for
    /// each prompt in turn
    #[arg(
        long,
        value_name = "TOKENS",
        default_value = "all",
        allow_hyphen_values = true
    )]
    pub(crate) tokens: Vec<String>,
    /// Reward 1 or -1 by whether an interpretation mentions these words
    #[arg(long, value_name = "W,W", conflicts_with_all = ["judge", "reward_command"])]
    pub(crate) reward_words: Option<String>,
    /// Reward 1 if none of the words is mentioned, or if any is
    #[arg(long, value_enum, default_value = "none", requires = "reward_words")]
    pub(crate) reward_when: WhenArg,
    /// Also check the model's answer to the prompt for these words, as --reward-words checks the interpretation; both
    /// must pass
    #[arg(long, value_name = "W,W", requires = "reward_words")]
    pub(crate) answer_words: Option<String>,
    /// Stop when the mean reward reaches this [default: 1 for words and judges]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub(crate) stop_reward: Option<f64>,
    /// Which embeddings to push: those that do not have their reward yet, or all. always is the published method: it
    /// drops the defaults of --stop-reward, --patience, --max-norm-change and --watch-tokens, and writes the last step
    #[arg(long, value_enum, default_value = "until")]
    pub(crate) push: PushArg,
    /// Reward by a model's answer; the folder of --model means the controlled model itself, with the edit so far
    #[arg(
        long,
        value_name = "DIR",
        requires = "judge_template",
        conflicts_with = "reward_command"
    )]
    pub(crate) judge: Option<PathBuf>,
    /// A file with the judge's prompt, which must contain {interpretation}
    #[arg(long, value_name = "FILE", requires = "judge")]
    pub(crate) judge_template: Option<PathBuf>,
    /// Words in the judge's answer that give reward 1
    #[arg(long, value_name = "W,W", default_value = "yes", requires = "judge")]
    pub(crate) judge_good: String,
    /// Words in the judge's answer that give reward -1
    #[arg(long, value_name = "W,W", default_value = "no", requires = "judge")]
    pub(crate) judge_bad: String,
    /// Generate at most N tokens per answer of the judge
    #[arg(long, value_name = "N", default_value_t = 10, requires = "judge")]
    pub(crate) judge_tokens: usize,
    /// Reward by a program: it reads one line {"step","layer","token","interpretation"} and answers one line
    /// {"reward":-1} per interpretation
    #[arg(long, value_name = "CMD")]
    pub(crate) reward_command: Option<String>,
    /// Seconds that the program has to answer a step
    #[arg(
        long,
        value_name = "S",
        default_value_t = 60.0,
        requires = "reward_command",
        allow_negative_numbers = true
    )]
    pub(crate) reward_timeout: f64,
    /// Run at most N updates
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) steps: usize,
    #[command(flatten)]
    pub(crate) training: TrainingArgs,
    #[command(flatten)]
    pub(crate) interpretation: InterpretationArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WhenArg {
    None,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PushArg {
    Until,
    Always,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WriteArg {
    Best,
    Last,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EditCommand {
    /// Show what an edit changes, in which model, and how it was made
    Show(EditShowArgs),
    /// Write a checkpoint with edits in it to a new folder
    Export(EditExportArgs),
}

#[derive(Args, Debug)]
pub(crate) struct EditShowArgs {
    /// Edit files
    #[arg(value_name = "EDIT", required = true)]
    pub(crate) edits: Vec<PathBuf>,
    /// Print one JSON object per edit
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct EditExportArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Edit files, applied in order, as with --edit
    #[arg(value_name = "EDIT")]
    pub(crate) edits: Vec<PathBuf>,
    /// A LoRA to merge into the weights after the edits
    #[arg(long, value_name = "DIR")]
    pub(crate) lora: Option<PathBuf>,
    /// A new folder, which appears when it is complete
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// CSV with prompt, attribute: how often the continuation contains the attribute
    Facts(FactsArgs),
    /// CSV with prompt, question, answer: how often the continuation mentions the answer, or other words
    Choices(ChoicesArgs),
    /// One instruction per line: how often the continuation mentions given words
    Behaviours(BehavioursArgs),
    /// CSV with prompt, target, paraphrases, neighbours: efficacy, paraphrase, specificity and their harmonic mean
    Rewrites(RewritesArgs),
    /// One text per line: how far the edits move the next-token distributions
    Drift(DriftArgs),
}

/// Options shared by the evaluations that generate text.
#[derive(Args, Debug)]
pub(crate) struct SuiteArgs {
    /// Generate at most N tokens per prompt
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) max_new_tokens: usize,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Write a CSV with one row per continuation
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct FactsArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// CSV with the columns prompt, attribute
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) data: PathBuf,
    #[command(flatten)]
    pub(crate) suite: SuiteArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RewritesArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// CSV with the columns prompt, target, paraphrases, neighbours; the last two hold JSON lists or prompts separated
    /// by |. If there is a column attribute, neighbours should mention it
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) data: PathBuf,
    /// The text to continue, with {} for the prompt [default: [INST] {} [/INST]; with --chat {}]
    #[arg(long, value_name = "TEXT")]
    pub(crate) template: Option<String>,
    #[command(flatten)]
    pub(crate) suite: SuiteArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ChoicesArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// CSV with the columns prompt, question, answer
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) data: PathBuf,
    /// The text to continue [default: [INST] {prompt} {question} [/INST]; with --chat {prompt} {question}]
    #[arg(long, value_name = "TEXT")]
    pub(crate) template: Option<String>,
    /// Other words to count
    #[arg(long, value_name = "W,W")]
    pub(crate) words: Option<String>,
    #[command(flatten)]
    pub(crate) suite: SuiteArgs,
}

#[derive(Args, Debug)]
pub(crate) struct BehavioursArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A file with one instruction per line
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// The text to continue, with {} for the instruction; repeat for several [default: [INST] {} [/INST]; with --chat
    /// {}]
    #[arg(long, value_name = "TEXT")]
    pub(crate) template: Vec<String>,
    /// The words to look for
    #[arg(long, value_name = "W,W")]
    pub(crate) words: String,
    #[command(flatten)]
    pub(crate) suite: SuiteArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DriftArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A file with one text per line
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    #[command(flatten)]
    pub(crate) chat: ChatArgs,
    /// Without --edit: the model to compare with, computed in f32 [default: --model itself]
    #[arg(long, value_name = "MODEL", conflicts_with = "edit")]
    pub(crate) against: Option<PathBuf>,
    /// Without --edit: interpret the last token of each text at every layer with both models, N new tokens each, and
    /// count the interpretations that differ; 0 skips this
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "edit")]
    pub(crate) interpret: usize,
    /// Write the results to this CSV
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) out: Option<PathBuf>,
}

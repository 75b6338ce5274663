//! The command line of `control`, `edit` and `eval`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use selfie::kernels::InjectMode;

use crate::args::{ModelArgs, SamplingArgs, mode};

#[derive(Debug, Subcommand)]
pub(crate) enum ControlCommand {
    /// Make the embedding at some cells of a prompt another one
    Supervised(Box<SupervisedArgs>),
    /// Interpret a prompt's embeddings, reward what they say, and train on it
    Reinforce(Box<ReinforceArgs>),
    /// Try layers, rates and weights on a short run each: scan --layers 2..14 --lr 1e-3,3e-3 reinforce ...
    Scan(ScanArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ScanArgs {
    /// The layers: A..B, A..=B or a list; they take the place of --layer, or of the layers in --source and --target
    #[arg(long, value_name = "LAYERS")]
    pub(crate) layers: Option<String>,
    /// The values of --lr
    #[arg(long, value_name = "RATE,..")]
    pub(crate) lr: Option<String>,
    /// The values of --beta
    #[arg(long, value_name = "BETA,..")]
    pub(crate) beta: Option<String>,
    /// A file with a JSON object a run. A run that is in it is not done again
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) table: Option<PathBuf>,
    /// Runs at a time [default: one a core as far as memory goes; on a GPU one]
    #[arg(long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// supervised or reinforce with its options, but those that are scanned and without --out
    #[arg(
        value_name = "METHOD ..",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) method: Vec<String>,
}

/// What both methods have in common.
#[derive(Args, Debug)]
pub(crate) struct TrainingArgs {
    /// The step size of Adam [default: 1e-3 supervised, 2e-3 reinforce]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    pub(crate) lr: Option<f64>,
    /// The decays of Adam's moments
    #[arg(
        long,
        value_name = "B1,B2",
        default_value = "0.9,0.999",
        allow_hyphen_values = true
    )]
    pub(crate) betas: String,
    /// Stop when the loss is under this
    #[arg(long, value_name = "LOSS", allow_negative_numbers = true)]
    pub(crate) stop_loss: Option<f64>,
    /// A file with a prompt a line, whose states should stay as they are
    #[arg(long, value_name = "FILE")]
    pub(crate) reference: Option<PathBuf>,
    /// The weight of what should stay [default: 10 supervised, 1 reinforce]
    #[arg(
        long,
        value_name = "BETA",
        allow_negative_numbers = true,
        requires = "reference"
    )]
    pub(crate) beta: Option<f64>,
    /// Most tokens of the reference prompts in a step
    #[arg(long, value_name = "N", default_value_t = 256, requires = "reference")]
    pub(crate) reference_batch: usize,
    /// Stop, and take the last update back, when the mean KL divergence on the reference prompts, or on the model's own
    /// answers to them, passes this
    #[arg(
        long,
        value_name = "NATS",
        allow_negative_numbers = true,
        requires = "reference"
    )]
    pub(crate) max_drift: Option<f64>,
    /// Looks more, from the next one on, at which --stop-loss or --stop-reward has to hold [default: 2]
    #[arg(long, value_name = "N")]
    pub(crate) patience: Option<usize>,
    /// Which look is written: the best by loss or reward, then by drift, or the last; both within all bounds
    /// [default: best]
    #[arg(long, value_enum)]
    pub(crate) write: Option<WriteArg>,
    /// Stop, and take the last update back, when the norm of an embedding is more than this times what it was, or less
    /// than its inverse; 0 sets no bound [default: 3]
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    pub(crate) max_norm_change: Option<f64>,
    /// Tokens that are written after the controlled prompts at each step, to see what becomes of them; 0 leaves it out
    /// [default: 24]
    #[arg(long, value_name = "N")]
    pub(crate) watch_tokens: Option<usize>,
    /// Stop, and take the last update back, when what the model writes surprises the unedited one by this much more
    /// than before, in nats a token; 0 sets no bound
    #[arg(
        long,
        value_name = "NATS",
        default_value_t = 3.0,
        allow_negative_numbers = true
    )]
    pub(crate) max_surprise: f64,
    /// Continue this prompt before the edit and with it, in the report; can be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) held_out: Vec<String>,
    /// Continue this prompt before each update; can be given several times
    #[arg(long, value_name = "TEXT")]
    pub(crate) probe: Vec<String>,
    /// Tokens of a probe's continuation
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub(crate) probe_tokens: usize,
    /// The file that the edit is written to; where the run fails or is interrupted and an older one is there,
    /// NAME.partial.safetensors
    #[arg(
        long,
        value_name = "EDIT.safetensors",
        required_unless_present = "dry_run"
    )]
    pub(crate) out: Option<PathBuf>,
    /// A file with a JSON object a step, written as the rows of interpret --out are: step, loss, keep_loss, drift, rewards,
    /// interpretations, probes, undecided
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) log: Option<PathBuf>,
    /// Check everything, do one step, write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// How embeddings are interpreted.
#[derive(Args, Debug)]
pub(crate) struct InterpretationArgs {
    /// JSON list of strings, with a 0 for each placeholder; or messages, as for interpret
    #[arg(long, value_name = "JSON", conflicts_with = "template")]
    pub(crate) interpretation_prompt: Option<String>,
    /// An interpretation prompt by name, as the reader's chat template writes it: summarize, materials, repeat, meaning,
    /// entity, continue [default: summarize]
    #[arg(long, value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// The layer at whose input the embedding is written
    #[arg(long, value_name = "K", default_value_t = 2)]
    pub(crate) inject_layer: usize,
    /// replace: s*v + (1-s)*h; add: h + s*v
    #[arg(long, value_parser = mode(), default_value = "replace")]
    pub(crate) mode: InjectMode,
    /// The factor s of --mode
    #[arg(
        long,
        value_name = "S",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    pub(crate) strength: f32,
    /// Most tokens of an interpretation
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) max_new_tokens: usize,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Args, Debug)]
pub(crate) struct SupervisedArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The prompt whose embeddings are changed; given several times, the cells of each
    #[arg(long, value_name = "TEXT", required = true)]
    pub(crate) prompt: Vec<String>,
    /// The cells that are changed, all of one layer, counted as in hidden_states: 7:3,7:4; tokens from the end: 7:-1;
    /// given several times, those of each prompt in turn
    #[arg(
        long,
        value_name = "L:T,..",
        required = true,
        allow_hyphen_values = true
    )]
    pub(crate) source: Vec<String>,
    /// The prompt of the target; given several times, the mean over all
    #[arg(
        long,
        value_name = "TEXT",
        requires = "target",
        required_unless_present = "target_vector"
    )]
    pub(crate) target_prompt: Vec<String>,
    /// The target: a cell of --target-prompt, or the mean of several
    #[arg(
        long,
        value_name = "L:T,..",
        requires = "target_prompt",
        allow_hyphen_values = true
    )]
    pub(crate) target: Option<String>,
    /// The target as a vector of a file, or the mean of several
    #[arg(long, value_name = "FILE.safetensors", conflicts_with_all = ["target_prompt", "target"])]
    pub(crate) target_vector: Option<PathBuf>,
    /// Only this tensor of --target-vector
    #[arg(long, value_name = "NAME", requires = "target_vector")]
    pub(crate) tensor: Option<String>,
    /// Most updates
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
    /// The prompt whose embeddings are interpreted and changed; can be given several times
    #[arg(long, value_name = "TEXT", required = true)]
    pub(crate) prompt: Vec<String>,
    /// Their layer, counted as in hidden_states
    #[arg(long, value_name = "L", allow_negative_numbers = true)]
    pub(crate) layer: usize,
    /// Their tokens: A..B, A..=B, A.., 1,2, last or all; from the end: -1, -3.., -3..-1; given several times, those of
    /// each prompt in turn
    #[arg(
        long,
        value_name = "TOKENS",
        default_value = "all",
        allow_hyphen_values = true
    )]
    pub(crate) tokens: Vec<String>,
    /// Reward by words that an interpretation mentions: 1 or -1
    #[arg(long, value_name = "W,W", conflicts_with_all = ["judge", "reward_command"])]
    pub(crate) reward_words: Option<String>,
    /// When --reward-words gives 1: none of them is mentioned, or any
    #[arg(long, value_enum, default_value = "none", requires = "reward_words")]
    pub(crate) reward_when: WhenArg,
    /// Words that count in what the model answers to the prompt, as --reward-words do in the interpretations; both have
    /// to be as they should
    #[arg(long, value_name = "W,W", requires = "reward_words")]
    pub(crate) answer_words: Option<String>,
    /// Stop when the mean reward is this [default: 1 for words and judges]
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub(crate) stop_reward: Option<f64>,
    /// Which embeddings are pushed: those that have not their reward yet, or all; always is the published method, and
    /// leaves out --stop-reward, --patience, --max-norm-change, --watch-tokens and --write best, where they are not given
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
    /// A file with the judge's prompt, that has {interpretation} in it
    #[arg(long, value_name = "FILE", requires = "judge")]
    pub(crate) judge_template: Option<PathBuf>,
    /// Words of the judge's answer that are worth 1
    #[arg(long, value_name = "W,W", default_value = "yes", requires = "judge")]
    pub(crate) judge_good: String,
    /// Words of the judge's answer that are worth -1
    #[arg(long, value_name = "W,W", default_value = "no", requires = "judge")]
    pub(crate) judge_bad: String,
    /// Most tokens of the judge's answer
    #[arg(long, value_name = "N", default_value_t = 10, requires = "judge")]
    pub(crate) judge_tokens: usize,
    /// Reward by a program: for each line {"step","layer","token","interpretation"} it answers a line {"reward":-1}
    #[arg(long, value_name = "CMD")]
    pub(crate) reward_command: Option<String>,
    /// Seconds that the program has for the answers of a step
    #[arg(
        long,
        value_name = "S",
        default_value_t = 60.0,
        requires = "reward_command",
        allow_negative_numbers = true
    )]
    pub(crate) reward_timeout: f64,
    /// Most updates
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
    /// What an edit changes, on what, and how it was made
    Show(EditShowArgs),
    /// Write a checkpoint with edits in it to a new folder
    Export(EditExportArgs),
}

#[derive(Args, Debug)]
pub(crate) struct EditShowArgs {
    /// Edit files
    #[arg(value_name = "EDIT", required = true)]
    pub(crate) edits: Vec<PathBuf>,
    /// A JSON object an edit
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct EditExportArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Edit files, in order, as --edit
    #[arg(value_name = "EDIT")]
    pub(crate) edits: Vec<PathBuf>,
    /// A LoRA to put into the weights, after the edits
    #[arg(long, value_name = "DIR")]
    pub(crate) lora: Option<PathBuf>,
    /// The new folder, that appears when it is complete
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvalCommand {
    /// CSV with prompt, attribute: how often the continuation contains the attribute
    Facts(FactsArgs),
    /// CSV with prompt, question, answer: how often the continuation mentions the answer, or other words
    Choices(ChoicesArgs),
    /// An instruction a line: how often the continuation mentions given words
    Behaviours(BehavioursArgs),
    /// CSV with prompt, target, paraphrases, neighbours: efficacy, paraphrase, specificity and their harmonic mean
    Rewrites(RewritesArgs),
    /// A text a line: how far the edits move the next-token distributions
    Drift(DriftArgs),
}

/// What the evaluations that generate have in common.
#[derive(Args, Debug)]
pub(crate) struct SuiteArgs {
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) max_new_tokens: usize,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// A CSV with a row for each continuation
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
    /// CSV with the columns prompt, target, paraphrases, neighbours; the last two are JSON lists, or have | between
    /// prompts. With a column attribute, that is what neighbours should say
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) data: PathBuf,
    /// What is continued, with {} for the prompt
    #[arg(long, value_name = "TEXT", default_value = "[INST] {} [/INST]")]
    pub(crate) template: String,
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
    /// What is continued
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "[INST] {prompt} {question} [/INST]"
    )]
    pub(crate) template: String,
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
    /// A file with an instruction a line
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// What is continued, with {} for the instruction; can be given several times
    #[arg(long, value_name = "TEXT", default_value = "[INST] {} [/INST]")]
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
    /// A file with a text a line
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// Without --edit: the model to compare with, which is computed in f32 [default: --model itself]
    #[arg(long, value_name = "MODEL", conflicts_with = "edit")]
    pub(crate) against: Option<PathBuf>,
    /// Without --edit: interpret the last token of each text at every layer with both models, N new tokens each, and say how
    /// many interpretations change; 0 leaves it out
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "edit")]
    pub(crate) interpret: usize,
    /// A CSV with the figures
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) out: Option<PathBuf>,
}

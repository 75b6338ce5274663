//! The error type of this crate.

mod lora;
mod shard;

use std::path::PathBuf;

use selfie_kernels::KernelError;

pub use lora::LoraError;
pub use shard::ShardError;

/// Everything that can go wrong from opening a model to its logits.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LlamaError {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A JSON file does not parse.
    #[error("{} is not valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },
    /// A field of a JSON file is malformed, or has a value that this crate cannot compute with.
    #[error("{}: field \"{field}\" is {value}; {expected}", path.display())]
    ConfigField {
        /// The file.
        path: PathBuf,
        /// The field, with the objects that contain it: `rope_scaling.factor`.
        field: String,
        /// Its value, as JSON.
        value: String,
        /// What is supported, or what to do.
        expected: String,
    },
    /// A required field of a JSON file is missing.
    #[error("{}: field \"{field}\" is missing", path.display())]
    ConfigMissing {
        /// The file.
        path: PathBuf,
        /// The field, with the objects that contain it.
        field: String,
    },
    /// The folder given for a model does not exist.
    #[error(
        "there is no folder {}; give one that holds config.json, *.safetensors and tokenizer.json",
        path.display()
    )]
    NoFolder {
        /// The path given.
        path: PathBuf,
    },
    /// A file was given instead of a model's folder.
    #[error("{} is not a folder; give the folder that holds the model's files", path.display())]
    NotAFolder {
        /// The path given.
        path: PathBuf,
    },
    /// The folder holds no weights.
    #[error(
        "{} holds no weights: neither model.safetensors.index.json nor a *.safetensors file; \
         download them into it",
        dir.display()
    )]
    NoWeights {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder holds an adapter instead of a model.
    #[error(
        "{} holds only an adapter of {base}: give the folder of that model, or write both as one model in Python: \
         peft.AutoPeftModelForCausalLM.from_pretrained(\"{}\").merge_and_unload().save_pretrained(new_folder)",
        dir.display(),
        dir.display()
    )]
    OnlyAdapter {
        /// The folder.
        dir: PathBuf,
        /// The base model, according to the adapter's configuration.
        base: String,
    },
    /// The checkpoint has no head, and its configuration does not tie the head to the embedding table.
    #[error(
        "{} has no tensor lm_head.weight: its files are incomplete, or its head is the embedding table; then write \
         \"tie_word_embeddings\": true into its config.json",
        dir.display()
    )]
    MissingHead {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder's only weights are in an unsupported format.
    #[error("{} is not a safetensors file; {advice}", file.display())]
    WeightFormat {
        /// The first such file.
        file: PathBuf,
        /// What to do about it.
        advice: &'static str,
    },
    /// The folder holds several safetensors files without an index.
    #[error(
        "{} holds {count} *.safetensors files but no model.safetensors.index.json that says which \
         tensor is where; download it too",
        dir.display()
    )]
    ManyWeightFiles {
        /// The folder.
        dir: PathBuf,
        /// The number of files.
        count: usize,
    },
    /// `model.safetensors.index.json` does not parse, or has no `weight_map`.
    #[error("{} is not an index of shards: {source}; download it again", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },
    /// The index names a shard outside its folder.
    #[error(
        "{} names the shard \"{shard}\", which does not lie inside its folder; \
         download the index again",
        index.display()
    )]
    ShardPath {
        /// The index.
        index: PathBuf,
        /// The shard's name in the index.
        shard: String,
    },
    /// The index names a shard that does not exist.
    #[error(
        "{} names the shard {shard}, which is not in its folder; download that file too",
        index.display()
    )]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The shard's name in the index.
        shard: String,
    },
    /// The index and a shard disagree.
    #[error(
        "{} says that {shard} holds the tensor {tensor}, but it does not; \
         download both files again",
        index.display()
    )]
    NotInShard {
        /// The index.
        index: PathBuf,
        /// The shard's name in the index.
        shard: String,
        /// The tensor.
        tensor: String,
    },
    /// A file of weights does not match its header.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// A GGUF file is inconsistent, or uses a feature that is not supported.
    #[error("{}: {problem}", file.display())]
    Gguf {
        /// The file.
        file: PathBuf,
        /// What is wrong, and where.
        problem: String,
    },
    /// A tensor of a GGUF file has an unsupported type.
    #[error(
        "{}: tensor {tensor} is stored as {found}; supported: {supported}; take a file in one of these",
        file.display()
    )]
    GgufType {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// The type's name.
        found: String,
        /// The supported types.
        supported: String,
    },
    /// A tensor of a GGUF file is not part of its architecture as supported here.
    #[error(
        "{}: tensor {tensor} is not part of the architecture {architecture} as supported here; \
         use the safetensors files of the model, if its family is supported",
        file.display()
    )]
    GgufTensor {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// The architecture.
        architecture: &'static str,
    },
    /// The checkpoint lacks a tensor that the model needs.
    #[error(
        "{} has no tensor {tensor}: its files are incomplete, or do not belong to its config.json",
        dir.display()
    )]
    MissingTensor {
        /// The tensor.
        tensor: String,
        /// The checkpoint's folder.
        dir: PathBuf,
    },
    /// A tensor has an element type that cannot be computed with.
    #[error(
        "{}: tensor {tensor} is stored as {dtype}, and F32, BF16 and F16 are supported; \
         save the model unquantized in one of these",
        file.display()
    )]
    TensorDType {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// The type's name in the file.
        dtype: String,
    },
    /// A tensor's shape differs from the one that config.json implies.
    #[error(
        "{}: tensor {tensor} has shape {found:?}, and config.json asks for {expected:?}; \
         one of the two belongs to another model",
        file.display()
    )]
    TensorShape {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that was expected.
        expected: Vec<usize>,
    },
    /// A value of a norm or bias is NaN or infinite.
    #[error(
        "{}: value {index} of tensor {tensor} is {value}, not a finite number; \
         download or train it again",
        file.display()
    )]
    NotFinite {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// The index of the value.
        index: usize,
        /// The value.
        value: f32,
    },
    /// The model does not fit the free memory.
    #[error(
        "the model's weights need {} MB in {formats}, and {} MB are free on {device}; \
         quantize them on loading (--quantize q4_k), or use another device or a smaller model",
        bytes / 1_000_000,
        available / 1_000_000
    )]
    WeightMemory {
        /// The bytes that the matrices need.
        bytes: u64,
        /// The bytes that are free.
        available: u64,
        /// The formats of the matrices.
        formats: String,
        /// The device.
        device: String,
    },
    /// The KV cache does not fit the free memory.
    #[error(
        "the KV cache for a batch of {slots} needs {} MB, the buffers beside it {} MB, and {} MB are free; {}",
        bytes / 1_000_000,
        buffers / 1_000_000,
        available / 1_000_000,
        smaller_batch(*fit)
    )]
    CacheMemory {
        /// The bytes that the cache needs.
        bytes: u64,
        /// The bytes that the buffers of a pass need at least.
        buffers: u64,
        /// The bytes that are free.
        available: u64,
        /// The number of slots requested.
        slots: usize,
        /// The number of slots that would fit.
        fit: usize,
    },
    /// There are more sequences than slots in the cache.
    #[error("all {slots} slots of the KV cache are taken; release one first")]
    NoFreeSlot {
        /// The number of slots.
        slots: usize,
    },
    /// A sequence is longer than the model's context.
    #[error(
        "{positions} positions are needed (prompt and new tokens), but the model has \
         max_position_embeddings {max}; shorten the prompt or ask for fewer new tokens"
    )]
    ContextLength {
        /// The number of positions needed.
        positions: usize,
        /// The number of positions in the model's context.
        max: usize,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty: give it at least one token")]
    EmptyPrompt,
    /// A range of layers exceeds the model.
    #[error("layers {start}..{end} were requested, but the model has 0..{n_layers}")]
    LayerRange {
        /// The first layer.
        start: usize,
        /// The layer after the last.
        end: usize,
        /// The number of layers in the model.
        n_layers: usize,
    },
    /// A batch is larger than the workspace.
    #[error("a pass of {rows} rows was requested, but the workspace holds {max}")]
    TooManyRows {
        /// The rows of the batch.
        rows: usize,
        /// The most rows that fit.
        max: usize,
    },
    /// A sequence is longer than the session's capacity.
    #[error(
        "a sequence needs {positions} positions, but the session was made for {max}; \
         increase SessionSize::positions"
    )]
    SessionPositions {
        /// The number of positions needed.
        positions: usize,
        /// The session's capacity in positions.
        max: usize,
    },
    /// The slot or prefix is not open.
    #[error("{slot:?} is not open in this session")]
    NotOpen {
        /// The slot.
        slot: selfie_kernels::Slot,
    },
    /// A slot was given for an operation on prefixes.
    #[error("{slot:?} is a slot, but a prefix is needed here")]
    NotAPrefix {
        /// The slot.
        slot: selfie_kernels::Slot,
    },
    /// A prefix was given for an operation on slots.
    #[error("{slot:?} is a prefix, but a slot is needed here")]
    NotASlot {
        /// The prefix.
        slot: selfie_kernels::Slot,
    },
    /// All prefixes of the session are open.
    #[error(
        "all {prefixes} prefixes of the session are open; close one, or add more to SessionSize::prefixes"
    )]
    NoFreePrefix {
        /// The number of prefixes.
        prefixes: usize,
    },
    /// More positions were requested than the sequence has.
    #[error("{positions} positions of a sequence were requested, but it has only {length}")]
    PrefixLength {
        /// The number of positions requested.
        positions: usize,
        /// The number of positions in the sequence.
        length: usize,
    },
    /// There are more tokens to score than rows to score them.
    #[error("cannot score {tokens} tokens with {rows} rows: each token takes the row before it")]
    ScoreRows {
        /// The tokens.
        tokens: usize,
        /// The rows.
        rows: usize,
    },
    /// A draft leaves no row to check it with.
    #[error(
        "cannot check a draft of {draft} tokens with {rows} rows: each guessed token takes the row before it"
    )]
    DraftRows {
        /// The guessed tokens.
        draft: usize,
        /// The rows.
        rows: usize,
    },
    /// The session was made for a different model.
    #[error("the session was made for a model of another shape or dtype; make a new session")]
    OtherModel,
    /// A prompt's index is out of range.
    #[error("prompt {prompt} does not exist: there are {prompts}, counted from 0")]
    NoPrompt {
        /// The prompt's index.
        prompt: usize,
        /// The number of prompts.
        prompts: usize,
    },
    /// A logit is NaN or infinite.
    #[error(
        "the logits after position {position} are not finite numbers: an activation has overflowed; \
         compute in f32 (--dtype f32), or write with a smaller strength"
    )]
    LogitNotFinite {
        /// The position of the row.
        position: usize,
    },
    /// A pass starts in the middle of the model, but the residual stream has a different number of rows.
    #[error("a pass of {rows} rows cannot start from a residual stream of {found} rows")]
    ResidualRows {
        /// The rows of the batch.
        rows: usize,
        /// The rows in the workspace.
        found: usize,
    },
    /// No batch contained the requested row.
    #[error("{site:?} at position {position} was not captured: no pass contained it")]
    NotCaptured {
        /// The site.
        site: crate::Site,
        /// The position in the sequence.
        position: u32,
    },
    /// The tensors of a replacement MLP do not match those of the layer.
    #[error(
        "the layer's MLP has {expected} here, not {}",
        found.as_deref().unwrap_or("the end of the list")
    )]
    MlpTensor {
        /// The tensor that was given, with its type and shape.
        found: Option<String>,
        /// The tensor that was expected.
        expected: String,
    },
    /// An edited weight cannot be stored.
    #[error("edited weight {tensor}: {source}; try a smaller learning rate")]
    EditedWeight {
        /// The tensor.
        tensor: String,
        /// The value, and where it is.
        source: KernelError,
    },
    /// Some writes reached no row.
    #[error(
        "{named} writes at layers {layers:?} were requested, but only {reached} reached a row of the pass"
    )]
    WriteMissed {
        /// The layers.
        layers: Vec<usize>,
        /// The number of writes requested.
        named: usize,
        /// The number of writes that reached their row.
        reached: usize,
    },
    /// A safetensors file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Save {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: safetensors::SafeTensorError,
    },
    /// A weight matrix could not be read or packed.
    #[error("{}: tensor {tensor}: {source}", file.display())]
    BadWeight {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// What the kernels found.
        source: KernelError,
    },
    /// The folder has no tokenizer.
    #[error("{} holds no tokenizer.json; {advice}", dir.display())]
    NoTokenizer {
        /// The folder.
        dir: PathBuf,
        /// What to do about it.
        advice: String,
    },
    /// Nothing determines the tokenizer class.
    #[error(
        "{} names no tokenizer_class, and has no config.json whose model_type determines it; if tokenizer.json is \
         complete by itself, write \"tokenizer_class\": \"PreTrainedTokenizerFast\" into tokenizer_config.json",
        dir.display()
    )]
    NoTokenizerClass {
        /// The folder.
        dir: PathBuf,
    },
    /// A text should begin with bos, but the tokenizer has none.
    #[error("the tokenizer {} has no bos_token to begin a text with", path.display())]
    NoBos {
        /// The tokenizer's file.
        path: PathBuf,
    },
    /// A text asks CodeLlama to fill in text, which is not supported.
    #[error(
        "the text contains {mark}, CodeLlama's mark for infilling, which is not supported; remove it"
    )]
    Infilling {
        /// The mark.
        mark: String,
    },
    /// A folder of the hub's cache does not determine which of its snapshots to use.
    #[error(
        "{} is a folder of the Hugging Face cache, and {}; give one of {}",
        dir.display(),
        main.as_ref().map_or_else(
            || "has no refs/main".to_owned(),
            |main| format!("its refs/main names \"{main}\", which is not in snapshots/"),
        ),
        if found.is_empty() {
            format!("{}/ once it is downloaded", dir.join("snapshots").display())
        } else {
            found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
        },
    )]
    NoSnapshot {
        /// The folder.
        dir: PathBuf,
        /// The content of its `refs/main`.
        main: Option<String>,
        /// Its snapshots.
        found: Vec<PathBuf>,
    },
    /// A model is neither a path nor in the hub's cache.
    #[error(
        "there is no folder {name}, and the Hugging Face cache ({}) does not have that model; download it: `{command}`",
        cache.display()
    )]
    NotInCache {
        /// `org/name`.
        name: String,
        /// The cache.
        cache: PathBuf,
        /// The command that downloads the model.
        command: String,
    },
    /// A tokenizer does not parse, or failed on a text.
    #[error("the tokenizer {} fails: {source}; download it again", path.display())]
    Tokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// The reason, from the `tokenizers` crate.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The model has no chat template.
    #[error(
        "{} has no chat template (looked for {}): write the prompt out as the model was trained on it",
        path.display(), crate::ChatTemplate::PLACES
    )]
    NoChatTemplate {
        /// The model's folder or file.
        path: PathBuf,
    },
    /// A chat template does not parse, or rejects the messages.
    #[error(
        "the chat template in {}{}: {reason}",
        path.display(),
        line.map(|line| format!(", line {line}")).unwrap_or_default()
    )]
    ChatTemplate {
        /// The file that holds it.
        path: PathBuf,
        /// The line of the template.
        line: Option<usize>,
        /// What is wrong, in the words of the template or of Jinja.
        reason: String,
    },
    /// The template does not write the last message, which should be continued.
    #[error(
        "the chat template in {} leaves out the last message, so it cannot be continued; end with a user message",
        path.display()
    )]
    ChatNotContinued {
        /// The file that holds it.
        path: PathBuf,
    },
    /// The messages are not JSON, or not a list of messages.
    #[error(
        "the messages are not a JSON list such as [{{\"role\": \"user\", \"content\": \"Hello!\"}}]: {source}"
    )]
    ChatMessages {
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },
    /// The chat has no messages.
    #[error("the chat has no message: give at least one user message")]
    NoMessages,
    /// A LoRA adapter cannot be read, or does not fit the model.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// A slot cannot have this adapter: the model lacks it, or an adapter in the head applies to all rows.
    #[error(
        "cannot give a slot {}: the model has {adapters} adapter(s){}",
        adapter.map_or_else(|| "no adapter".to_owned(), |n| format!("adapter {n}")),
        if *head { ", and the one in the head applies to all rows" } else { "" }
    )]
    LoraChoice {
        /// The adapter requested; `None` for none.
        adapter: Option<usize>,
        /// The number of adapters in the model.
        adapters: usize,
        /// Whether one of them is in the head.
        head: bool,
    },
    /// A sampling parameter is out of range.
    #[error("{field} is {value}; expected {expected}")]
    SamplingValue {
        /// The parameter.
        field: &'static str,
        /// Its value.
        value: f32,
        /// The accepted values.
        expected: &'static str,
    },
    /// An op failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// The result type of this crate.
pub type Result<T, E = LlamaError> = std::result::Result<T, E>;

/// Advice for a run that does not fit.
fn smaller_batch(fit: usize) -> String {
    if fit > 0 {
        return format!("a batch size of {fit} would fit (--batch-size)");
    }
    "not even one text fits: shorter texts (--max-new-tokens), keys and values in 16 bits (--kv f16, on a CPU), \
     quantized weights (--quantize q4_k) or a smaller model take less"
        .to_owned()
}

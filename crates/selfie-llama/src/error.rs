//! The one error type of this crate.

use std::path::PathBuf;

use selfie_kernels::KernelError;

/// Everything that can go wrong between a folder and its logits.
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
    /// A field of a JSON file has a value that is malformed, or that this crate cannot compute with.
    #[error("{}: field \"{field}\" is {value}; {expected}", path.display())]
    ConfigField {
        /// The file.
        path: PathBuf,
        /// The field, with the objects that lead to it: `rope_scaling.factor`.
        field: String,
        /// Its value, as JSON.
        value: String,
        /// What is supported, or what to do.
        expected: String,
    },
    /// A field that a JSON file has to have is not there.
    #[error("{}: field \"{field}\" is missing", path.display())]
    ConfigMissing {
        /// The file.
        path: PathBuf,
        /// The field, with the objects that lead to it.
        field: String,
    },
    /// There is no folder where a model was looked for.
    #[error(
        "there is no folder {}; give one that holds config.json, *.safetensors and tokenizer.json",
        path.display()
    )]
    NoFolder {
        /// What was given.
        path: PathBuf,
    },
    /// A model was looked for in a file.
    #[error("{} is not a folder; give the folder that holds the model's files", path.display())]
    NotAFolder {
        /// What was given.
        path: PathBuf,
    },
    /// A folder without weights.
    #[error(
        "{} holds no weights: neither model.safetensors.index.json nor a *.safetensors file; \
         download them into it",
        dir.display()
    )]
    NoWeights {
        /// The folder.
        dir: PathBuf,
    },
    /// A folder that holds an adapter instead of a model.
    #[error(
        "{} holds only an adapter of {base}: give the folder of that model, or write both as one model in Python: \
         peft.AutoPeftModelForCausalLM.from_pretrained(\"{}\").merge_and_unload().save_pretrained(new_folder)",
        dir.display(),
        dir.display()
    )]
    OnlyAdapter {
        /// The folder.
        dir: PathBuf,
        /// What its configuration calls the model that it belongs to.
        base: String,
    },
    /// A model without a head, by its configuration not one whose head is the embedding table.
    #[error(
        "{} has no tensor lm_head.weight: its files are incomplete, or its head is the embedding table; then write \
         \"tie_word_embeddings\": true into its config.json",
        dir.display()
    )]
    MissingHead {
        /// The folder.
        dir: PathBuf,
    },
    /// The only weights of a folder are in a format that is not read.
    #[error("{} is not a safetensors file; {advice}", file.display())]
    WeightFormat {
        /// The first such file.
        file: PathBuf,
        /// What to do about it.
        advice: &'static str,
    },
    /// Several safetensors files, and no index of them.
    #[error(
        "{} holds {count} *.safetensors files but no model.safetensors.index.json that says which \
         tensor is where; download it too",
        dir.display()
    )]
    ManyWeightFiles {
        /// The folder.
        dir: PathBuf,
        /// How many there are.
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
    /// The index names something that is not a file inside its folder.
    #[error(
        "{} names the shard \"{shard}\", which does not lie inside its folder; \
         download the index again",
        index.display()
    )]
    ShardPath {
        /// The index.
        index: PathBuf,
        /// The file's name in it.
        shard: String,
    },
    /// The index names a file that is not there.
    #[error(
        "{} names the shard {shard}, which is not in its folder; download that file too",
        index.display()
    )]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The file's name in it.
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
        /// The file's name in it.
        shard: String,
        /// The tensor.
        tensor: String,
    },
    /// A file of weights is shorter than its header says.
    #[error(
        "{} is cut off: it should have {promised} bytes and has {found}; download it again",
        file.display()
    )]
    Truncated {
        /// The file.
        file: PathBuf,
        /// The bytes that its beginning asks for.
        promised: u64,
        /// The bytes that it has.
        found: u64,
    },
    /// The header of a file of weights does not fit the file.
    #[error(
        "{} begins with a header of {header} bytes but has only {found} bytes: it is cut off or not a \
         safetensors file; download it again",
        file.display()
    )]
    HeaderPastEnd {
        /// The file.
        file: PathBuf,
        /// The length in its first eight bytes.
        header: u64,
        /// The bytes that the file has.
        found: u64,
    },
    /// The header of a file of weights is longer than the format allows.
    #[error(
        "{} begins with a header of {header} bytes, and {limit} are allowed: it is not a safetensors \
         file; download it again (`git lfs pull`, if it is a pointer of Git LFS)",
        file.display()
    )]
    HeaderTooLarge {
        /// The file.
        file: PathBuf,
        /// The length in its first eight bytes.
        header: u64,
        /// The longest that is read.
        limit: u64,
    },
    /// The header of a file of weights does not parse.
    #[error("the header of {} is damaged: {source}; download the file again", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },
    /// A header lists a tensor twice.
    #[error("{} lists the tensor {tensor} twice; write or download it again", file.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
    },
    /// The size of a tensor cannot be counted.
    #[error(
        "{}: tensor {tensor} of shape {shape:?} has more bytes than can be counted; \
         download the file again",
        file.display()
    )]
    ShapeOverflow {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// The place of a tensor in its file is not as large as the tensor.
    #[error(
        "{}: tensor {tensor} is said to fill bytes {begin}..{end}, which is not the size of {shape:?} \
         in {dtype}; download the file again",
        file.display()
    )]
    TensorBytes {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// The first byte, from the start of the data.
        begin: u64,
        /// The byte after the last.
        end: u64,
        /// Its shape.
        shape: Vec<usize>,
        /// Its element type.
        dtype: String,
    },
    /// Two tensors share bytes of a file.
    #[error(
        "{}: tensor {tensor} begins at byte {begin} of the data, but {before} ends at {before_end}; \
         download the file again",
        file.display()
    )]
    Overlap {
        /// The tensor that begins later.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// Its first byte.
        begin: u64,
        /// The tensor that lies before it.
        before: String,
        /// The end of that one.
        before_end: u64,
    },
    /// Bytes of a file belong to no tensor.
    #[error(
        "{}: bytes {begin}..{end} of the data belong to no tensor; download the file again",
        file.display()
    )]
    Gap {
        /// The file.
        file: PathBuf,
        /// The first such byte, from the start of the data.
        begin: u64,
        /// The byte after the last.
        end: u64,
    },
    /// A GGUF file that does not hold together, or that is not read.
    #[error("{}: {problem}", file.display())]
    Gguf {
        /// The file.
        file: PathBuf,
        /// What is wrong with it, and where.
        problem: String,
    },
    /// A tensor of a GGUF file is of a type that is not read.
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
        /// The types that are read.
        supported: String,
    },
    /// A tensor of a GGUF file that its architecture does not have here.
    #[error(
        "{}: tensor {tensor} is not one of the architecture {architecture} that is computed here; take the safetensors          files of the model, if its family is supported",
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
    /// A tensor that the model needs is not in the checkpoint.
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
    /// A tensor's elements are of a type that is not computed with.
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
    /// A tensor's shape is not the one that config.json leads to.
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
        /// The shape that was asked for.
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
        /// Which value.
        index: usize,
        /// What it is.
        value: f32,
    },
    /// The model does not fit the memory that is free.
    #[error(
        "the model's weights need {} MB in {formats}, and {} MB are free on {device}; \
         quantize them on loading (--quantize q4_k), or use another device or a smaller model",
        bytes / 1_000_000,
        available / 1_000_000
    )]
    WeightMemory {
        /// What the matrices would take.
        bytes: u64,
        /// What there is.
        available: u64,
        /// What they would be computed in.
        formats: String,
        /// The device.
        device: String,
    },
    /// The KV cache does not fit the memory that is free.
    #[error(
        "the KV cache for a batch of {slots} needs {} MB, the buffers beside it {} MB, and {} MB are free; {}",
        bytes / 1_000_000,
        buffers / 1_000_000,
        available / 1_000_000,
        smaller_batch(*fit)
    )]
    CacheMemory {
        /// What it would take.
        bytes: u64,
        /// What the buffers of a pass take at least.
        buffers: u64,
        /// What there is.
        available: u64,
        /// The slots that were asked for.
        slots: usize,
        /// The slots that would fit.
        fit: usize,
    },
    /// More sequences than the cache has slots.
    #[error("all {slots} slots of the KV cache are taken; release one first")]
    NoFreeSlot {
        /// The slots that there are.
        slots: usize,
    },
    /// A sequence is longer than the model's context.
    #[error(
        "{positions} positions are needed (prompt and new tokens), and the model has \
         max_position_embeddings {max}; shorten the prompt or ask for fewer new tokens"
    )]
    ContextLength {
        /// The positions that are needed.
        positions: usize,
        /// The positions that there are.
        max: usize,
    },
    /// A prompt of no tokens.
    #[error("the prompt is empty: give it at least one token")]
    EmptyPrompt,
    /// A range of layers that the model does not have.
    #[error("layers {start}..{end} are asked for, and the model has 0..{n_layers}")]
    LayerRange {
        /// The first layer.
        start: usize,
        /// The layer after the last.
        end: usize,
        /// The layers that there are.
        n_layers: usize,
    },
    /// A batch is larger than the workspace.
    #[error("a pass of {rows} rows is asked for, and the workspace holds {max}")]
    TooManyRows {
        /// The rows of the batch.
        rows: usize,
        /// The rows that fit.
        max: usize,
    },
    /// A sequence is longer than its session was made for.
    #[error(
        "a sequence would come to {positions} positions, and the session was made for {max}; \
         make SessionSize::positions larger"
    )]
    SessionPositions {
        /// The positions that are needed.
        positions: usize,
        /// The positions that there are.
        max: usize,
    },
    /// A slot or prefix that is not open.
    #[error("{slot:?} is not open in this session")]
    NotOpen {
        /// The slot.
        slot: selfie_kernels::Slot,
    },
    /// Something that only a prefix can do.
    #[error("{slot:?} is a slot, and a prefix is needed here")]
    NotAPrefix {
        /// The slot.
        slot: selfie_kernels::Slot,
    },
    /// Something that only a slot can do.
    #[error("{slot:?} is a prefix, and a slot is needed here")]
    NotASlot {
        /// The prefix.
        slot: selfie_kernels::Slot,
    },
    /// All prefixes of a session are open.
    #[error(
        "all {prefixes} prefixes of the session are open; close one, or name more in SessionSize::prefixes"
    )]
    NoFreePrefix {
        /// The prefixes that there are.
        prefixes: usize,
    },
    /// More positions than a sequence has come to.
    #[error("{positions} positions of a sequence are named, and it has come to {there}")]
    PrefixLength {
        /// The positions that were named.
        positions: usize,
        /// The positions that there are.
        there: usize,
    },
    /// More tokens to score than rows to score them.
    #[error("{tokens} tokens are to be scored by {rows} rows: each token takes the row before it")]
    ScoreRows {
        /// The tokens.
        tokens: usize,
        /// The rows.
        rows: usize,
    },
    /// A model that a session was not made for.
    #[error("the session was made for a model of another shape or dtype; make a new session")]
    OtherModel,
    /// A prompt that was not given.
    #[error("prompt {prompt} is named, and there are {prompts}")]
    NoPrompt {
        /// The prompt's index.
        prompt: usize,
        /// How many there are.
        prompts: usize,
    },
    /// A logit that is NaN or infinite.
    #[error(
        "the logits after position {position} are not finite numbers: an activation has overflowed; \
         compute in f32 (--dtype f32), or write with a smaller strength"
    )]
    LogitNotFinite {
        /// The position of the row.
        position: usize,
    },
    /// A pass starts in the middle of the model from a residual stream of another size.
    #[error("a pass of {rows} rows cannot start from a residual stream of {there} rows")]
    ResidualRows {
        /// The rows of the batch.
        rows: usize,
        /// The rows in the workspace.
        there: usize,
    },
    /// A row was asked for that no batch contained.
    #[error("{site:?} at position {position} was not captured: no pass contained it")]
    NotCaptured {
        /// The site.
        site: crate::Site,
        /// The position in the sequence.
        position: u32,
    },
    /// An MLP that is to replace a layer's is not made of the tensors that the layer has.
    #[error(
        "the layer's MLP has {expected} here, not {}",
        found.as_deref().unwrap_or("the end of the list")
    )]
    MlpTensor {
        /// The tensor that was given, with its type and shape.
        found: Option<String>,
        /// The tensor that belongs there.
        expected: String,
    },
    /// A weight that was edited cannot be stored.
    #[error("edited weight {tensor}: {source}; try a smaller learning rate")]
    EditedWeight {
        /// The tensor.
        tensor: String,
        /// The value and where it is.
        source: KernelError,
    },
    /// Writes that met no row.
    #[error("{named} writes at layers {layers:?} are named, and {reached} met a row of the pass")]
    WriteMissed {
        /// The layers.
        layers: Vec<usize>,
        /// The writes that were named.
        named: usize,
        /// The writes that met their row.
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
    /// A folder without a tokenizer.
    #[error("{} holds no tokenizer.json; {advice}", dir.display())]
    NoTokenizer {
        /// The folder.
        dir: PathBuf,
        /// What to do about it.
        advice: String,
    },
    /// Nothing says which class of transformers a tokenizer is of.
    #[error(
        "{} says no tokenizer_class, and has no config.json whose model_type tells it; if tokenizer.json is complete \
         by itself, write \"tokenizer_class\": \"PreTrainedTokenizerFast\" into tokenizer_config.json",
        dir.display()
    )]
    NoTokenizerClass {
        /// The folder.
        dir: PathBuf,
    },
    /// A text is to begin with bos, and the tokenizer has none.
    #[error("the tokenizer {} has no bos_token to begin a text with", path.display())]
    NoBos {
        /// Its file.
        path: PathBuf,
    },
    /// A text asks CodeLlama to fill something in, which is not done.
    #[error(
        "the text holds {mark}, which asks CodeLlama to fill in a text: that is not supported; leave it out"
    )]
    Infilling {
        /// The mark.
        mark: String,
    },
    /// A folder of the hub's cache does not tell which of its snapshots is meant.
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
        /// What its `refs/main` says.
        main: Option<String>,
        /// Its snapshots.
        found: Vec<PathBuf>,
    },
    /// A model that is neither a path nor in the hub's cache.
    #[error(
        "there is no folder {name}, and the Hugging Face cache ({}) does not have that model; download it: `{command}`",
        cache.display()
    )]
    NotInCache {
        /// `org/name`.
        name: String,
        /// The cache.
        cache: PathBuf,
        /// What downloads it.
        command: String,
    },
    /// A tokenizer does not parse, or failed on a text.
    #[error("the tokenizer {} fails: {source}; download it again", path.display())]
    Tokenizer {
        /// Its file.
        path: PathBuf,
        /// The reason, from the `tokenizers` crate.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A model without a chat template.
    #[error(
        "{} has no chat template (looked for {}): write the prompt out as the model was trained on it",
        path.display(), crate::ChatTemplate::PLACES
    )]
    NoChatTemplate {
        /// The model's folder or file.
        path: PathBuf,
    },
    /// A chat template that does not parse, or that refuses the messages.
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
        /// What is wrong, in the template's or in Jinja's words.
        reason: String,
    },
    /// A last message that is to go on, and that the template does not write.
    #[error(
        "the chat template in {} leaves out the last message, which is to go on; end with a message of the user",
        path.display()
    )]
    ChatNotContinued {
        /// The file that holds it.
        path: PathBuf,
    },
    /// Messages that are not JSON, or no messages.
    #[error(
        "the messages are not a JSON list such as [{{\"role\": \"user\", \"content\": \"Hello!\"}}]: {source}"
    )]
    ChatMessages {
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },
    /// A chat without messages.
    #[error("the chat has no message: give one of the user at least")]
    NoMessages,
    /// An adapter's tensor that belongs to no matrix of a language model.
    #[error(
        "the adapter {} has {tensor}: only low-rank pairs of a layer's q, k, v, o, gate, up and down projections and of lm_head can be \
         read",
        dir.display()
    )]
    LoraTensor {
        /// The adapter's folder.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// An adapter without a tensor that a text comes by.
    #[error("the adapter {} has no low-rank pair of a language model's layers", dir.display())]
    LoraEmpty {
        /// The adapter's folder.
        dir: PathBuf,
    },
    /// An adapter of a module that the model does not have.
    #[error(
        "the adapter {} is for {module}, which the model does not have; it has {n_layers} layers",
        dir.display()
    )]
    LoraModule {
        /// The adapter's folder.
        dir: PathBuf,
        /// The module.
        module: String,
        /// The model's layers.
        n_layers: usize,
    },
    /// An adapter of a matrix of another shape.
    #[error(
        "the adapter {} is for a {module} of {} x {}, and the model's is {} x {}: it belongs to another model",
        dir.display(), found[0], found[1], model[0], model[1]
    )]
    LoraShape {
        /// The adapter's folder.
        dir: PathBuf,
        /// The module.
        module: String,
        /// What it is for: `[out, in]`.
        found: [usize; 2],
        /// The model's.
        model: [usize; 2],
    },
    /// An adapter's pair of another rank than its configuration says.
    #[error("{}: the rank of {module} is {said} there, and {found} in the weights", path.display())]
    LoraRank {
        /// The configuration.
        path: PathBuf,
        /// The module.
        module: String,
        /// What it says.
        said: usize,
        /// What the tensors have.
        found: usize,
    },
    /// An adapter that a model does not have, or one of the head for some rows only.
    #[error(
        "a slot is to have {}, and the model has {adapters} adapters{}",
        adapter.map_or_else(|| "no adapter".to_owned(), |n| format!("adapter {n}")),
        if *head { ", one of them of the head, which is for all rows" } else { "" }
    )]
    LoraChoice {
        /// What was asked for.
        adapter: Option<usize>,
        /// How many there are.
        adapters: usize,
        /// Whether one is of the head.
        head: bool,
    },
    /// A value of the sampling is out of its range.
    #[error("{field} is {value}; expected {expected}")]
    SamplingValue {
        /// Which of them.
        field: &'static str,
        /// What it is.
        value: f32,
        /// What it may be.
        expected: &'static str,
    },
    /// An op failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// A result of this crate.
pub type Result<T, E = LlamaError> = std::result::Result<T, E>;

/// What a run that does not fit can do.
fn smaller_batch(fit: usize) -> String {
    if fit > 0 {
        return format!("a batch size of {fit} would fit (--batch-size)");
    }
    "not even one text fits: shorter texts (--max-new-tokens), quantized weights (--quantize q4_k) or a smaller model take less"
        .to_owned()
}

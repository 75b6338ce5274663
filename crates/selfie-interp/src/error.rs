//! The one error type of this crate.

use std::path::PathBuf;

use selfie_kernels::KernelError;
use selfie_llama::LlamaError;

use crate::{Control, InterpretationPrompt};

/// Everything that can go wrong in an interpretation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterpError {
    /// A template that does not exist.
    #[error(
        "there is no template \"{name}\"; there are: {}",
        InterpretationPrompt::TEMPLATES.join(", ")
    )]
    UnknownTemplate {
        /// The name that was given.
        name: String,
    },
    /// An interpretation prompt that is not JSON.
    #[error(
        "the interpretation prompt is not a JSON list such as [\"[INST]\",0,0,\"[/INST]\"]: {source}"
    )]
    PromptJson {
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },
    /// A part of an interpretation prompt that is neither text nor placeholder.
    #[error(
        "part {index} of the interpretation prompt is {found}; expected a string, or 0 for a placeholder"
    )]
    PromptPart {
        /// Its index in the list.
        index: usize,
        /// What it is.
        found: String,
    },
    /// An interpretation prompt without a place for the embedding.
    #[error(
        "the interpretation prompt has no placeholder: put a 0 where the embedding is to be written"
    )]
    NoPlaceholder,
    /// A placeholder that the tokenizer merges into what stands before it.
    #[error(
        "placeholder {index} of the interpretation prompt adds no token of its own; put text before it"
    )]
    PlaceholderWithoutToken {
        /// The index of the part.
        index: usize,
    },
    /// A placeholder that the tokenizer merges into what stands after it.
    #[error(
        "a placeholder is at position {position}, but the whole interpretation prompt has {tokens} tokens: \
         change the text after it"
    )]
    PlaceholderOutside {
        /// Its position in the text up to it.
        position: usize,
        /// The tokens of the whole text.
        tokens: usize,
    },
    /// A placeholder that a chat template leaves out, or writes more than once.
    #[error(
        "placeholder {index} of the interpretation prompt is {times} times in what the chat template makes of it, \
         expected once: {text:?}"
    )]
    PlaceholderLost {
        /// Which placeholder.
        index: usize,
        /// How often it is there.
        times: usize,
        /// The text, with `"_ "` for each placeholder.
        text: String,
    },
    /// A placeholder in what a chat template wrote that shares a token with the text beside it.
    #[error("the interpretation prompt: {note}; its pieces: {:?}", pieces.join("|"))]
    PlaceholderMerged {
        /// Which, and how.
        note: String,
        /// All its pieces, as the vocabulary writes them.
        pieces: Vec<String>,
    },
    /// Messages of an interpretation prompt that cannot be read.
    #[error(
        "message {index} of the interpretation prompt is {found}; expected {{\"role\": \"user\", \"content\": [\"Explain: \", 0]}}"
    )]
    PromptMessage {
        /// Its index in the list.
        index: usize,
        /// What it is.
        found: String,
    },
    /// A prompt without text.
    #[error("prompt {index} is empty: there is nothing to interpret")]
    EmptyPrompt {
        /// Which prompt.
        index: usize,
    },
    /// A cell that names a prompt that was not given.
    #[error("a cell names prompt {prompt}, and there are {prompts}")]
    PromptRange {
        /// The prompt's index.
        prompt: usize,
        /// How many there are.
        prompts: usize,
    },
    /// A layer that the model does not have.
    #[error("layer {layer} is out of range: hidden states are numbered 0..={n_layers}")]
    LayerRange {
        /// The layer.
        layer: usize,
        /// The model's layers.
        n_layers: usize,
    },
    /// A token that the prompt does not have.
    #[error("token {token} is out of range: the prompt \"{prompt}\" has tokens 0..{tokens}")]
    TokenRange {
        /// The token's index.
        token: usize,
        /// The prompt.
        prompt: String,
        /// How many tokens it has.
        tokens: usize,
    },
    /// A layer that nothing can be injected at.
    #[error("inject layer {layer} is out of range: the model has layers 0..{n_layers}")]
    InjectLayer {
        /// The layer.
        layer: usize,
        /// The model's layers.
        n_layers: usize,
    },
    /// A strength that is NaN or infinite.
    #[error("strength {strength} is not a finite number")]
    Strength {
        /// The strength.
        strength: f32,
    },
    /// A control that does not exist.
    #[error(
        "there is no control \"{name}\"; there are: {}",
        Control::ALL.map(Control::name).join(", ")
    )]
    UnknownControl {
        /// The name that was given.
        name: String,
    },
    /// A control that is asked for twice.
    #[error("the control \"{control}\" is named twice")]
    ControlTwice {
        /// The control.
        control: Control,
    },
    /// Shuffling without another embedding to take.
    #[error(
        "the control \"shuffled\" needs a second, different embedding to put in the place of the first: \
         name more cells, or leave it out"
    )]
    NothingToShuffle,
    /// Options that ask for nothing.
    #[error("{what} must be at least 1")]
    Zero {
        /// What is 0.
        what: &'static str,
    },
    /// A file of vectors that cannot be read.
    #[error("cannot read vectors from {}: {source}", path.display())]
    ReadVectors {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file of vectors that is not safetensors.
    #[error("{} is not a safetensors file: {source}", path.display())]
    VectorFile {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: safetensors::SafeTensorError,
    },
    /// A file without the tensor that was asked for.
    #[error("{} has no tensor \"{name}\"; it has: {}", path.display(), found.join(", "))]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The tensors that it has.
        found: Vec<String>,
    },
    /// A tensor that holds no vectors of the model.
    #[error(
        "{}: tensor \"{name}\" is {dtype} {shape:?}, expected F32, F16 or BF16 [..., {width}]; \
         name the right one with --tensor",
        path.display()
    )]
    VectorTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The width of the residual stream.
        width: usize,
    },
    /// A vector of another width than the residual stream.
    #[error("vector {index} has {found} values, and the residual stream has {width}")]
    VectorWidth {
        /// Which vector.
        index: usize,
        /// Its length.
        found: usize,
        /// The width of the residual stream.
        width: usize,
    },
    /// A vector with a value that is NaN or infinite.
    #[error("vector {index} ({name}) holds {value} at {at}: not a finite number")]
    VectorNotFinite {
        /// Which vector.
        index: usize,
        /// Where it comes from.
        name: String,
        /// Which of its values.
        at: usize,
        /// The value.
        value: f32,
    },
    /// A reader whose residual stream is not as wide as the embeddings.
    #[error(
        "the embeddings have {subject} values, and the reader's residual stream has {reader}: \
         the two models have to be equally wide (d_model), or need a map between them (--map)"
    )]
    ReaderWidth {
        /// The width of the embeddings.
        subject: usize,
        /// The reader's.
        reader: usize,
    },
    /// A token that was to be the placeholder, and is not in the interpretation prompt.
    #[error(
        "the interpretation prompt has no \"{marker}\", and no other placeholder that it could be: {text:?}"
    )]
    MarkerMissing {
        /// The token's text.
        marker: String,
        /// The prompt's text.
        text: String,
    },
    /// A placeholder of the vocabulary that is not one token where it stands.
    #[error(
        "the placeholder {marker:?} has to be one token of the reader's vocabulary; in the interpretation prompt it is \
         {:?}",
        pieces.join("|")
    )]
    MarkerTokens {
        /// The token's text.
        marker: String,
        /// What the tokenizer makes of it, as the vocabulary writes it.
        pieces: Vec<String>,
    },
    /// A file of a released reader that says something unknown, or that does not fit what lies beside it.
    #[error("{}: {problem}", path.display())]
    ReaderFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A kind of reader that does not exist.
    #[error(
        "there is no kind of reader \"{name}\"; there are: {}",
        crate::ReaderKind::ALL.map(|(name, _)| name).join(", ")
    )]
    ReaderKind {
        /// The name that was given.
        name: String,
    },
    /// A question that a reader needs, or does not take.
    #[error(
        "{reader}: {}",
        if *takes { "give it a question (--question TEXT)" } else { "it takes no question" }
    )]
    ReaderQuestion {
        /// What it is.
        reader: &'static str,
        /// Whether it takes one.
        takes: bool,
    },
    /// A question that holds what stands for the vectors.
    #[error("the question {question:?} holds the placeholder {marker:?}: ask without it")]
    QuestionHoldsMarker {
        /// The placeholder.
        marker: String,
        /// The question.
        question: String,
    },
    /// A layer that a reader has no name for.
    #[error(
        "{reader} cannot read hidden_states[{layer}]: it knows the outputs of layers, which begin at hidden_states[1]"
    )]
    ReaderLayer {
        /// What it is.
        reader: &'static str,
        /// The layer.
        layer: usize,
    },
    /// A reconstructor that is to read embeddings.
    #[error("a reconstructor reads texts, and no embeddings: selfie score uses it")]
    ReadsTexts,
    /// A map's file that cannot be read.
    #[error("cannot read the map {}: {source}", path.display())]
    ReadMap {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file of a map that says something unknown, or that lacks something.
    #[error("the map {}: {problem}", path.display())]
    MapFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A map between other widths than those of the models.
    #[error(
        "the map {map} takes vectors of {from} values and gives {to}; the embeddings have {subject} values, and the \
         reader's residual stream has {reader} (d_model)"
    )]
    MapWidth {
        /// The map.
        map: String,
        /// The width that it takes.
        from: usize,
        /// The width that it gives.
        to: usize,
        /// The width of the embeddings.
        subject: usize,
        /// The reader's.
        reader: usize,
    },
    /// A map without an entry for some layers.
    #[error(
        "the map {map} has nothing from {} to layer {target} of the reader; it has {}",
        source_layer.map_or_else(|| "vectors without a layer".to_owned(), |l| format!("hidden_states[{l}]")),
        there.join(", ")
    )]
    MapLayers {
        /// The map.
        map: String,
        /// The layer that the embeddings come from.
        source_layer: Option<usize>,
        /// The layer that they are to be written at.
        target: usize,
        /// The pairs that it has.
        there: Vec<String>,
    },
    /// An interpretation prompt without a placeholder for each token of a cell.
    #[error(
        "a cell is {span} tokens, and the interpretation prompt has {placeholders} placeholders of {rows} tokens: each \
         token of a cell needs one placeholder of one token"
    )]
    Span {
        /// The tokens of a cell.
        span: usize,
        /// The placeholders.
        placeholders: usize,
        /// The tokens that they take.
        rows: usize,
    },
    /// A cell that would begin before its prompt.
    #[error("a cell of {span} tokens cannot end at token {token} of the prompt \"{prompt}\"")]
    SpanRange {
        /// The tokens of a cell.
        span: usize,
        /// Its last token.
        token: usize,
        /// The prompt.
        prompt: String,
    },
    /// Vectors from elsewhere for cells of several tokens.
    #[error("a vector from a file stands alone, and cannot be one of a cell's {span} tokens")]
    VectorSpan {
        /// The tokens of a cell.
        span: usize,
    },
    /// Samples that would all be the same.
    #[error(
        "{samples} samples of a text that is not drawn would all be the same: give a temperature above 0"
    )]
    GreedySamples {
        /// How many.
        samples: usize,
    },
    /// Too little to fit a map with.
    #[error("a map cannot be fitted: {problem}")]
    Fit {
        /// Why.
        problem: String,
    },
    /// A job that the reader was not made for.
    #[error(
        "{what}: {found}, and the reader has room for {room}; make it with a larger ReaderSize"
    )]
    ReaderRoom {
        /// What there are too many of.
        what: &'static str,
        /// How many.
        found: usize,
        /// How many there may be.
        room: usize,
    },
    /// A text that is no key of a cell.
    #[error("\"{text}\" is no key of a cell: expected 16 hexadecimal digits, as rows have them")]
    Key {
        /// The text.
        text: String,
    },
    /// Cells whose activations have overflowed; all others have their rows.
    #[error(
        "{failed} of {rows} rows are missing, as activations have overflowed (the first: {first}); \
         compute in f32, or write with a smaller strength"
    )]
    NotFinite {
        /// The first of them.
        first: String,
        /// How many there are.
        failed: usize,
        /// How many rows were asked for.
        rows: usize,
    },
    /// The interpretation prompt itself overflows.
    #[error(
        "the interpretation prompt overflows the model's activations, with nothing written into it; compute in f32"
    )]
    CleanNotFinite,
    /// An interpretation prompt that is to be forgotten while texts of it are written.
    #[error("the interpretation prompt is in use: cancel its jobs, or wait for them")]
    PromptInUse,
    /// The reader lost a text: a fault of this crate.
    #[error("a text was not answered for: this is a bug of selfie-interp, please report it")]
    Unanswered,
    /// The model failed.
    #[error(transparent)]
    Llama(#[from] LlamaError),
    /// A device failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// A result of this crate.
pub type Result<T, E = InterpError> = std::result::Result<T, E>;

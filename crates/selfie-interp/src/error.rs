//! The error type of this crate.

use std::path::PathBuf;

use selfie_kernels::KernelError;
use selfie_llama::LlamaError;

use crate::{Control, InterpretationPrompt};

/// Everything that can go wrong in an interpretation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterpError {
    /// An unknown template.
    #[error(
        "unknown template \"{name}\"; expected one of: {}",
        InterpretationPrompt::TEMPLATES.join(", ")
    )]
    UnknownTemplate {
        /// The requested name.
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
        /// The JSON found there.
        found: String,
    },
    /// An interpretation prompt without a placeholder.
    #[error("the interpretation prompt has no placeholder: put a 0 where the embedding goes")]
    NoPlaceholder,
    /// A placeholder that the tokenizer merges into the text before it.
    #[error(
        "placeholder {index} of the interpretation prompt adds no token of its own; put text before it"
    )]
    PlaceholderWithoutToken {
        /// The index of the part.
        index: usize,
    },
    /// A placeholder that the tokenizer merges into the text after it.
    #[error(
        "a placeholder is at position {position}, but the whole interpretation prompt has {tokens} tokens: \
         change the text after it"
    )]
    PlaceholderOutside {
        /// Its position in the text up to it.
        position: usize,
        /// The number of tokens of the whole text.
        tokens: usize,
    },
    /// A placeholder that a chat template drops or repeats.
    #[error(
        "the chat template writes placeholder {index} of the interpretation prompt {times} times; \
         expected once: {text:?}"
    )]
    PlaceholderLost {
        /// The index of the placeholder.
        index: usize,
        /// How often it occurs.
        times: usize,
        /// The text, with `"_ "` for each placeholder.
        text: String,
    },
    /// A placeholder in a chat template's output that shares a token with the text beside it.
    #[error("interpretation prompt: {note}; its pieces: {:?}", pieces.join("|"))]
    PlaceholderMerged {
        /// Which placeholder, and how.
        note: String,
        /// All pieces of the prompt, as the vocabulary writes them.
        pieces: Vec<String>,
    },
    /// An unreadable message of an interpretation prompt.
    #[error(
        "message {index} of the interpretation prompt is {found}; expected an object such as \
         {{\"role\": \"user\", \"content\": [\"Explain: \", 0]}}"
    )]
    PromptMessage {
        /// Its index in the list.
        index: usize,
        /// The JSON found there.
        found: String,
    },
    /// An empty prompt.
    #[error("prompt {index} is empty; give it some text")]
    EmptyPrompt {
        /// The index of the prompt.
        index: usize,
    },
    /// A cell of a prompt that does not exist.
    #[error("a cell names prompt {prompt}, which is out of range 0..{prompts}")]
    PromptRange {
        /// The prompt's index.
        prompt: usize,
        /// The number of prompts.
        prompts: usize,
    },
    /// The model has no such layer.
    #[error("layer {layer} is out of range: hidden_states has layers 0..={n_layers}")]
    LayerRange {
        /// The layer.
        layer: usize,
        /// The model's layers.
        n_layers: usize,
    },
    /// The prompt has no such token.
    #[error("token {token} is out of range: the prompt \"{prompt}\" has tokens 0..{tokens}")]
    TokenRange {
        /// The token's index.
        token: usize,
        /// The prompt.
        prompt: String,
        /// How many tokens it has.
        tokens: usize,
    },
    /// No such layer to inject at.
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
    /// An unknown control.
    #[error(
        "unknown control \"{name}\"; expected one of: {}",
        Control::ALL.map(Control::name).join(", ")
    )]
    UnknownControl {
        /// The requested name.
        name: String,
    },
    /// A repeated control.
    #[error("the control \"{control}\" is given twice; give it once")]
    ControlTwice {
        /// The control.
        control: Control,
    },
    /// A shuffled control without a second embedding.
    #[error(
        "the control \"shuffled\" replaces an embedding with another one, but there is only one: \
         give more cells, or leave the control out"
    )]
    NothingToShuffle,
    /// An option that must not be 0.
    #[error("{what} must be at least 1")]
    Zero {
        /// The option.
        what: &'static str,
    },
    /// An unreadable file of vectors.
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
    /// A missing tensor.
    #[error("{} has no tensor \"{name}\"; it has: {}", path.display(), found.join(", "))]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// The requested tensor.
        name: String,
        /// The tensors in the file.
        found: Vec<String>,
    },
    /// A tensor that does not hold vectors of this model.
    #[error(
        "{}: tensor \"{name}\" is {dtype} {shape:?}; expected F32, F16 or BF16 [..., {width}]; \
         choose another tensor with --tensor",
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
    /// A vector with the wrong width.
    #[error(
        "vector {index} has {found} values; expected {width}, the width of the residual stream"
    )]
    VectorWidth {
        /// Which vector.
        index: usize,
        /// Its length.
        found: usize,
        /// The width of the residual stream.
        width: usize,
    },
    /// A vector with a NaN or infinite value.
    #[error("vector {index} ({name}) has {value} at index {at}; expected finite numbers")]
    VectorNotFinite {
        /// Which vector.
        index: usize,
        /// Where it comes from.
        name: String,
        /// The index of the value.
        at: usize,
        /// The value.
        value: f32,
    },
    /// A reader with another width than the embeddings.
    #[error(
        "the embeddings have {subject} values, but the reader's residual stream has {reader}: \
         the two models need the same d_model, or a map from one to the other (--map)"
    )]
    ReaderWidth {
        /// The width of the embeddings.
        subject: usize,
        /// The reader's.
        reader: usize,
    },
    /// A placeholder token that the interpretation prompt lacks.
    #[error("the interpretation prompt has neither \"{marker}\" nor another placeholder: {text:?}")]
    MarkerMissing {
        /// The token's text.
        marker: String,
        /// The prompt's text.
        text: String,
    },
    /// A placeholder token that is not a single token in the prompt.
    #[error(
        "the placeholder {marker:?} must be a single token of the reader's vocabulary; in the interpretation prompt \
         it is {:?}",
        pieces.join("|")
    )]
    MarkerTokens {
        /// The token's text.
        marker: String,
        /// The tokens it becomes, as the vocabulary writes them.
        pieces: Vec<String>,
    },
    /// A file of a released reader with an unknown setting, or one that does not match the files beside it.
    #[error("{}: {problem}", path.display())]
    ReaderFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An unknown kind of reader.
    #[error(
        "unknown kind of reader \"{name}\"; expected one of: {}",
        crate::ReaderKind::ALL.map(|(name, _)| name).join(", ")
    )]
    ReaderKind {
        /// The requested name.
        name: String,
    },
    /// A missing question, or one that the reader does not take.
    #[error(
        "{reader}: {}",
        if *takes { "give it a question (--question TEXT)" } else { "it takes no question; leave --question out" }
    )]
    ReaderQuestion {
        /// The reader.
        reader: &'static str,
        /// Whether it takes a question.
        takes: bool,
    },
    /// A question that contains the placeholder.
    #[error("the question {question:?} contains the placeholder {marker:?}; ask without it")]
    QuestionHoldsMarker {
        /// The placeholder.
        marker: String,
        /// The question.
        question: String,
    },
    /// A layer that a reader cannot name.
    #[error(
        "{reader} cannot read hidden_states[{layer}]: it reads outputs of layers, which start at hidden_states[1]"
    )]
    ReaderLayer {
        /// The reader.
        reader: &'static str,
        /// The layer.
        layer: usize,
    },
    /// A number of layers that a reader cannot read together.
    #[error(
        "{reader}: it cannot read hidden_states{layers:?} together, {} at once; it was trained to read {} at once",
        layers.len(), trained.iter().map(usize::to_string).collect::<Vec<_>>().join(" or ")
    )]
    ReaderLayers {
        /// The reader.
        reader: &'static str,
        /// The layers to read together.
        layers: Vec<usize>,
        /// The numbers of layers that it was trained to read together.
        trained: Vec<usize>,
    },
    /// A reconstructor used as a reader of embeddings.
    #[error("a reconstructor reads texts, not embeddings; use it with selfie score")]
    ReadsTexts,
    /// An unreadable map.
    #[error("cannot read the map {}: {source}", path.display())]
    ReadMap {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A map with an unknown setting or a missing part.
    #[error("the map {}: {problem}", path.display())]
    MapFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A map between widths other than those of the models.
    #[error(
        "the map {map} maps {from} values to {to}, but the embeddings have {subject} values and the \
         reader's residual stream has {reader} (d_model)"
    )]
    MapWidth {
        /// The map.
        map: String,
        /// The width of its inputs.
        from: usize,
        /// The width of its outputs.
        to: usize,
        /// The width of the embeddings.
        subject: usize,
        /// The width of the reader's residual stream.
        reader: usize,
    },
    /// A map without an entry for these layers.
    #[error(
        "the map {map} does not lead from {} to layer {target} of the reader; it has {}",
        source_layer.map_or_else(|| "vectors without a layer".to_owned(), |l| format!("hidden_states[{l}]")),
        there.join(", ")
    )]
    MapLayers {
        /// The map.
        map: String,
        /// The layer of the embeddings.
        source_layer: Option<usize>,
        /// The layer to inject at.
        target: usize,
        /// The pairs of layers in the map.
        there: Vec<String>,
    },
    /// An interpretation prompt without one placeholder per embedding of a cell.
    #[error(
        "a cell has {vectors} embeddings, but the interpretation prompt has {placeholders} placeholders of {rows} \
         tokens in all: each embedding of a cell needs a placeholder of one token"
    )]
    Span {
        /// The number of embeddings of a cell: its tokens, at each of its layers.
        vectors: usize,
        /// The number of placeholders.
        placeholders: usize,
        /// The number of tokens of all placeholders.
        rows: usize,
    },
    /// A cell that would begin before its prompt.
    #[error("a cell of {span} tokens cannot end at token {token} of the prompt \"{prompt}\"")]
    SpanRange {
        /// The number of tokens in a cell.
        span: usize,
        /// Its last token.
        token: usize,
        /// The prompt.
        prompt: String,
    },
    /// A cell of several layers that is not named after the last of them.
    #[error(
        "a cell read at the layers {layers:?} together has the last of them as its own, not {layer}"
    )]
    CellLayers {
        /// The cell's own layer.
        layer: usize,
        /// The layers to read together.
        layers: Vec<usize>,
    },
    /// Given vectors, but cells of several embeddings.
    #[error("vectors from a file are read one by one, not {vectors} together; leave --span out")]
    VectorSpan {
        /// The number of embeddings of a cell.
        vectors: usize,
    },
    /// Several samples of greedy decoding.
    #[error(
        "{samples} samples of greedy decoding would all be the same; give a temperature above 0"
    )]
    GreedySamples {
        /// The number of samples.
        samples: usize,
    },
    /// Too little data to fit a map.
    #[error("cannot fit a map: {problem}")]
    Fit {
        /// The reason.
        problem: String,
    },
    /// A job that exceeds the reader's size.
    #[error("{what}: {found}, but the reader has room for {room}; give it a larger ReaderSize")]
    ReaderRoom {
        /// What exceeds it.
        what: &'static str,
        /// The number found.
        found: usize,
        /// The number there is room for.
        room: usize,
    },
    /// A malformed key.
    #[error("\"{text}\" is not the key of a cell; expected 16 hexadecimal digits, as in rows")]
    Key {
        /// The text.
        text: String,
    },
    /// Cells whose activations overflowed. All other cells have their rows.
    #[error(
        "{failed} of {rows} rows are missing because activations overflowed (the first: {first}); \
         compute in f32, or inject with a smaller strength"
    )]
    NotFinite {
        /// The first such cell.
        first: String,
        /// The number of missing rows.
        failed: usize,
        /// The number of requested rows.
        rows: usize,
    },
    /// The interpretation prompt itself overflows.
    #[error(
        "the interpretation prompt overflows the model's activations even without an injection; compute in f32"
    )]
    CleanNotFinite,
    /// An interpretation prompt that cannot be removed because jobs use it.
    #[error("the interpretation prompt is in use: cancel its jobs, or wait for them")]
    PromptInUse,
    /// The reader lost a text: a bug in this crate.
    #[error("the reader lost a text: this is a bug in selfie-interp, please report it")]
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

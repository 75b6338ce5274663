//! The tokenizer classes of transformers, and what each adds to the files' settings.

use super::files::Files;
use super::settings::truthy;
use super::token::Added;
use crate::json::Fields;
use crate::{LlamaError, Result};

/// A class, slow or fast: a folder that names the slow class gets the fast one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    PreTrained,
    Llama,
    CodeLlama,
    Gemma,
    GptNeoX,
    Gpt2,
    Qwen2,
}

/// The files that a class is built from without a `tokenizer.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sources {
    Nothing,
    /// SentencePiece's `tokenizer.model`.
    SentencePiece,
    /// `vocab.json` and `merges.txt`.
    VocabAndMerges,
}

/// Default special tokens of a class, for files that name none. `None` means that the class has no such field.
pub(super) struct Defaults {
    pub(super) bos: Option<&'static str>,
    pub(super) eos: Option<&'static str>,
    pub(super) unk: Option<&'static str>,
    pub(super) pad: Option<&'static str>,
}

/// The class for a `model_type`, if there is no `tokenizer_class`, from `TOKENIZER_MAPPING_NAMES` of transformers 4.57.
const OF_MODELS: [(&str, Class); 19] = [
    ("llama", Class::Llama),
    ("mistral", Class::Llama),
    ("mixtral", Class::Llama),
    ("phi3", Class::Llama),
    ("arcee", Class::Llama),
    ("deepseek_v3", Class::Llama),
    ("code_llama", Class::CodeLlama),
    ("qwen2", Class::Qwen2),
    ("qwen3", Class::Qwen2),
    ("gemma", Class::Gemma),
    ("gemma2", Class::Gemma),
    ("gemma3", Class::Gemma),
    ("gemma3_text", Class::Gemma),
    ("olmo", Class::GptNeoX),
    ("olmo2", Class::GptNeoX),
    ("stablelm", Class::GptNeoX),
    ("olmo3", Class::Gpt2),
    ("starcoder2", Class::Gpt2),
    ("smollm3", Class::PreTrained),
];

impl Class {
    const ALL: [Class; 7] = [
        Class::Llama,
        Class::CodeLlama,
        Class::Gemma,
        Class::GptNeoX,
        Class::Gpt2,
        Class::Qwen2,
        Class::PreTrained,
    ];

    /// The class that `tokenizer_config.json` names, otherwise `config.json`, otherwise the class for its `model_type`.
    pub(super) fn find(files: &Files, config: &Fields) -> Result<Self> {
        if let Some(class) = Self::named_by(config)? {
            return Ok(class);
        }
        let path = files.path("config.json");
        let Some(object) = files.object("config.json")? else {
            return Err(LlamaError::NoTokenizerClass {
                dir: files.dir().to_owned(),
            });
        };
        let model = Fields::new(&path, &object);
        if let Some(class) = Self::named_by(&model)? {
            return Ok(class);
        }
        let Some(model_type) = model.text("model_type")? else {
            return Err(model.missing("model_type"));
        };
        let found = OF_MODELS.iter().find(|(name, _)| *name == model_type);
        found.map(|(_, class)| *class).ok_or_else(|| {
            let known = OF_MODELS.map(|(name, _)| name).join(", ");
            model.refuse(
                "model_type",
                format!(
                    "tokenizers are known for {known}: \
                     write the right tokenizer_class into tokenizer_config.json"
                ),
            )
        })
    }

    fn named_by(fields: &Fields) -> Result<Option<Self>> {
        let Some(name) = fields.text("tokenizer_class")? else {
            return Ok(None);
        };
        let slow = name.strip_suffix("Fast").unwrap_or(name);
        let found = Self::ALL.into_iter().find(|class| class.name() == slow);
        found.map(Some).ok_or_else(|| {
            let known = Self::ALL.map(Class::name).join(", ");
            fields.refuse(
                "tokenizer_class",
                format!(
                    "supported: {known} (each also with Fast); if tokenizer.json is complete by itself, \
                     write PreTrainedTokenizerFast here"
                ),
            )
        })
    }

    /// The class's name, without `Fast`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Class::PreTrained => "PreTrainedTokenizer",
            Class::Llama => "LlamaTokenizer",
            Class::CodeLlama => "CodeLlamaTokenizer",
            Class::Gemma => "GemmaTokenizer",
            Class::GptNeoX => "GPTNeoXTokenizer",
            Class::Gpt2 => "GPT2Tokenizer",
            Class::Qwen2 => "Qwen2Tokenizer",
        }
    }

    pub(super) const fn sources(self) -> Sources {
        match self {
            Class::Llama | Class::CodeLlama => Sources::SentencePiece,
            Class::Gpt2 | Class::Qwen2 => Sources::VocabAndMerges,
            Class::PreTrained | Class::Gemma | Class::GptNeoX => Sources::Nothing,
        }
    }

    pub(super) const fn defaults(self) -> Defaults {
        const END: Option<&str> = Some("<|endoftext|>");
        let (bos, eos, unk, pad) = match self {
            Class::PreTrained => (None, None, None, None),
            Class::Llama | Class::CodeLlama => (Some("<s>"), Some("</s>"), Some("<unk>"), None),
            Class::Gemma => (Some("<bos>"), Some("<eos>"), Some("<unk>"), Some("<pad>")),
            Class::GptNeoX | Class::Gpt2 => (END, END, END, None),
            Class::Qwen2 => (None, END, END, END),
        };
        Defaults { bos, eos, unk, pad }
    }

    /// Whether the class has its own `pad_token`, even an empty one. Padding in `tokenizer.json` then names none.
    pub(super) const fn has_pad(self) -> bool {
        matches!(self, Class::Gemma | Class::GptNeoX | Class::Qwen2)
    }

    /// Whether the class replaces the post-processor with bos and eos, as `add_bos_token` and `add_eos_token` say. If
    /// so, returns the defaults of the two.
    pub(super) const fn adds(self) -> Option<(bool, bool)> {
        match self {
            Class::Llama | Class::CodeLlama | Class::Gemma => Some((true, false)),
            Class::GptNeoX => Some((false, false)),
            Class::PreTrained | Class::Gpt2 | Class::Qwen2 => None,
        }
    }

    /// Whether `tokenizer.json` is ignored and the tokenizer rebuilt from older files.
    pub(super) fn is_made_anew(self, config: &Fields) -> bool {
        let asked = config.get("from_slow").is_some_and(truthy);
        asked || (self == Class::Llama && config.get("add_prefix_space").is_some())
    }

    /// The token that the slow class makes of bos, eos, unk or pad given as texts.
    pub(super) fn wrap_slow(self, text: &str) -> Added {
        match self {
            Class::Gpt2 => Added::new(text, false),
            _ => Added::new(text, true),
        }
    }
}

//! Builds a tokenizer from its files, in the steps of `PreTrainedTokenizerFast.__init__` of transformers 4.57.

use std::borrow::Cow;
use std::collections::HashSet;
use std::error::Error;

use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PreTokenizerWrapper, Tokenizer as Engine};

use super::class::{Class, Sources};
use super::convert::from_vocab_and_merges;
use super::files::Files;
use super::guard::{check_charsmaps, guarded};
use super::sentencepiece;
use super::settings::{BOS, EOS, NAMES, PAD, Settings, UNK};
use super::token::{Added, Named};
use crate::{LlamaError, Result};

/// The parts of a [`Tokenizer`](super::Tokenizer).
pub(super) struct Built {
    pub(super) engine: Engine,
    /// The file that messages name.
    pub(super) source: &'static str,
    pub(super) settings: Settings,
}

impl Built {
    pub(super) fn new(files: &Files) -> Result<Self> {
        let json = files.bytes("tokenizer.json")?;
        let settings = Settings::read(files, json.as_deref())?;
        let mut built = match json {
            Some(json) if !settings.made_anew => {
                let source = "tokenizer.json";
                let engine = guarded(|| {
                    check_charsmaps(&json)?;
                    Engine::from_bytes(&json)
                });
                let engine = engine.map_err(|error| bad(files, source, error))?;
                Built {
                    engine,
                    source,
                    settings,
                }
            }
            other => Self::convert(files, settings, other)?,
        };
        let source = built.source;
        let settings = &mut built.settings;
        guarded(|| finish(&mut built.engine, settings))
            .map_err(|error| bad(files, source, error))?;
        if let Some((add_bos, add_eos)) = settings.adds {
            let bos = required(files, settings, BOS, add_bos)?;
            let eos = required(files, settings, EOS, add_eos)?;
            let replaced = guarded(|| set_bos_and_eos(&mut built.engine, settings, bos, eos));
            replaced.map_err(|error| bad(files, source, error))?;
        }
        Ok(built)
    }

    /// Builds the tokenizer from files older than `tokenizer.json`. `json` is the content of `tokenizer.json`, if it
    /// exists.
    fn convert(files: &Files, settings: Settings, json: Option<Cow<[u8]>>) -> Result<Self> {
        let alone = json.is_none();
        let (source, value) = match settings.class.sources() {
            Sources::Nothing => ("", None),
            Sources::VocabAndMerges => ("vocab.json", from_vocab_and_merges(files, &settings)?),
            Sources::SentencePiece => {
                let name = "tokenizer.model";
                let value = files.bytes(name)?.map(|bytes| {
                    let value = sentencepiece::from_model(&bytes, &settings, alone);
                    value.ok_or_else(|| bad(files, name, "it is not a SentencePiece model".into()))
                });
                (name, value.transpose()?)
            }
        };
        let Some(value) = value else {
            return Err(LlamaError::NoTokenizer {
                dir: files.dir().to_owned(),
                advice: advice(files, settings.class, alone),
            });
        };
        let engine = guarded(|| Engine::from_bytes(value.to_string()));
        let mut engine = engine.map_err(|error| bad(files, source, error))?;
        if let Some(bos) = required(files, &settings, BOS, adds_bos_anew(&settings))? {
            let tokens = vec![(bos.to_owned(), slow_bos_id(&engine, &settings, alone))];
            let replaced = set_template(&mut engine, &format!("{bos}:0 $A:0"), tokens);
            replaced.map_err(|error| bad(files, source, error))?;
        }
        Ok(Built {
            engine,
            source,
            settings: as_slow(settings),
        })
    }
}

type Failure = Box<dyn Error + Send + Sync>;

fn bad(files: &Files, name: &str, source: Failure) -> LlamaError {
    LlamaError::Tokenizer {
        path: files.path(name),
        source,
    }
}

/// Whether GPT-2's class puts bos before a text. Only a rebuilt tokenizer does so.
fn adds_bos_anew(settings: &Settings) -> bool {
    settings.class == Class::Gpt2 && settings.add_bos_asked
}

/// A token to put around each text, if there is one. The token must be named.
fn required<'a>(
    files: &Files,
    settings: &'a Settings,
    slot: usize,
    adds: bool,
) -> Result<Option<&'a str>> {
    if !adds {
        return Ok(None);
    }
    let name = NAMES[slot];
    let token = settings.named[slot].as_ref().map(Named::content);
    token.map(Some).ok_or_else(|| LlamaError::ConfigField {
        path: files.path("tokenizer_config.json"),
        field: name.to_owned(),
        value: "null".to_owned(),
        expected: format!("expected a token, or add_{name} to be false"),
    })
}

/// Adds the tokens named in the small files, and applies their other settings, apart from the post-processor.
fn finish(engine: &mut Engine, settings: &mut Settings) -> Result<(), Failure> {
    for (name, token) in std::mem::take(&mut settings.extra) {
        match NAMES.iter().position(|known| *known == name) {
            Some(slot) => settings.named[slot] = Some(token),
            None => settings.extra.push((name, token)),
        }
    }
    if let Some(padding) = engine.get_padding().filter(|_| settings.pad_is_open) {
        settings.named[PAD] = Some(Named::Text(padding.pad_token.clone()));
    }
    engine.with_truncation(None)?;
    engine.with_padding(None);
    add_tokens(engine, settings)?;
    // It defaults to false, except for LLaMA's class; and it matters only if ByteLevel stands alone.
    let prefix = match &settings.add_prefix_space {
        None => (settings.class != Class::Llama).then_some(false),
        Some(value) => value.as_bool(),
    };
    if let (Some(PreTokenizerWrapper::ByteLevel(bytes)), Some(prefix)) =
        (engine.get_pre_tokenizer(), prefix)
    {
        let bytes = bytes.add_prefix_space(prefix);
        engine.with_pre_tokenizer(Some(bytes));
    }
    engine.set_encode_special_tokens(settings.split_special_tokens);
    Ok(())
}

/// Adds the listed tokens in the order of their ids, then any special tokens still missing.
fn add_tokens(engine: &mut Engine, settings: &Settings) -> Result<(), Failure> {
    let special = settings.special();
    let mut tokens: Vec<Added> = settings.added.values().cloned().collect();
    let first = engine.get_added_tokens_decoder();
    let missing: Vec<Added> = {
        let there = first.values().map(|token| &*token.content);
        let there: HashSet<&str> = there
            .chain(tokens.iter().map(|token| &*token.content))
            .collect();
        let missing = special.iter().filter_map(|named| match named {
            Named::Text(text) => (!there.contains(&**text)).then(|| Added::new(text, true)),
            Named::Token(token) => (!tokens.contains(token)).then(|| token.clone()),
        });
        missing.collect()
    };
    tokens.extend(missing);
    for token in &mut tokens {
        token.special |= special.iter().any(|named| named.content() == token.content);
    }
    let tokens: Vec<AddedToken> = tokens.iter().map(Added::finish).collect();
    let first: Vec<AddedToken> = first.into_values().collect();
    let registered: Vec<&AddedToken> = first.iter().chain(&tokens).collect();
    // In the engine of transformers 4.57 (`tokenizers` 0.22) the last addition of a token decides its flags, but a
    // token that existed at some point is not added again. The engine here (0.23) only checks the tokens that exist
    // now.
    let mut known: HashSet<&AddedToken> = first.iter().collect();
    let new = tokens.iter().filter(|token| known.insert(token)).cloned();
    let new = new.map(|mut token| {
        token.normalized = is_normalized(&token.content, &registered);
        token
    });
    engine.add_tokens(new)?;
    Ok(())
}

/// Whether a token is matched in the normalized text, if it was registered several times with different flags.
///
/// `tokenizers` 0.22 uses the first registration as a special token and every one before it; 0.23 uses the last one. A
/// token matched before normalization is gone after it.
fn is_normalized(content: &str, registered: &[&AddedToken]) -> bool {
    let all = registered.iter().filter(|token| token.content == content);
    let first_special = all.clone().position(|token| token.special);
    let count = first_special.map_or(usize::MAX, |first| first + 1);
    all.take(count).all(|token| token.normalized)
}

/// Replaces the post-processor with one that puts bos and eos around a text.
fn set_bos_and_eos(
    engine: &mut Engine,
    settings: &Settings,
    bos: Option<&str>,
    eos: Option<&str>,
) -> Result<(), Failure> {
    let unk = settings.named[UNK].as_ref().map(Named::content);
    let mut tokens = Vec::new();
    for token in bos.into_iter().chain(eos) {
        let id = engine
            .token_to_id(token)
            .or_else(|| engine.token_to_id(unk?));
        let id = id.ok_or_else(|| format!("it has no token \"{token}\""))?;
        tokens.push((token.to_owned(), id));
    }
    let bos = bos.map_or_else(String::new, |bos| format!("{bos}:0 "));
    let eos = eos.map_or_else(String::new, |eos| format!(" {eos}:0"));
    set_template(engine, &format!("{bos}$A:0{eos}"), tokens)
}

fn set_template(
    engine: &mut Engine,
    template: &str,
    tokens: Vec<(String, u32)>,
) -> Result<(), Failure> {
    let template = TemplateProcessing::builder()
        .try_single(template)?
        .special_tokens(tokens)
        .build()?;
    engine.with_post_processor(Some(template));
    Ok(())
}

/// The special tokens as the slow tokenizer passes them on: as tokens with every flag set.
fn as_slow(settings: Settings) -> Settings {
    let class = settings.class;
    let settled = |named| match named {
        Named::Token(token) => Named::Token(token.settled()),
        text => text,
    };
    let mut named = settings.named;
    for slot in [BOS, EOS, UNK, PAD] {
        if class == Class::CodeLlama && slot == PAD {
            continue;
        }
        named[slot] = named[slot]
            .take()
            .map(|token| token.wrapped(|text| class.wrap_slow(text)));
    }
    Settings {
        named: named.map(|token| token.map(settled)),
        additional: settings.additional.into_iter().map(settled).collect(),
        extra: settings
            .extra
            .into_iter()
            .map(|(name, token)| (name, settled(token)))
            .collect(),
        ..settings
    }
}

/// The id of bos in the slow tokenizer, which itself numbers the tokens that its vocabulary lacks.
fn slow_bos_id(engine: &Engine, settings: &Settings, alone: bool) -> u32 {
    let bos = settings.named[BOS].as_ref().map_or("", Named::content);
    let listed = settings.added.iter().filter(|_| alone);
    let mut size = engine.get_vocab_size(false);
    let mut found = engine.token_to_id(bos);
    for (id, token) in listed.clone() {
        size += usize::from(engine.token_to_id(&token.content).is_none());
        if token.content == bos {
            found = u32::try_from(*id).ok();
        }
    }
    // The first of the special tokens is bos.
    found.unwrap_or(size as u32)
}

/// The advice for a folder whose tokenizer cannot be read.
fn advice(files: &Files, class: Class, alone: bool) -> String {
    let (name, dir) = (class.name(), files.dir().display());
    if !alone {
        return format!(
            "add_prefix_space or from_slow in tokenizer_config.json has {name} made of other files, which are \
             not there: download them too, or remove the field if tokenizer.json is right as it is"
        );
    }
    let pair = files.has("vocab.json") && files.has("merges.txt");
    if pair && class.sources() != Sources::VocabAndMerges {
        return format!(
            "vocab.json and merges.txt are read for GPT2Tokenizer and Qwen2Tokenizer, and its class is {name}: \
             write the right one as tokenizer_class into tokenizer_config.json"
        );
    }
    if files.has("tekken.json") {
        return format!(
            "tekken.json is Mistral's own format: convert it in Python, after `pip install transformers==4.57.1 \
             mistral-common==1.5.4`, with transformers.integrations.mistral.convert_tekken_tokenizer(\
             \"{dir}/tekken.json\").save_pretrained(\"{dir}\")"
        );
    }
    if files.has("tokenizer.model") {
        let convert = format!(
            "convert its tokenizer.model in Python: \
             transformers.AutoTokenizer.from_pretrained(\"{dir}\").save_pretrained(\"{dir}\")"
        );
        if class == Class::Gemma {
            return convert;
        }
        return format!(
            "tokenizer.model is read for LlamaTokenizer, and its class is {name}: write LlamaTokenizer as \
             tokenizer_class into tokenizer_config.json, or {convert}"
        );
    }
    "download it into the folder".to_owned()
}

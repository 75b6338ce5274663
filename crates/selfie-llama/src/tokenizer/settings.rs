//! The tokenizer settings of a folder's small files, combined as `from_pretrained` of transformers 4.57 does
//! (`tokenization_utils_base.py`, `_from_pretrained`).

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::class::Class;
use super::files::Files;
use super::token::{Added, Named};
use crate::json::Fields;
use crate::{LlamaError, Result};

/// The named special tokens, in the order in which they are added.
pub(super) const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
pub(super) const BOS: usize = 0;
pub(super) const EOS: usize = 1;
pub(super) const UNK: usize = 2;
pub(super) const PAD: usize = 4;

/// The tokens that CodeLlama marks as special beside the named ones, and its infilling mark.
const CODE_LLAMA: [(&str, &str); 4] = [
    ("prefix_token", "▁<PRE>"),
    ("middle_token", "▁<MID>"),
    ("suffix_token", "▁<SUF>"),
    ("eot_token", "▁<EOT>"),
];
const FILL: (&str, &str) = ("fill_token", "<FILL_ME>");

/// Everything that the small files and the class say.
pub(super) struct Settings {
    pub(super) class: Class,
    /// The tokens of [`NAMES`].
    pub(super) named: [Option<Named>; 7],
    pub(super) additional: Vec<Named>,
    /// `extra_special_tokens`, by name.
    pub(super) extra: Vec<(String, Named)>,
    /// Tokens listed with an id. If the vocabulary lacks a token, only its place in the order counts.
    pub(super) added: BTreeMap<i64, Added>,
    /// The bos and eos that the class puts around a text; `None` leaves the post-processor unchanged.
    pub(super) adds: Option<(bool, bool)>,
    pub(super) add_prefix_space: Option<Value>,
    pub(super) add_bos_asked: bool,
    pub(super) legacy: bool,
    pub(super) split_special_tokens: bool,
    pub(super) clean_up: bool,
    /// Whether padding in `tokenizer.json` names the pad token.
    pub(super) pad_is_open: bool,
    /// Whether `tokenizer.json` is ignored.
    pub(super) made_anew: bool,
    /// CodeLlama's mark in a text to fill in.
    pub(super) fill: Option<String>,
}

/// A special token as named in a file, before objects become tokens.
#[derive(Clone)]
enum Raw {
    Null,
    Named(Named),
    /// A value of `tokenizer_config.json` that is not a string.
    Value(Value),
}

impl Settings {
    pub(super) fn read(files: &Files, json: Option<&[u8]>) -> Result<Self> {
        let path = files.path("tokenizer_config.json");
        let object = files.object("tokenizer_config.json")?.unwrap_or_default();
        let config = Fields::new(&path, &object);
        let class = Class::find(files, &config)?;
        if config.names(METHOD) {
            return Err(config.refuse(
                METHOD,
                "which is a method of transformers' classes: remove it",
            ));
        }

        let mut tokens = Tokens::of_config(&object);
        let mut added = BTreeMap::new();
        if object.contains_key("added_tokens_decoder") {
            tokens.read_decoder(&config, &mut added)?;
        } else {
            // Files of older versions, which are read only in this case.
            let stray = tokens.read_map(files)?;
            tokens.read_added(files, stray, &mut added)?;
            if let Some(json) = json {
                tokens.read_json(files, json, &mut added)?;
            }
        }
        let named = tokens.named(&config)?;
        let pad_is_open = !class.has_pad() && !tokens.raw.contains_key("pad_token");
        let mut settings = Settings {
            class,
            named: with_defaults(class, named),
            additional: tokens.additional(&config)?,
            extra: extra(&config)?,
            added,
            adds: class.adds().map(|(bos, eos)| {
                let flag = |name, default| object.get(name).map_or(default, truthy);
                (flag("add_bos_token", bos), flag("add_eos_token", eos))
            }),
            add_prefix_space: object.get("add_prefix_space").cloned(),
            add_bos_asked: object.get("add_bos_token").is_some_and(truthy),
            legacy: config.get("legacy").is_none_or(truthy),
            split_special_tokens: split_special_tokens(&config)?,
            clean_up: object
                .get("clean_up_tokenization_spaces")
                .is_some_and(truthy),
            pad_is_open,
            made_anew: class.is_made_anew(&config) || leaves_json(&config)?,
            fill: None,
        };
        if class == Class::CodeLlama {
            for (name, default) in CODE_LLAMA {
                let token = tokens.other(&config, name, default)?;
                settings.additional.extend(token);
            }
            let fill = tokens.other(&config, FILL.0, FILL.1)?;
            settings.fill = fill.map(|token| token.content().to_owned());
        }
        Ok(settings)
    }

    /// The named special tokens, and the list of the others.
    pub(super) fn by_name(&self) -> Map<String, Value> {
        let named = NAMES.iter().zip(&self.named);
        let named = named.filter_map(|(name, token)| Some((*name, token.as_ref()?)));
        let extra = self.extra.iter().map(|(name, token)| (&**name, token));
        let mut by_name: Map<String, Value> = named
            .chain(extra)
            .filter(|(_, token)| !token.content().is_empty())
            .map(|(name, token)| (name.to_owned(), token.content().into()))
            .collect();
        if !self.additional.is_empty() {
            let list = self.additional.iter().map(Named::content);
            by_name.insert("additional_special_tokens".to_owned(), list.collect());
        }
        by_name
    }

    /// All special tokens, as texts and tokens. A text occurs only once, except within one list.
    pub(super) fn special(&self) -> Vec<&Named> {
        let mut all: Vec<&Named> = Vec::new();
        let is_new = |all: &[&Named], token: &Named| {
            let seen = all.iter().any(|there| there.content() == token.content());
            !seen && !matches!(token, Named::Text(text) if text.is_empty())
        };
        for token in self.named.iter().flatten() {
            if is_new(&all, token) {
                all.push(token);
            }
        }
        let list = self.additional.iter().filter(|token| is_new(&all, token));
        let list: Vec<&Named> = list.collect();
        all.extend(list);
        for (_, token) in &self.extra {
            if is_new(&all, token) {
                all.push(token);
            }
        }
        all
    }
}

/// The special tokens while the files are being read.
struct Tokens {
    raw: HashMap<String, Raw>,
    /// `additional_special_tokens`; `Err` holds a value that is not a list.
    list: Result<Vec<Raw>, Value>,
    /// Tokens that were listed with an id, by text. A special token with that text is this token.
    by_text: HashMap<String, Added>,
}

impl Tokens {
    fn of_config(object: &Map<String, Value>) -> Self {
        let raw = |value: &Value| match value {
            Value::Null => Raw::Null,
            Value::String(text) => Raw::Named(Named::Text(text.clone())),
            other => Raw::Value(other.clone()),
        };
        let names = NAMES.into_iter().chain(CODE_LLAMA.map(|(name, _)| name));
        let given = names.chain([FILL.0]).filter_map(|name| {
            let value = object.get(name)?;
            Some((name.to_owned(), raw(value)))
        });
        let list = match object.get("additional_special_tokens") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list.iter().map(raw).collect()),
            Some(other) => Err(other.clone()),
        };
        Tokens {
            raw: given.collect(),
            list,
            by_text: HashMap::new(),
        }
    }

    /// `added_tokens_decoder`: tokens by id.
    fn read_decoder(&mut self, config: &Fields, added: &mut BTreeMap<i64, Added>) -> Result<()> {
        const EXPECTED: &str = "expected an object of added tokens, with their ids as names";
        let decoder = config.object_value("added_tokens_decoder");
        let decoder = decoder.ok_or_else(|| config.refuse("added_tokens_decoder", EXPECTED))?;
        for (id, token) in decoder {
            let read = id.trim().parse().ok().zip(token.as_object());
            let read = read.and_then(|(id, object)| Some((id, Added::read(object)?)));
            let Some((id, token)) = read else {
                let field = format!("added_tokens_decoder.{id}");
                return Err(config.refuse_as(&field, token.to_string(), "expected an added token"));
            };
            self.list(id, token, added);
        }
        Ok(())
    }

    /// Reads `special_tokens_map.json`, which precedes `tokenizer_config.json`. Returns the last additional token in
    /// it.
    fn read_map(&mut self, files: &Files) -> Result<Option<String>> {
        let name = "special_tokens_map.json";
        let Some(object) = files.object(name)? else {
            return Ok(None);
        };
        let path = files.path(name);
        let map = Fields::new(&path, &object);
        let special = |value: &Map<String, Value>| {
            let mut token = Added::read(value)?;
            token.special = true;
            Some(Named::Token(token))
        };
        let mut last = None;
        for (key, value) in &object {
            let token = match value {
                Value::Object(token) => Raw::Named(
                    special(token).ok_or_else(|| map.refuse(key, "expected an added token"))?,
                ),
                Value::Array(list) if key == "additional_special_tokens" => {
                    let mut all = std::mem::replace(&mut self.list, Ok(Vec::new()))
                        .map_err(|_| map.refuse(key, LIST))?;
                    for value in list {
                        let token = match value {
                            Value::String(text) => Named::Text(text.clone()),
                            Value::Object(token) => special(token)
                                .ok_or_else(|| map.refuse(key, "expected added tokens"))?,
                            _ => return Err(map.refuse(key, LIST)),
                        };
                        last = Some(token.content().to_owned());
                        if !all.iter().any(|there| there.equals(&token)) {
                            all.push(Raw::Named(token));
                        }
                    }
                    self.list = Ok(all);
                    continue;
                }
                Value::String(text) => Raw::Named(Named::Text(text.clone())),
                Value::Null => Raw::Null,
                other => Raw::Value(other.clone()),
            };
            if key == "additional_special_tokens" {
                self.list = match token {
                    Raw::Null => Ok(Vec::new()),
                    _ => Err(value.clone()),
                };
            } else {
                self.raw.insert(key.clone(), token);
            }
        }
        Ok(last)
    }

    /// `added_tokens.json`: texts with ids. transformers also files each of them under `stray`, by an oversight.
    fn read_added(
        &mut self,
        files: &Files,
        stray: Option<String>,
        added: &mut BTreeMap<i64, Added>,
    ) -> Result<()> {
        let name = "added_tokens.json";
        let Some(object) = files.object(name)? else {
            return Ok(());
        };
        let stray = stray.unwrap_or_else(|| "None".to_owned());
        let list = self.list.iter().flatten();
        let special: Vec<String> = NAMES
            .iter()
            .filter_map(|name| self.raw.get(*name))
            .chain(list)
            .filter_map(|raw| match raw {
                Raw::Named(named) => Some(named.content().to_owned()),
                Raw::Null | Raw::Value(_) => None,
            })
            .collect();
        let path = files.path(name);
        for (text, id) in &object {
            let Some(id) = id.as_i64() else {
                return Err(Fields::new(&path, &object).refuse(text, "expected a token id"));
            };
            let token = Added::new(text, special.contains(text)).settled();
            self.by_text.insert(stray.clone(), token.clone());
            added.insert(id, token);
        }
        Ok(())
    }

    /// The added tokens of `tokenizer.json`.
    fn read_json(
        &mut self,
        files: &Files,
        json: &[u8],
        added: &mut BTreeMap<i64, Added>,
    ) -> Result<()> {
        #[derive(Deserialize)]
        struct Head {
            added_tokens: Vec<Map<String, Value>>,
        }
        let bad = |source: serde_json::Error| LlamaError::Tokenizer {
            path: files.path("tokenizer.json"),
            source: source.into(),
        };
        let head: Head = serde_json::from_slice(json).map_err(bad)?;
        for object in head.added_tokens {
            let read = object.get("id").and_then(Value::as_i64);
            let Some((id, token)) = read.zip(Added::read(&object)) else {
                return Err(bad(serde::de::Error::custom(format!(
                    "{} is not an added token",
                    Value::Object(object)
                ))));
            };
            self.list(id, token, added);
        }
        Ok(())
    }

    fn list(&mut self, id: i64, token: Added, added: &mut BTreeMap<i64, Added>) {
        self.by_text.insert(token.content.clone(), token.clone());
        added.insert(id, token);
    }

    /// The tokens of [`NAMES`]; `None` if a token is not named at all, `Some(None)` if it is `null`.
    fn named(&self, config: &Fields) -> Result<[Option<Option<Named>>; 7]> {
        let mut named = [const { None }; 7];
        for (slot, name) in named.iter_mut().zip(NAMES) {
            let Some(raw) = self.raw.get(name) else {
                continue;
            };
            let token = raw.named(config, name)?.map(|token| {
                let listed = self.by_text.get(token.content());
                listed.map_or(token, |listed| Named::Token(listed.clone()))
            });
            *slot = Some(token);
        }
        Ok(named)
    }

    /// A token that only one class knows.
    fn other(&self, config: &Fields, name: &str, default: &str) -> Result<Option<Named>> {
        match self.raw.get(name) {
            Some(raw) => raw.named(config, name),
            None => Ok(Some(Named::Text(default.to_owned()))),
        }
    }

    fn additional(&self, config: &Fields) -> Result<Vec<Named>> {
        let name = "additional_special_tokens";
        let list = self.list.as_ref().map_err(|_| config.refuse(name, LIST))?;
        let mut tokens = Vec::with_capacity(list.len());
        for raw in list {
            let token = raw.named(config, name)?;
            tokens.push(token.ok_or_else(|| config.refuse(name, LIST))?);
        }
        Ok(tokens)
    }
}

/// A field that transformers refuses to load, but that some files contain.
const METHOD: &str = "add_special_tokens";

const LIST: &str =
    "expected a list of tokens, each a text or an object with \"__type\": \"AddedToken\"";

impl Raw {
    fn named(&self, config: &Fields, name: &str) -> Result<Option<Named>> {
        match self {
            Raw::Null => Ok(None),
            Raw::Named(named) => Ok(Some(named.clone())),
            Raw::Value(value) => typed(value)
                .map(|token| Some(Named::Token(token)))
                .ok_or_else(|| {
                    let expected =
                        "expected a token's text, or an object with \"__type\": \"AddedToken\"";
                    config.refuse_as(name, value.to_string(), expected)
                }),
        }
    }

    fn equals(&self, other: &Named) -> bool {
        match (self, other) {
            (Raw::Named(Named::Text(a)), Named::Text(b)) => a == b,
            (Raw::Named(Named::Token(a)), Named::Token(b)) => a == b,
            _ => false,
        }
    }
}

/// A token, if an object is marked as one.
fn typed(value: &Value) -> Option<Added> {
    let object = value.as_object()?;
    let is_token = object.get("__type").and_then(Value::as_str) == Some("AddedToken");
    is_token.then(|| Added::read(object))?
}

fn with_defaults(class: Class, given: [Option<Option<Named>>; 7]) -> [Option<Named>; 7] {
    let defaults = class.defaults();
    let mut named = given;
    for (slot, default) in [
        (BOS, defaults.bos),
        (EOS, defaults.eos),
        (UNK, defaults.unk),
        (PAD, defaults.pad),
    ] {
        let absent = named[slot].is_none();
        if absent {
            named[slot] = default.map(|text| Some(Named::Text(text.to_owned())));
        }
        if class == Class::Qwen2 {
            let wrap = |text: &str| Added::new(text, true).settled();
            named[slot] = named[slot]
                .take()
                .map(|token| token.map(|token| token.wrapped(wrap)));
        }
    }
    named.map(Option::flatten)
}

/// `extra_special_tokens`: names with their tokens.
fn extra(config: &Fields) -> Result<Vec<(String, Named)>> {
    let name = "extra_special_tokens";
    if config.get(name).is_none() {
        // Python fails on null here, but on no other empty value.
        if config.names(name) {
            return Err(config.refuse(name, "expected an object of tokens"));
        }
        return Ok(Vec::new());
    }
    let expected = "expected an object of tokens (a list is of transformers 5: name them as \
                    additional_special_tokens instead)";
    let object = config.object_value(name);
    let object = object.ok_or_else(|| config.refuse(name, expected))?;
    let mut extra = Vec::new();
    for (key, value) in object {
        let token = match value {
            Value::String(text) => Some(Named::Text(text.clone())),
            other => typed(other).map(Named::Token),
        };
        extra.push((
            key.clone(),
            token.ok_or_else(|| config.refuse(name, expected))?,
        ));
    }
    Ok(extra)
}

fn split_special_tokens(config: &Fields) -> Result<bool> {
    let name = "split_special_tokens";
    match config.flag(name)? {
        None if config.names(name) => Err(config.refuse(name, "expected true or false")),
        flag => Ok(flag.unwrap_or(false)),
    }
}

/// Whether `tokenizer_config.json` says that there is no `tokenizer.json`.
fn leaves_json(config: &Fields) -> Result<bool> {
    let name = "tokenizer_file";
    match config.get(name) {
        Some(_) => Err(config.refuse(
            name,
            "which is a path of the machine that it was written on: remove the field",
        )),
        None => Ok(config.names(name)),
    }
}

/// Whether Python treats a value as true.
pub(super) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(object) => !object.is_empty(),
    }
}

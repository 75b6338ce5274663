//! Text to token ids and back: `tokenizer.json`, with what `tokenizer_config.json` says about it.

use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::AddedToken;

use crate::json::{Fields, parse_object};
use crate::{LlamaError, Result};

/// What a byte that is no UTF-8 is decoded to.
const REPLACEMENT: char = '\u{FFFD}';

/// The tokenizer of a checkpoint. It agrees with transformers 4.57 on ids and texts.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    bos: Option<u32>,
    eos: Option<u32>,
    /// `clean_up_tokenization_spaces`: decoding drops the spaces before English punctuation.
    clean_up: bool,
}

impl Tokenizer {
    /// Reads `dir/tokenizer.json`, and `dir/tokenizer_config.json` if there is one.
    ///
    /// Truncation and padding that `tokenizer.json` asks for are left out.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(source) if source.kind() == ErrorKind::NotFound => {
                return Err(LlamaError::NoTokenizer {
                    dir: dir.to_owned(),
                    advice: advice(dir),
                });
            }
            Err(source) => return Err(LlamaError::Read { path, source }),
        };
        let path = dir.join("tokenizer_config.json");
        let config = match fs::read_to_string(&path) {
            Ok(config) => Some(config),
            Err(source) if source.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(LlamaError::Read { path, source }),
        };
        Self::parse(&json, config.as_deref(), dir)
    }

    /// Reads the texts of a `tokenizer.json` and a `tokenizer_config.json`; errors say that they are in `dir`.
    pub fn parse(json: &[u8], config: Option<&str>, dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let bad = |source| LlamaError::Tokenizer {
            path: path.clone(),
            source,
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(bad)?;
        inner.with_truncation(None).map_err(bad)?;
        inner.with_padding(None);
        let mut tokenizer = Tokenizer {
            inner,
            path,
            bos: None,
            eos: None,
            clean_up: false,
        };
        if let Some(config) = config {
            tokenizer.read_config(config, &dir.join("tokenizer_config.json"))?;
        }
        Ok(tokenizer)
    }

    /// The ids of a text, with the special tokens (bos) that the post-processor adds.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, true)
    }

    /// The ids of a text, and none that are not in it.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, false)
    }

    /// The text of some ids without special tokens, as `decode(ids, skip_special_tokens=True)` of
    /// transformers. Ids that the vocabulary does not have stand for no text.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(self.cleaned(self.decode_raw(ids, true)?))
    }

    /// The text of some ids with special tokens, as `decode(ids)` of transformers.
    pub fn decode_all(&self, ids: &[u32]) -> Result<String> {
        Ok(self.cleaned(self.decode_raw(ids, false)?))
    }

    /// The token as the vocabulary writes it, with its marks for spaces and bytes.
    pub fn piece(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The text that each of some ids adds to [`decode_all`](Self::decode_all); joined, they are it.
    ///
    /// A token that is only a part of a character adds nothing, and the token that completes it adds
    /// the whole character.
    pub fn pieces(&self, ids: &[u32]) -> Result<Vec<String>> {
        let whole = self.decode_all(ids)?;
        let mut pieces = Vec::with_capacity(ids.len());
        let mut begin = 0;
        for end in 1..=ids.len() {
            let shared = shared_len(&self.decode_all(&ids[..end])?, &whole).max(begin);
            pieces.push(whole[begin..shared].to_owned());
            begin = shared;
        }
        Ok(pieces)
    }

    /// Starts to decode ids that come one after the other.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream {
            tokenizer: self,
            ids: Vec::new(),
            given: 0,
        }
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// How many tokens there are, with the added ones.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    fn read_config(&mut self, json: &str, path: &Path) -> Result<()> {
        let object = parse_object(json, path)?;
        let fields = Fields::new(path, &object);
        self.bos = self.special(&fields, "bos_token")?;
        self.eos = self.special(&fields, "eos_token")?;
        // False is the default of transformers 4.57.
        self.clean_up = fields
            .flag("clean_up_tokenization_spaces")?
            .unwrap_or(false);
        Ok(())
    }

    /// The id of the token that a field names, as a string or as an object with its `content`.
    fn special(&mut self, fields: &Fields, name: &str) -> Result<Option<u32>> {
        let Some(value) = fields.get(name) else {
            return Ok(None);
        };
        let token = match value {
            Value::Object(token) => token.get("content").and_then(Value::as_str),
            other => other.as_str(),
        };
        let token = token.ok_or_else(|| fields.refuse(name, "expected a token's text"))?;
        let id = self.inner.token_to_id(token).ok_or_else(|| {
            fields.refuse(name, "expected a token that tokenizer.json has, or null")
        })?;
        // As transformers does with one that is only in the model's vocabulary.
        if !self
            .inner
            .get_added_vocabulary()
            .get_vocab()
            .contains_key(token)
        {
            self.inner
                .add_special_tokens([AddedToken::from(token, true)])
                .map_err(|source| self.error(source))?;
        }
        Ok(Some(id))
    }

    fn encode_with(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, special);
        Ok(encoding
            .map_err(|source| self.error(source))?
            .get_ids()
            .to_vec())
    }

    fn decode_raw(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|source| self.error(source))
    }

    fn cleaned(&self, text: String) -> String {
        if self.clean_up { clean_up(&text) } else { text }
    }

    fn error(&self, source: Box<dyn Error + Send + Sync>) -> LlamaError {
        LlamaError::Tokenizer {
            path: self.path.clone(),
            source,
        }
    }
}

/// Decodes ids that come one after the other; from [`Tokenizer::stream`].
///
/// The texts joined are [`Tokenizer::decode`] of all ids. A text waits for the next ids as long as
/// they can still change it: parts of a character do, also spaces where decoding cleans them up.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// Bytes of the decoded text that were given out.
    given: usize,
}

impl TextStream<'_> {
    /// The text that is certain with one more id; often empty.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let added = self.tokenizer.inner.get_added_vocabulary();
        let Some(piece) = self.tokenizer.piece(id) else {
            return Ok(String::new());
        };
        if added.is_special_token(&piece) {
            return Ok(String::new());
        }
        self.ids.push(id);
        // Byte tokens are decoded together: one that is no UTF-8 changes all those before it.
        if is_byte(&piece) {
            return Ok(String::new());
        }
        let text = self.tokenizer.decode_raw(&self.ids, true)?;
        // In byte-level vocabularies only the last character can be incomplete.
        let mut certain = text.strip_suffix(REPLACEMENT).unwrap_or(&text);
        if self.tokenizer.clean_up {
            certain = &certain[..clean_up_boundary(certain)];
        }
        let certain = self.tokenizer.cleaned(certain.to_owned());
        Ok(self.rest_of(&certain))
    }

    /// The text that was held back.
    pub fn finish(mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(self.rest_of(&text))
    }

    fn rest_of(&mut self, text: &str) -> String {
        let rest = text.get(self.given..).unwrap_or_default().to_owned();
        self.given += rest.len();
        rest
    }
}

fn advice(dir: &Path) -> &'static str {
    if dir.join("tokenizer.model").is_file() {
        "convert its tokenizer.model with Python: \
         transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    } else {
        "download it into the folder"
    }
}

/// The length of what two texts have in common at their beginning.
fn shared_len(a: &str, b: &str) -> usize {
    let differs = a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b);
    match differs {
        Some(((at, _), _)) => at,
        None => a.len().min(b.len()),
    }
}

/// Whether a piece stands for one byte, as SentencePiece writes it: `<0xE2>`.
fn is_byte(piece: &str) -> bool {
    let digits = piece
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// `PreTrainedTokenizerBase.clean_up_tokenization` of transformers: one replacement after the other.
fn clean_up(text: &str) -> String {
    text.replace(" .", ".")
        .replace(" ?", "?")
        .replace(" !", "!")
        .replace(" ,", ",")
        .replace(" ' ", "'")
        .replace(" n't", "n't")
        .replace(" 'm", "'m")
        .replace(" 's", "'s")
        .replace(" 've", "'ve")
        .replace(" 're", "'re")
}

/// Up to where [`clean_up`] of a text does not depend on what follows the text.
///
/// A replacement that the next characters can complete begins with a space and goes on with nothing
/// but spaces and `'`, `n`, `v`, `r`.
fn clean_up_boundary(text: &str) -> usize {
    let run = text.trim_end_matches([' ', '\'', 'n', 'v', 'r']).len();
    text[run..]
        .find(' ')
        .map_or(text.len(), |space| run + space)
}

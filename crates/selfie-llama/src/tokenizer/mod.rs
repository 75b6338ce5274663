//! Text to token ids and back, like `AutoTokenizer` of transformers 4.57 on the same folder.

mod build;
mod class;
mod convert;
mod files;
mod guard;
mod sentencepiece;
mod settings;
mod stream;
mod token;

use std::error::Error;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::tokenizer::{Decoder, Model, PreTokenizer};
use tokenizers::{OffsetType, Tokenizer as Engine};

use crate::checkpoint::check_folder;
use crate::folder::resolve_folder;
use crate::gguf::{Gguf, is_gguf};
use crate::{LlamaError, Note, Result};
use build::Built;
pub(crate) use convert::{QWEN2_SPLIT, byte_level};
use files::Files;
use guard::guarded;
pub(crate) use sentencepiece::{CONTROL, Piece, PieceModel, USER_DEFINED};
use settings::{BOS, EOS};
pub use stream::TextStream;
use stream::clean_up;
use token::Named;

/// Whether a text begins with bos, the token for the beginning of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bos {
    /// As the checkpoint's files say.
    #[default]
    Auto,
    /// With bos, even if the files add none.
    Always,
    /// Without bos, unless the text itself begins with it.
    Never,
    /// Add nothing at the beginning or the end: for texts rendered by a chat template.
    Given,
}

/// A token of a text, for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenText {
    /// The token's id.
    pub id: u32,
    /// The token as the vocabulary writes it, with its marks for spaces and bytes; empty for an id outside the
    /// vocabulary.
    pub piece: String,
    /// The text that it adds; see [`Tokenizer::pieces`].
    pub text: String,
    /// Whether it is a special token, which is not text to the model.
    pub special: bool,
}

/// The tokenizer of a checkpoint. It agrees with `AutoTokenizer` of transformers 4.57 on ids and texts.
///
/// The ids depend on more than `tokenizer.json`: on the class (`tokenizer_class`, otherwise the model's), on
/// `add_bos_token` and similar fields, and on tokens that only `tokenizer_config.json`, `special_tokens_map.json` or
/// `added_tokens.json` name. Without a `tokenizer.json` it is built from `vocab.json` and `merges.txt`, or from a
/// LLaMA's `tokenizer.model`.
pub struct Tokenizer {
    inner: Engine,
    path: PathBuf,
    bos: Option<u32>,
    eos: Option<u32>,
    /// The tokens that the files put before a text.
    begin: Vec<u32>,
    /// `clean_up_tokenization_spaces`: decoding drops the spaces before English punctuation.
    clean_up: bool,
    /// CodeLlama's infilling mark.
    fill: Option<String>,
    /// The named special tokens.
    special: Map<String, Value>,
}

impl Tokenizer {
    /// Opens the tokenizer of a folder, of the snapshot of a `models--org--name` folder, or of a GGUF file.
    ///
    /// Truncation and padding in `tokenizer.json` are ignored.
    pub fn open(dir: &Path) -> Result<Self> {
        if is_gguf(dir) {
            let (json, config) = Gguf::open(dir)?.tokenizer()?;
            return Self::parse(json.to_string().as_bytes(), Some(&config.to_string()), dir);
        }
        let dir = resolve_folder(dir)?;
        check_folder(&dir)?;
        Self::from_files(&Files::of_folder(&dir))
    }

    /// Parses the texts of a `tokenizer.json` and a `tokenizer_config.json`, which must name the `tokenizer_class`.
    /// Errors say that they are in `dir`.
    pub fn parse(json: &[u8], config: Option<&str>, dir: &Path) -> Result<Self> {
        Self::from_files(&Files::of_memory(json, config, dir))
    }

    fn from_files(files: &Files) -> Result<Self> {
        let Built {
            engine,
            source,
            settings,
        } = Built::new(files)?;
        let id = |slot: usize| {
            let token = settings.named[slot].as_ref().map(Named::content)?;
            engine.token_to_id(token)
        };
        let mut tokenizer = Tokenizer {
            path: files.path(source),
            bos: id(BOS),
            eos: id(EOS),
            begin: Vec::new(),
            clean_up: settings.clean_up,
            special: settings.by_name(),
            fill: settings.fill,
            inner: engine,
        };
        let (ids, added) = tokenizer.encode_marked("a")?;
        let begin = added.iter().take_while(|added| **added).count();
        tokenizer.begin = ids[..begin].to_vec();
        Ok(tokenizer)
    }

    /// The ids of a text, with the special tokens (bos) that the files add.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_as(text, Bos::Auto)
    }

    /// The ids of a text, with or without bos. An error if bos is required and the tokenizer has none.
    pub fn encode_as(&self, text: &str, bos: Bos) -> Result<Vec<u32>> {
        if bos == Bos::Given {
            return self.encode_plain(text);
        }
        let (ids, _) = self.encode_marked(text)?;
        let begin = self.begin(bos)?;
        Ok([&begin, &ids[self.begin.len()..]].concat())
    }

    /// The ids of a text, with nothing added.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        self.check_fill(text)?;
        let encoding = guarded(|| self.inner.encode_fast(text, false));
        let encoding = encoding.map_err(|source| self.error(source))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids to put before a text. An error if bos is required and the tokenizer has none.
    pub fn begin(&self, bos: Bos) -> Result<Vec<u32>> {
        match bos {
            Bos::Auto => Ok(self.begin.clone()),
            Bos::Never | Bos::Given => Ok(Vec::new()),
            Bos::Always => {
                let token = self.bos.ok_or_else(|| LlamaError::NoBos {
                    path: self.path.clone(),
                })?;
                let mut begin = self.begin.clone();
                if !begin.contains(&token) {
                    begin.insert(0, token);
                }
                Ok(begin)
            }
        }
    }

    /// A note if a text encoded this way has bos twice: once in the text and once added.
    pub fn bos_note(&self, text: &str, bos: Bos) -> Result<Option<Note>> {
        let own = self.encode_plain(text)?.first().copied();
        let added = self.begin(bos)?.last().copied();
        let doubled = added.filter(|&added| own == Some(added));
        Ok(doubled.map(|id| Note::DoubledBos {
            bos: self.piece(id).unwrap_or_default(),
        }))
    }

    /// A note if a text from a chat template lacks the bos that other prompts get.
    pub fn missing_bos_note(&self, chat: &str) -> Result<Option<Note>> {
        let own = self.encode_plain(chat)?.first().copied();
        let added = self.begin(Bos::Auto)?.first().copied();
        let missing = added.filter(|_| own.is_some() && own != added);
        Ok(missing.map(|id| Note::MissingBos {
            bos: self.piece(id).unwrap_or_default(),
        }))
    }

    /// The ids of [`encode_plain`](Self::encode_plain), each with the bytes of the text that it covers.
    pub fn encode_spans(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        self.check_fill(text)?;
        // The engine's steps, without the post-processors that trim its offsets.
        let encoding = guarded(|| {
            let vocabulary = self.inner.get_added_vocabulary();
            let mut split = vocabulary.extract_and_normalize(self.inner.get_normalizer(), text);
            if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(&mut split)?;
            }
            split.tokenize(|part| self.inner.get_model().tokenize(part.get()))?;
            split.into_encoding(None, 0, OffsetType::Byte)
        });
        let encoding = encoding.map_err(|source| self.error(source))?;
        let ids = encoding.get_ids().iter().copied();
        let spans = encoding.get_offsets().iter().map(|&(from, to)| from..to);
        Ok(ids.zip(spans).collect())
    }

    /// Like [`encode_spans`](Self::encode_spans), for a text that continues another one: without the space that some
    /// tokenizers put before a text. Nothing merges with the preceding text.
    pub fn encode_continuation(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>> {
        // A line break merges only with white space.
        const BEFORE: &str = "\n";
        let before = self.encode_spans(BEFORE)?;
        let whole = self.encode_spans(&format!("{BEFORE}{text}"))?;
        let ids = |tokens: &[(u32, Range<usize>)]| -> Vec<u32> {
            tokens.iter().map(|(id, _)| *id).collect()
        };
        match whole.split_at_checked(before.len()) {
            // One token can stand for several unknown characters, and several tokens for one character.
            Some((first, rest))
                if ids(first) == ids(&before)
                    && first.iter().all(|t| t.1.end <= BEFORE.len())
                    && rest.iter().all(|t| t.1.start >= BEFORE.len()) =>
            {
                let len = BEFORE.len();
                let own =
                    |(id, span): &(u32, Range<usize>)| (*id, span.start - len..span.end - len);
                Ok(rest.iter().map(own).collect())
            }
            _ => self.encode_spans(text),
        }
    }

    /// The text of some ids without special tokens, like `decode(ids, skip_special_tokens=True)` of transformers. Ids
    /// outside the vocabulary add no text.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(self.cleaned(self.decode_raw(ids, true)?))
    }

    /// The text of some ids with special tokens, like `decode(ids)` of transformers.
    pub fn decode_all(&self, ids: &[u32]) -> Result<String> {
        Ok(self.cleaned(self.decode_raw(ids, false)?))
    }

    /// The token as the vocabulary writes it, with its marks for spaces and bytes.
    pub fn piece(&self, id: u32) -> Option<String> {
        // Not the engine's `id_to_token`, which normalizes added tokens since 0.23.
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        match added.get(&id) {
            Some(token) => Some(token.content.clone()),
            None => self.inner.get_model().id_to_token(id),
        }
    }

    /// Whether an id is a special token, which [`decode`](Self::decode) omits.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        self.piece(id)
            .is_some_and(|piece| added.is_special_token(&piece))
    }

    /// The text that each id adds to [`decode_all`](Self::decode_all). Joined, the pieces are its result.
    ///
    /// A token that is only part of a character adds nothing; the token that completes the character adds all of it.
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

    /// The ids in a form for display, special tokens included.
    pub fn tokens(&self, ids: &[u32]) -> Result<Vec<TokenText>> {
        let texts = self.pieces(ids)?;
        let token = |(&id, text)| TokenText {
            id,
            piece: self.piece(id).unwrap_or_default(),
            text,
            special: self.is_special(id),
        };
        Ok(ids.iter().zip(texts).map(token).collect())
    }

    /// Starts to decode ids one at a time.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// The token that begins a text (bos).
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text (eos).
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The special tokens by name, like `special_tokens_map` of transformers. Chat templates use these names.
    pub fn special_tokens(&self) -> &Map<String, Value> {
        &self.special
    }

    /// The number of tokens, including added ones.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The ids of a text with what the files add, and for each id whether it was added.
    fn encode_marked(&self, text: &str) -> Result<(Vec<u32>, Vec<bool>)> {
        self.check_fill(text)?;
        let encoding = guarded(|| self.inner.encode_fast(text, true));
        let encoding = encoding.map_err(|source| self.error(source))?;
        let added = encoding.get_special_tokens_mask().iter();
        Ok((
            encoding.get_ids().to_vec(),
            added.map(|&mark| mark == 1).collect(),
        ))
    }

    fn check_fill(&self, text: &str) -> Result<()> {
        match self.fill.as_deref().filter(|mark| text.contains(mark)) {
            None => Ok(()),
            Some(mark) => Err(LlamaError::Infilling {
                mark: mark.to_owned(),
            }),
        }
    }

    fn decode_raw(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let added = self.inner.get_added_vocabulary();
        let pieces = ids.iter().filter_map(|&id| self.piece(id));
        let pieces = pieces.filter(|piece| !skip_special || !added.is_special_token(piece));
        let pieces: Vec<String> = pieces.collect();
        match self.inner.get_decoder() {
            Some(decoder) => {
                guarded(|| decoder.decode(pieces)).map_err(|source| self.error(source))
            }
            None => Ok(pieces.join(" ")),
        }
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

/// The length of the common beginning of two texts.
fn shared_len(a: &str, b: &str) -> usize {
    let differs = a.char_indices().zip(b.chars()).find(|((_, a), b)| a != b);
    match differs {
        Some(((at, _), _)) => at,
        None => a.len().min(b.len()),
    }
}

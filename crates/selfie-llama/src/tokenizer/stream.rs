//! Decodes text from ids that arrive one at a time.

use super::Tokenizer;
use crate::Result;

/// The replacement of a byte that is not UTF-8.
const REPLACEMENT: char = '\u{FFFD}';

/// Decodes ids that arrive one at a time; made by [`Tokenizer::stream`].
///
/// The returned texts, joined, are [`Tokenizer::decode`] of all ids. Text is held back for as long as later ids can
/// change it: parts of a character, and spaces if decoding cleans them up.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// Bytes of the decoded text returned so far.
    given: usize,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        TextStream {
            tokenizer,
            ids: Vec::new(),
            given: 0,
        }
    }

    /// Adds an id and returns the text that is now certain; often empty.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let Some(piece) = self.tokenizer.piece(id) else {
            return Ok(String::new());
        };
        if self.tokenizer.is_special(id) {
            return Ok(String::new());
        }
        self.ids.push(id);
        // Byte tokens are decoded together: one that is not UTF-8 changes all those before it.
        if is_byte(&piece) {
            return Ok(String::new());
        }
        let text = self.tokenizer.decode_raw(&self.ids, true)?;
        // In a byte-level vocabulary only the last character can be incomplete.
        let mut certain = text.strip_suffix(REPLACEMENT).unwrap_or(&text);
        if self.tokenizer.clean_up {
            certain = &certain[..clean_up_boundary(certain)];
        }
        let certain = self.tokenizer.cleaned(certain.to_owned());
        Ok(self.rest_of(&certain))
    }

    /// Returns the text that was held back.
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

/// Whether a piece stands for one byte, in SentencePiece's notation: `<0xE2>`.
fn is_byte(piece: &str) -> bool {
    let digits = piece
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// `PreTrainedTokenizerBase.clean_up_tokenization` of transformers: one replacement after the other.
pub(super) fn clean_up(text: &str) -> String {
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

/// The length of the beginning of `text` for which [`clean_up`] does not depend on what follows the text.
///
/// A replacement that later characters can complete begins with a space and continues only with spaces and `'`, `n`,
/// `v`, `r`.
fn clean_up_boundary(text: &str) -> usize {
    let run = text.trim_end_matches([' ', '\'', 'n', 'v', 'r']).len();
    text[run..]
        .find(' ')
        .map_or(text.len(), |space| run + space)
}

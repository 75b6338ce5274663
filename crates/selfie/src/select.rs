//! Token selectors, which work on any prompt.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::{Error, Opened, Result};

/// Selects tokens of any prompt, with comma-separated parts:
///
/// | part | tokens |
/// |---|---|
/// | `3`, `2..5`, `2..=5`, `2..` | by index, from 0 |
/// | `-1`, `-3..`, `-3..-1` | from the end |
/// | `last`, `all` | the last token, all tokens |
/// | `word:TEXT` | the tokens of TEXT, wherever it occurs as a whole word |
/// | `after:TEXT` | all tokens that begin after the first TEXT |
///
/// TEXT extends to the next comma. As a JSON string (`word:"Paris, Texas"`) it may contain commas.
///
/// ```
/// use selfie::TokenSelector;
///
/// let selector: TokenSelector = "0,-2..".parse().unwrap();
/// let five = selector.select("", &[const { 0..0 }; 5]);
/// assert_eq!(five.tokens, [0, 3, 4]);
/// let one = selector.select("", &[const { 0..0 }; 1]);
/// assert_eq!(one.missed[0].to_string(), "\"-2..\" begins before the first of 1 tokens");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSelector {
    text: String,
    parts: Vec<Part>,
}

/// What a selector finds in a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// The tokens, part by part.
    pub tokens: Vec<usize>,
    /// The parts that the prompt lacks, in whole or in part. `tokens` has what it does contain.
    pub missed: Vec<Missed>,
}

/// A part of a selector that a prompt lacks, in whole or in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The part, as written.
    pub part: String,
    /// What the prompt lacks, as the end of a sentence.
    pub why: String,
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" {}", self.part, self.why)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    text: String,
    what: Selection,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Selection {
    All,
    Last,
    /// From one position to another (exclusive); `None` is the end.
    Range(Position, Option<Position>),
    Word(String),
    After(String),
}

/// An index from the first token, or from the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    FromStart(i64),
    FromEnd(i64),
}

impl FromStr for TokenSelector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |part: &str| Error::TokenSelector {
            text: text.to_owned(),
            part: part.trim().to_owned(),
        };
        let mut parts = Vec::new();
        let mut left = text;
        loop {
            let end = part_end(left).ok_or_else(|| refuse(left))?;
            let part = left[..end].trim();
            parts.push(Part {
                text: part.to_owned(),
                what: Selection::parse(part).ok_or_else(|| refuse(part))?,
            });
            match left[end..].strip_prefix(',') {
                Some(more) => left = more,
                None => break,
            }
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }
}

impl fmt::Display for TokenSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TokenSelector {
    /// The tokens that it selects in a prompt. `spans` has the bytes of the text that each token covers, as in
    /// [`Opened::spans`]; only `word:` and `after:` use them.
    pub fn select(&self, text: &str, spans: &[Range<usize>]) -> Selected {
        let mut selected = Selected::default();
        for part in &self.parts {
            let (tokens, why) = part.what.find(text, spans);
            selected.tokens.extend(tokens);
            selected.missed.extend(why.map(|why| Missed {
                part: part.text.clone(),
                why,
            }));
        }
        selected
    }

    /// Whether it needs a prompt's text, for a `word:` or an `after:`.
    pub fn needs_text(&self) -> bool {
        let of_text = |part: &Part| matches!(part.what, Selection::Word(_) | Selection::After(_));
        self.parts.iter().any(of_text)
    }
}

/// Where the first part ends. A quoted text ends with its quote.
fn part_end(list: &str) -> Option<usize> {
    let comma = list.find(',').unwrap_or(list.len());
    let quoted = |name: &str| {
        let text = list.trim_start().strip_prefix(name)?;
        text.starts_with('"').then_some(list.len() - text.len())
    };
    let Some(begin) = quoted("word:").or_else(|| quoted("after:")) else {
        return Some(comma);
    };
    let mut json = serde_json::Deserializer::from_str(&list[begin..]).into_iter::<String>();
    json.next()?.ok()?;
    let end = begin + json.byte_offset();
    let rest = &list[end..];
    let blank = rest.len() - rest.trim_start().len();
    (rest.trim_start().is_empty() || rest.trim_start().starts_with(',')).then_some(end + blank)
}

impl Selection {
    fn parse(part: &str) -> Option<Self> {
        if let Some(text) = part.strip_prefix("word:") {
            return Some(Self::Word(unquoted(text)?));
        }
        if let Some(text) = part.strip_prefix("after:") {
            return Some(Self::After(unquoted(text)?));
        }
        match (part, part.split_once("..")) {
            ("all", _) => Some(Self::All),
            ("last", _) => Some(Self::Last),
            (_, None) => {
                let place = Position::parse(part)?;
                Some(Self::Range(place, place.next()?))
            }
            (_, Some((from, to))) => {
                let from = Position::parse(from)?;
                let to = match to.strip_prefix('=') {
                    Some(to) => Position::parse(to)?.next()?,
                    None if to.is_empty() => None,
                    None => Some(Position::parse(to)?),
                };
                // A range that is empty in any prompt is a mistake.
                let is_empty = match (from, to) {
                    (Position::FromStart(from), Some(Position::FromStart(to))) => to <= from,
                    (Position::FromEnd(from), Some(Position::FromEnd(to))) => to >= from,
                    _ => false,
                };
                (!is_empty).then_some(Self::Range(from, to))
            }
        }
    }

    /// The tokens, and what the prompt lacks.
    fn find(&self, text: &str, spans: &[Range<usize>]) -> (Vec<usize>, Option<String>) {
        let len = spans.len();
        let chosen = |is_meant: &dyn Fn(&Range<usize>) -> bool| -> Vec<usize> {
            (0..len).filter(|&at| is_meant(&spans[at])).collect()
        };
        match self {
            Self::All => ((0..len).collect(), None),
            Self::Last => (len.checked_sub(1).into_iter().collect(), None),
            Self::Range(from, to) => {
                let end = i64::try_from(len).unwrap_or(i64::MAX);
                let (from, to) = (from.of(end), to.map_or(end, |to| to.of(end)));
                let why = if from < 0 {
                    Some(format!("begins before the first of {len} tokens"))
                } else if to > end {
                    Some(format!("is out of range: {} of 0..{len}", to - 1))
                } else if from >= to {
                    Some(format!("selects none of {len} tokens"))
                } else {
                    None
                };
                let held = from.clamp(0, end)..to.clamp(0, end);
                (held.filter_map(|at| at.try_into().ok()).collect(), why)
            }
            Self::Word(word) => {
                let places: Vec<Range<usize>> = words(text, word).collect();
                if places.is_empty() {
                    return (Vec::new(), Some("is not in the prompt".to_owned()));
                }
                let overlap = |a: &Range<usize>| {
                    let mut places = places.iter();
                    places.any(|b| a.start < b.end && b.start < a.end)
                };
                (chosen(&overlap), None)
            }
            Self::After(before) => {
                let Some(at) = text.find(&**before) else {
                    return (Vec::new(), Some("is not in the prompt".to_owned()));
                };
                let end = at + before.len();
                let tokens = chosen(&|span| span.start >= end && !span.is_empty());
                let why = tokens
                    .is_empty()
                    .then(|| "has no token after it".to_owned());
                (tokens, why)
            }
        }
    }
}

impl Position {
    fn parse(text: &str) -> Option<Self> {
        let number: i64 = text.parse().ok()?;
        if !text.starts_with('-') {
            return Some(Self::FromStart(number));
        }
        (number < 0).then_some(Self::FromEnd(number.checked_neg()?))
    }

    /// The next position; `Some(None)` is the end.
    fn next(self) -> Option<Option<Self>> {
        Some(match self {
            Self::FromStart(number) => Some(Self::FromStart(number.checked_add(1)?)),
            Self::FromEnd(1) => None,
            Self::FromEnd(number) => Some(Self::FromEnd(number - 1)),
        })
    }

    fn of(self, end: i64) -> i64 {
        match self {
            Self::FromStart(number) => number,
            Self::FromEnd(number) => end - number,
        }
    }
}

/// Unquotes a text that may be a JSON string; `None` if the text is empty.
fn unquoted(text: &str) -> Option<String> {
    let text = if text.starts_with('"') {
        serde_json::from_str(text).ok()?
    } else {
        text.to_owned()
    };
    (!text.is_empty()).then_some(text)
}

/// Where a word occurs as a whole word: no letter or digit continues it at either end.
fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = Range<usize>> {
    let joins = |a: Option<char>, b: Option<char>| {
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        is_part(a) && is_part(b)
    };
    text.match_indices(word).filter_map(move |(start, word)| {
        let end = start + word.len();
        let before = text[..start].chars().next_back();
        let after = text[end..].chars().next();
        let inside = joins(before, word.chars().next()) || joins(word.chars().next_back(), after);
        (!inside).then_some(start..end)
    })
}

impl Opened {
    /// The bytes that each token of a prompt covers; empty for added tokens such as bos.
    pub fn spans(&self, prompt: &str) -> Result<Vec<Range<usize>>> {
        let len = self.encode(prompt)?.len();
        let begin = self.tokenizer.begin(self.options.bos)?.len();
        let plain = self.tokenizer.encode_spans(prompt)?;
        let mut spans = vec![0..0; begin];
        spans.extend(plain.into_iter().map(|(_, span)| span));
        spans.resize(len, prompt.len()..prompt.len());
        Ok(spans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OpenOptions, Source};

    fn select(text: &str, len: usize) -> Selected {
        let selector: TokenSelector = text.parse().unwrap();
        selector.select("", &vec![0..0; len])
    }

    #[test]
    fn numbers_index_the_prompt() {
        let cases: [(&str, &[usize]); 14] = [
            ("2..4", &[2, 3]),
            ("2..=4", &[2, 3, 4]),
            ("7, 2..4,0", &[7, 2, 3, 0]),
            ("all", &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
            ("0,last", &[0, 8]),
            ("-1", &[8]),
            ("-9", &[0]),
            ("-3..", &[6, 7, 8]),
            ("-3..-1", &[6, 7]),
            ("-3..=-1", &[6, 7, 8]),
            ("7..", &[7, 8]),
            ("2..-5", &[2, 3]),
            ("0,-1", &[0, 8]),
            ("last,-2..9", &[8, 7, 8]),
        ];
        for (text, expected) in cases {
            let selected = select(text, 9);
            assert_eq!(selected.tokens, expected, "{text}");
            assert_eq!(selected.missed, [], "{text}");
        }
    }

    #[test]
    fn missing_tokens_are_reported_and_the_rest_found() {
        let cases: [(&str, &[usize], &str); 7] = [
            ("9", &[], "\"9\" is out of range: 9 of 0..9"),
            ("0,12", &[0], "\"12\" is out of range: 12 of 0..9"),
            ("7..12", &[7, 8], "\"7..12\" is out of range: 11 of 0..9"),
            ("-10", &[], "\"-10\" begins before the first of 9 tokens"),
            (
                "-11..2",
                &[0, 1],
                "\"-11..2\" begins before the first of 9 tokens",
            ),
            ("-1..0", &[], "\"-1..0\" selects none of 9 tokens"),
            ("9..", &[], "\"9..\" selects none of 9 tokens"),
        ];
        for (text, expected, missed) in cases {
            let selected = select(text, 9);
            assert_eq!(selected.tokens, expected, "{text}");
            assert_eq!(selected.missed.len(), 1, "{text}");
            assert_eq!(selected.missed[0].to_string(), missed);
        }
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for text in [
            "",
            "a",
            "..3",
            "3..3",
            "3..2",
            "1..=0",
            "1,,2",
            "1,",
            "-0",
            "-1..-3",
            "--1",
            "-",
            "-3..=",
            "..-1",
            "..",
            "-1-",
            "word:",
            "after:",
            "word:\"",
            "word:\"a",
            "word:\"a\"b",
            "after:\"\"",
            "-9223372036854775808",
            "9223372036854775807",
            "first",
        ] {
            let error = text.parse::<TokenSelector>().unwrap_err().to_string();
            assert!(error.contains("not a number"), "{text}: {error}");
        }
    }

    /// Pieces of a real tokenizer, found by their text.
    #[test]
    fn texts_are_found_where_they_stand_as_words() {
        let opened = Opened::new(Source::Demo, OpenOptions::default()).unwrap();
        let prompt = "[INST] Is Rome, that is old Rome, the capital? [/INST]";
        let spans = opened.spans(prompt).unwrap();
        assert_eq!(spans.len(), opened.encode(prompt).unwrap().len());
        let found = |text: &str| -> Vec<String> {
            let selected = text
                .parse::<TokenSelector>()
                .unwrap()
                .select(prompt, &spans);
            assert_eq!(selected.missed, [], "{text}");
            let texts = selected.tokens.iter().map(|&at| &prompt[spans[at].clone()]);
            texts.map(|text| text.trim().to_owned()).collect()
        };
        assert_eq!(found("word:Rome").concat(), "RomeRome");
        assert_eq!(found("word:is").concat(), "is");
        assert_eq!(found("word:\"Rome, that\"").concat(), "Rome,that");
        assert_eq!(found("after:capital").concat(), "?[/INST]");
        assert_eq!(
            found("after:\"old Rome,\",word:Is").concat(),
            "thecapital?[/INST]Is"
        );
        let nothing = |text: &str| {
            let selected = text
                .parse::<TokenSelector>()
                .unwrap()
                .select(prompt, &spans);
            assert!(selected.tokens.is_empty(), "{text}");
            selected.missed[0].to_string()
        };
        assert_eq!(nothing("word:Rom"), "\"word:Rom\" is not in the prompt");
        assert_eq!(
            nothing("after:Milan"),
            "\"after:Milan\" is not in the prompt"
        );
        assert_eq!(
            nothing("after:[/INST]"),
            "\"after:[/INST]\" has no token after it"
        );
    }
}

//! Interpretation prompts: text with placeholders that embeddings are written over.

use std::ops::Range;
use std::str::FromStr;

use selfie_llama::{Bos, Tokenizer};

use crate::{InterpError, Result};

/// The text of a placeholder for the tokenizer, as in the Python package of SelfIE.
const PLACEHOLDER: &str = "_ ";

/// A part of an interpretation prompt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PromptPart {
    /// Literal text.
    Text(String),
    /// A place for the embedding.
    Placeholder,
    /// A token of the vocabulary to overwrite. The text must become exactly one token in the prompt.
    Marker(String),
}

/// How the parts of an interpretation prompt are tokenized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Joining {
    /// As one text with `"_ "` for each placeholder, as the Python package of SelfIE does. Text after a placeholder can
    /// merge with it, so that the overwritten rows cover other text: see [`PlaceholderRows::note`].
    OneText,
    /// Each text and each run of placeholders separately, so that nothing merges.
    PartByPart,
}

/// A prompt that asks the model what the embedding at its placeholders says (arXiv 2403.10949, section 3.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InterpretationPrompt {
    /// Its parts, in order.
    pub parts: Vec<PromptPart>,
    /// How they are tokenized.
    pub joining: Joining,
    /// Whether a chat template has formatted them. The template also decides about bos, so nothing is put before them.
    pub rendered: bool,
}

/// An interpretation prompt in a tokenizer's ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedPrompt {
    /// Its text, with `"_ "` for each placeholder.
    pub text: String,
    /// Its ids, `[m]`.
    pub ids: Vec<u32>,
    /// The positions to overwrite, in order; a placeholder may take several.
    pub placeholders: Vec<usize>,
    /// The positions of each placeholder.
    pub rows: Vec<PlaceholderRows>,
}

/// Where one placeholder of an interpretation prompt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceholderRows {
    /// The placeholder's index among the prompt's parts.
    pub part: usize,
    /// The positions to overwrite for it.
    pub rows: Range<usize>,
    /// The tokens at these positions, as the vocabulary writes them.
    pub pieces: Vec<String>,
    /// The position of its `"_"`. With [`Joining::OneText`], this can be a row of the placeholder before it; `None` if
    /// the tokenizer dropped it.
    pub own: Option<usize>,
    /// What is wrong with its rows: they cover other text, or they miss its `"_"`.
    pub note: Option<String>,
}

impl InterpretationPrompt {
    /// A prompt of these parts, tokenized as [`Joining::OneText`].
    pub fn new(parts: Vec<PromptPart>) -> Self {
        Self {
            parts,
            joining: Joining::OneText,
            rendered: false,
        }
    }

    /// Reads a prompt from a JSON list of strings, with a 0 for each placeholder. It is tokenized as
    /// [`Joining::OneText`].
    ///
    /// ```
    /// use selfie_interp::{InterpretationPrompt, PromptPart};
    ///
    /// let prompt = InterpretationPrompt::from_json(r#"["Repeat: ", 0, " means"]"#)?;
    /// let text = |text: &str| PromptPart::Text(text.to_owned());
    /// assert_eq!(prompt.parts, [text("Repeat: "), PromptPart::Placeholder, text(" means")]);
    /// # Ok::<(), selfie_interp::InterpError>(())
    /// ```
    pub fn from_json(json: &str) -> Result<Self> {
        use serde_json::Value;
        let parts: Vec<Value> =
            serde_json::from_str(json).map_err(|source| InterpError::PromptJson { source })?;
        let part = |(index, part): (usize, &Value)| {
            PromptPart::read(part).ok_or_else(|| InterpError::PromptPart {
                index,
                found: part.to_string(),
            })
        };
        let parts = parts.iter().enumerate().map(part);
        Ok(Self::new(parts.collect::<Result<_>>()?))
    }

    /// The prompt's ids and the positions of its placeholders. Bos follows the tokenizer's files.
    pub fn locate(&self, tokenizer: &Tokenizer) -> Result<LocatedPrompt> {
        self.locate_as(tokenizer, Bos::Auto)
    }

    /// [`locate`](Self::locate) with or without bos. A prompt from a chat template begins as the template says; in such
    /// a prompt, a placeholder whose rows are wrong is an error.
    pub fn locate_as(&self, tokenizer: &Tokenizer, bos: Bos) -> Result<LocatedPrompt> {
        let is_marker = |part: &PromptPart| matches!(part, PromptPart::Marker(_));
        let has_markers = self.parts.iter().any(is_marker);
        if !has_markers && !self.parts.contains(&PromptPart::Placeholder) {
            return Err(InterpError::NoPlaceholder);
        }
        let bos = if self.rendered { Bos::Given } else { bos };
        if has_markers {
            return self.locate_markers(tokenizer, bos);
        }
        let located = match self.joining {
            Joining::OneText => self.locate_in_text(tokenizer, bos)?,
            Joining::PartByPart => self.locate_between_parts(tokenizer, bos)?,
        };
        if let Some(note) = located.notes().next().filter(|_| self.rendered) {
            return Err(InterpError::PlaceholderMerged {
                note: note.to_owned(),
                pieces: located.pieces(tokenizer),
            });
        }
        Ok(located)
    }

    /// Uses a token of the vocabulary as the placeholder: each `marker` in the prompt's text becomes one, and so
    /// does each placeholder. The whole is tokenized as one text.
    ///
    /// # Errors
    /// [`MarkerMissing`](InterpError::MarkerMissing) if the prompt has neither.
    pub fn with_marker(&self, marker: &str) -> Result<Self> {
        let marked = || PromptPart::Marker(marker.to_owned());
        let mut parts: Vec<PromptPart> = Vec::new();
        let mut push = |part: PromptPart| match (parts.last_mut(), part) {
            (Some(PromptPart::Text(text)), PromptPart::Text(more)) => text.push_str(&more),
            (_, part) => parts.push(part),
        };
        for part in &self.parts {
            let PromptPart::Text(text) = part else {
                push(marked());
                continue;
            };
            for (index, between) in text.split(marker).enumerate() {
                if index > 0 {
                    push(marked());
                }
                if !between.is_empty() {
                    push(PromptPart::Text(between.to_owned()));
                }
            }
        }
        if !parts.contains(&marked()) {
            return Err(InterpError::MarkerMissing {
                marker: marker.to_owned(),
                text: self.parts.iter().map(PromptPart::text).collect(),
            });
        }
        Ok(Self {
            parts,
            joining: Joining::OneText,
            rendered: self.rendered,
        })
    }

    /// Each marker is the single token that its text becomes.
    fn locate_markers(&self, tokenizer: &Tokenizer, bos: Bos) -> Result<LocatedPrompt> {
        let text: String = self.parts.iter().map(PromptPart::text).collect();
        let spans = tokenizer.encode_spans(&text)?;
        let begin = tokenizer.begin(bos)?;
        let (first, mut byte) = (begin.len(), 0);
        let mut rows = Vec::new();
        for (part, content) in self.parts.iter().enumerate() {
            let bytes = byte..byte + content.text().len();
            byte = bytes.end;
            if matches!(content, PromptPart::Text(_)) {
                continue;
            }
            // Some tokenizers exclude the space before a word from its span.
            let touches =
                |(_, span): &(u32, Range<usize>)| span.start < bytes.end && span.end > bytes.start;
            let mut touching = (0..spans.len()).filter(|&at| touches(&spans[at]));
            let one = touching.next().filter(|_| touching.next().is_none());
            let alone =
                one.filter(|&at| spans[at].1.start >= bytes.start && spans[at].1.end == bytes.end);
            let Some(at) = alone else {
                let piece =
                    |(id, _): &(u32, Range<usize>)| tokenizer.piece(*id).unwrap_or_default();
                return Err(InterpError::MarkerTokens {
                    marker: content.text().to_owned(),
                    pieces: spans
                        .iter()
                        .filter(|span| touches(span))
                        .map(piece)
                        .collect(),
                });
            };
            let row = first + at;
            rows.push(PlaceholderRows {
                part,
                rows: row..row + 1,
                pieces: vec![tokenizer.piece(spans[at].0).unwrap_or_default()],
                own: Some(row),
                note: None,
            });
        }
        Ok(LocatedPrompt {
            text,
            ids: begin
                .into_iter()
                .chain(spans.into_iter().map(|(id, _)| id))
                .collect(),
            placeholders: rows.iter().map(|rows| rows.rows.start).collect(),
            rows,
        })
    }

    /// The rows of a placeholder are the indices of the tokens that `"_ "` adds to the text before it.
    fn locate_in_text(&self, tokenizer: &Tokenizer, bos: Bos) -> Result<LocatedPrompt> {
        let mut text = String::new();
        let mut places = Vec::new();
        for (part, content) in self.parts.iter().enumerate() {
            let byte = text.len();
            if *content == PromptPart::Placeholder {
                let first = tokenizer.encode_as(&text, bos)?.len();
                text.push_str(PLACEHOLDER);
                let end = tokenizer.encode_as(&text, bos)?.len();
                if first >= end {
                    return Err(InterpError::PlaceholderWithoutToken { index: part });
                }
                let rows = first..end;
                places.push(Place { part, byte, rows });
            } else {
                text.push_str(content.text());
            }
        }
        let ids = tokenizer.encode_as(&text, bos)?;
        // Tokens of the following text may swallow the end of the last placeholder.
        let mut rows = places.iter().flat_map(|place| place.rows.clone());
        if let Some(position) = rows.find(|&row| row >= ids.len()) {
            return Err(InterpError::PlaceholderOutside {
                position,
                tokens: ids.len(),
            });
        }
        let begin = tokenizer.begin(bos)?.len();
        let spans = tokenizer.encode_spans(&text)?;
        let spans: Vec<Range<usize>> = spans.into_iter().map(|(_, span)| span).collect();
        Ok(located(tokenizer, text, ids, begin, &spans, places))
    }

    /// In a run of placeholders, a token is a row of the placeholder in which it ends.
    fn locate_between_parts(&self, tokenizer: &Tokenizer, bos: Bos) -> Result<LocatedPrompt> {
        let mut ids = tokenizer.begin(bos)?;
        let begin = ids.len();
        let mut text = String::new();
        let mut spans = Vec::new();
        let mut places = Vec::new();
        let mut part = 0;
        let is_placeholder = |part: &PromptPart| *part == PromptPart::Placeholder;
        for run in self
            .parts
            .chunk_by(|a, b| is_placeholder(a) && is_placeholder(b))
        {
            let tokens = match &run[0] {
                PromptPart::Text(text) if part == 0 => tokenizer.encode_spans(text)?,
                PromptPart::Text(text) | PromptPart::Marker(text) => {
                    tokenizer.encode_continuation(text)?
                }
                PromptPart::Placeholder => placeholder_run(tokenizer, run.len())?,
            };
            if is_placeholder(&run[0]) {
                for index in 0..run.len() {
                    let (part, byte) = (part + index, PLACEHOLDER.len() * index);
                    let [first, end] =
                        [byte, byte + PLACEHOLDER.len()].map(|byte| ending_by(&tokens, byte));
                    if first == end {
                        return Err(InterpError::PlaceholderWithoutToken { index: part });
                    }
                    places.push(Place {
                        part,
                        byte: text.len() + byte,
                        rows: ids.len() + first..ids.len() + end,
                    });
                }
            }
            for (id, span) in tokens {
                ids.push(id);
                spans.push(text.len() + span.start..text.len() + span.end);
            }
            text.extend(run.iter().map(PromptPart::text));
            part += run.len();
        }
        Ok(located(tokenizer, text, ids, begin, &spans, places))
    }
}

impl PromptPart {
    /// Reads a string, or a 0 for a placeholder.
    pub(crate) fn read(value: &serde_json::Value) -> Option<Self> {
        if value.as_u64() == Some(0) {
            return Some(Self::Placeholder);
        }
        value.as_str().map(|text| Self::Text(text.to_owned()))
    }

    /// The part's text for the tokenizer.
    pub(crate) fn text(&self) -> &str {
        match self {
            PromptPart::Text(text) | PromptPart::Marker(text) => text,
            PromptPart::Placeholder => PLACEHOLDER,
        }
    }
}

/// Reads JSON, like [`InterpretationPrompt::from_json`].
impl FromStr for InterpretationPrompt {
    type Err = InterpError;

    fn from_str(json: &str) -> Result<Self> {
        Self::from_json(json)
    }
}

impl LocatedPrompt {
    /// What is wrong with the rows of its placeholders, one line each.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().filter_map(|rows| rows.note.as_deref())
    }

    fn pieces(&self, tokenizer: &Tokenizer) -> Vec<String> {
        let piece = |&id: &u32| tokenizer.piece(id).unwrap_or_default();
        self.ids.iter().map(piece).collect()
    }
}

/// A placeholder, the start of its `"_ "` in the text, and its rows.
struct Place {
    part: usize,
    byte: usize,
    rows: Range<usize>,
}

/// The ids of some consecutive placeholders, with their bytes. Each placeholder has at least one id, even if the
/// tokenizer has a token for several.
fn placeholder_run(tokenizer: &Tokenizer, count: usize) -> Result<Vec<(u32, Range<usize>)>> {
    let together = tokenizer.encode_continuation(&PLACEHOLDER.repeat(count))?;
    let ends: Vec<usize> = (0..=count)
        .map(|index| ending_by(&together, PLACEHOLDER.len() * index))
        .collect();
    if ends.windows(2).all(|ends| ends[0] < ends[1]) {
        return Ok(together);
    }
    let one = tokenizer.encode_continuation(PLACEHOLDER)?;
    let at = |index: usize| {
        let byte = PLACEHOLDER.len() * index;
        let moved =
            move |(id, span): &(u32, Range<usize>)| (*id, byte + span.start..byte + span.end);
        one.iter().map(moved)
    };
    Ok((0..count).flat_map(at).collect())
}

/// How many of the tokens end at or before a byte of their text.
fn ending_by(tokens: &[(u32, Range<usize>)], byte: usize) -> usize {
    tokens.partition_point(|(_, span)| span.end <= byte)
}

/// Builds the located prompt, whose ids from `begin` on cover `spans` of the text.
fn located(
    tokenizer: &Tokenizer,
    text: String,
    ids: Vec<u32>,
    begin: usize,
    spans: &[Range<usize>],
    places: Vec<Place>,
) -> LocatedPrompt {
    let placeholders: Vec<usize> = places.iter().flat_map(|place| place.rows.clone()).collect();
    let bytes = places
        .iter()
        .map(|place| place.byte..place.byte + PLACEHOLDER.len());
    let bytes: Vec<Range<usize>> = bytes.collect();
    let covers_text = |row: usize| {
        let span = row.checked_sub(begin).and_then(|at| spans.get(at));
        let is_placeholder = |byte: usize| bytes.iter().any(|bytes| bytes.contains(&byte));
        span.is_none_or(|span| !span.clone().all(is_placeholder))
    };
    let piece = |row: usize| tokenizer.piece(ids[row]).unwrap_or_default();
    let mut rows = Vec::with_capacity(places.len());
    for Place {
        part,
        byte,
        rows: own_rows,
    } in places
    {
        let holds = |row: &usize| spans[row - begin].contains(&byte);
        let mut holding = (begin..begin + spans.len()).filter(holds);
        let written = holding.clone().find(|row| placeholders.contains(row));
        let own = written.or_else(|| holding.next());
        let note = if let Some(row) = own_rows.clone().find(|&row| covers_text(row)) {
            let piece = piece(row);
            Some(format!(
                "placeholder {part} overwrites \"{piece}\", which also holds text beside the placeholder"
            ))
        } else if written.is_none() {
            let piece = own.map(piece).unwrap_or_default();
            Some(format!(
                "placeholder {part} is in \"{piece}\", which is not overwritten"
            ))
        } else {
            None
        };
        rows.push(PlaceholderRows {
            part,
            pieces: own_rows.clone().map(piece).collect(),
            rows: own_rows,
            own,
            note,
        });
    }
    LocatedPrompt {
        text,
        ids,
        placeholders,
        rows,
    }
}

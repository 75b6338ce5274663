//! Natural-language autoencoders: the verbalizer (kitft/natural_language_autoencoders, commit 047eb8e: `nla_inference.py`,
//! `docs/inference.md`).

use std::path::PathBuf;

use selfie_llama::{Bos, ChatTemplate, Tokenizer};

use crate::{InterpError, InterpretationPrompt, PromptMessage, PromptPart, Result};

/// What stands around an explanation.
pub(super) const TAGS: [&str; 2] = ["<explanation>", "</explanation>"];

/// What `nla_meta.yaml` says of a verbalizer.
#[derive(Clone, Debug, PartialEq)]
pub struct Verbalizer {
    /// The file.
    pub path: PathBuf,
    /// The width of the vectors that it takes.
    pub d_model: usize,
    /// The layer of theirs that it reads, where the file says.
    pub layer: Option<usize>,
    /// The length that vectors are given; `None` writes them as they are.
    pub scale: Option<f32>,
    /// The character that stands in the vector's place.
    pub marker: String,
    /// Its id.
    pub marker_id: u32,
    /// The ids before and behind it.
    pub neighbors: [u32; 2],
    /// What the user says, with `{injection_char}`.
    pub template: String,
}

impl Verbalizer {
    /// Its prompt: of the markers in it, the one is written over whose neighbours are those of the file.
    pub(super) fn prompt(
        &self,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
    ) -> Result<InterpretationPrompt> {
        let refuse = |problem: String| InterpError::ReaderFile {
            path: self.path.clone(),
            problem,
        };
        let ids = tokenizer.encode_continuation(&self.marker)?;
        let ids: Vec<u32> = ids.into_iter().map(|(id, _)| id).collect();
        if ids != [self.marker_id] {
            return Err(refuse(format!(
                "injection_char {:?} is {ids:?} in the reader's tokenizer, and injection_token_id says {}",
                self.marker, self.marker_id
            )));
        }
        let content = format_python(&self.template, "injection_char", &self.marker);
        let message = PromptMessage {
            role: "user".to_owned(),
            parts: vec![PromptPart::Text(content)],
        };
        let mut prompt =
            InterpretationPrompt::from_messages(&[message], template)?.with_marker(&self.marker)?;
        let located = prompt.locate_as(tokenizer, Bos::Given)?;
        let around = |row: usize| {
            let before = row.checked_sub(1).and_then(|row| located.ids.get(row));
            [before.copied(), located.ids.get(row + 1).copied()]
        };
        let fits = |row: usize| around(row) == self.neighbors.map(Some);
        let fitting = located
            .placeholders
            .iter()
            .filter(|&&row| fits(row))
            .count();
        if fitting != 1 {
            let found = located
                .placeholders
                .iter()
                .map(|&row| format!("{:?}", around(row).map(Option::unwrap_or_default)));
            return Err(refuse(format!(
                "{fitting} of the {} markers {:?} in the prompt stand between the ids {:?} of the file, expected one; they \
                 stand between {}",
                located.placeholders.len(),
                self.marker,
                self.neighbors,
                found.collect::<Vec<_>>().join(", ")
            )));
        }
        for rows in located.rows.iter().filter(|rows| !fits(rows.rows.start)) {
            prompt.parts[rows.part] = PromptPart::Text(self.marker.clone());
        }
        Ok(prompt)
    }
}

/// A text with one field filled in, as Python's `str.format` does: doubled braces are single ones.
pub(super) fn format_python(template: &str, field: &str, value: &str) -> String {
    let field = format!("{{{field}}}");
    let parts = template.split(&field);
    let parts: Vec<String> = parts
        .map(|part| part.replace("{{", "{").replace("}}", "}"))
        .collect();
    parts.join(value)
}

//! Verbalizers of natural-language autoencoders (kitft/natural_language_autoencoders, commit 047eb8e:
//! `nla_inference.py`, `docs/inference.md`; asherps/EasyNLA, commit 4d72847: `nla/injection.py`, `nla/utils/hooks.py`).

use std::path::PathBuf;

use selfie_llama::{Bos, ChatTemplate, Tokenizer};

use crate::{InjectAt, InterpError, InterpretationPrompt, PromptMessage, PromptPart, Result};

/// The tags around an explanation.
pub(super) const TAGS: [&str; 2] = ["<explanation>", "</explanation>"];

/// A verbalizer, as described by `nla_meta.yaml`.
#[derive(Clone, Debug, PartialEq)]
pub struct Verbalizer {
    /// The file.
    pub path: PathBuf,
    /// The width of the vectors it takes.
    pub d_model: usize,
    /// The layer it reads, in the repository's numbering, if the file says.
    pub layer: Option<usize>,
    /// Where and how it injects.
    pub inject: InjectAt,
    /// Whether its folder holds low-rank adapters of the subject instead of a model.
    pub lora: bool,
    /// The placeholder character.
    pub marker: String,
    /// Its id.
    pub marker_id: u32,
    /// The ids before and after it.
    pub neighbors: [u32; 2],
    /// The user's message, with `{injection_char}`.
    pub template: String,
}

impl Verbalizer {
    /// The verbalizer's prompt. Of the markers in it, the one with the file's neighbours is overwritten.
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
                "injection_char {:?} is {ids:?} in the reader's tokenizer, but injection_token_id is {}",
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
                "{fitting} of the {} markers {:?} in the prompt have the file's neighbours {:?}; expected one; their \
                 neighbours are {}",
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

/// Fills in one field like Python's `str.format`: doubled braces become single ones.
pub(super) fn format_python(template: &str, field: &str, value: &str) -> String {
    let field = format!("{{{field}}}");
    let parts = template.split(&field);
    let parts: Vec<String> = parts
        .map(|part| part.replace("{{", "{").replace("}}", "}"))
        .collect();
    parts.join(value)
}

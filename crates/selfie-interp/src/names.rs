//! Named interpretation prompts.

use selfie_llama::{ChatEnd, ChatMessage, ChatTemplate};

use crate::{InterpError, InterpretationPrompt, Joining, PromptMessage, PromptPart, Result};

/// A name, the user's message, and the beginning of the assistant's answer; placeholders are [`P`].
type Named = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

/// A placeholder.
const P: &str = "\0";
/// A message that consists of the embedding alone.
const MESSAGE: &[&str] = &[P; 5];

/// - `summarize`: SelfIE (arXiv 2403.10949, section 3.1); `materials`, `repeat` and `continue` follow its form.
/// - `meaning`: selfie-adapters (agencyenterprise/selfie-adapters, `selfie_adapters/inference.py`).
/// - `entity`: the few-shot prompt of Patchscopes (arXiv 2401.06102, section 4.3), as the beginning of an answer.
const NAMED: [Named; 6] = [
    (
        "summarize",
        MESSAGE,
        &["Sure, I will summarize the message:"],
    ),
    (
        "materials",
        MESSAGE,
        &["The materials mentioned in the message are:\n\n"],
    ),
    ("repeat", MESSAGE, &["Sure, I will repeat the word:"]),
    (
        "meaning",
        &["What is the meaning of \"", P, "\"?"],
        &["The meaning of \"", P, "\" is \""],
    ),
    (
        "entity",
        &["Describe each of these in a few words."],
        &[
            "Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: South Korean \
             multinational major appliance and consumer electronics corporation, ",
            P,
            ":",
        ],
    ),
    ("continue", MESSAGE, &["Sure, I will continue the message:"]),
];

impl InterpretationPrompt {
    /// The names that [`template`](InterpretationPrompt::template) and [`named`](InterpretationPrompt::named) accept.
    pub const TEMPLATES: [&str; 6] = [
        NAMED[0].0, NAMED[1].0, NAMED[2].0, NAMED[3].0, NAMED[4].0, NAMED[5].0,
    ];

    /// A named prompt in LLaMA 2's format (`[INST]`), tokenized as [`Joining::PartByPart`], for models without a chat
    /// template.
    pub fn template(name: &str) -> Result<Self> {
        let (_, asks, answers) = find(name)?;
        let mut parts = vec![PromptPart::Text("[INST]".to_owned())];
        // A placeholder brings the space after it.
        let is_text = |part: Option<&&str>| part.is_some_and(|&part| part != P);
        if is_text(asks.first()) {
            push_text(&mut parts, " ");
        }
        push_all(&mut parts, asks);
        if is_text(asks.last()) {
            push_text(&mut parts, " ");
        }
        push_text(&mut parts, "[/INST] ");
        push_all(&mut parts, answers);
        Ok(Self {
            parts,
            joining: Joining::PartByPart,
            rendered: false,
        })
    }

    /// A named prompt, formatted by the reader's chat template: a user message, and the beginning of the assistant's
    /// answer. If the template is LLaMA 2's, or there is none, this is [`template`](InterpretationPrompt::template).
    pub fn named(name: &str, template: Option<&ChatTemplate>) -> Result<Self> {
        let (_, asks, answers) = find(name)?;
        match template {
            Some(template) if !has_inst_form(template)? => {
                let message = |(role, texts): (&str, &[&str])| {
                    let mut parts = Vec::new();
                    push_all(&mut parts, texts);
                    PromptMessage {
                        role: role.to_owned(),
                        parts,
                    }
                };
                let messages = [("user", asks), ("assistant", answers)].map(message);
                Self::from_messages(&messages, template)
            }
            _ => Self::template(name),
        }
    }
}

fn find(name: &str) -> Result<Named> {
    let named = NAMED.into_iter().find(|(known, ..)| *known == name);
    named.ok_or_else(|| InterpError::UnknownTemplate {
        name: name.to_owned(),
    })
}

/// Whether a template only puts `[INST]` and `[/INST]` around user messages, as LLaMA 2's does.
fn has_inst_form(template: &ChatTemplate) -> Result<bool> {
    let text = template.render(&[ChatMessage::new("user", "x")], ChatEnd::Reply)?;
    let text = text.strip_prefix(template.bos()).unwrap_or(&text);
    let words: String = text.split_whitespace().collect();
    Ok(words == "[INST]x[/INST]")
}

fn push_all(parts: &mut Vec<PromptPart>, texts: &[&str]) {
    for &text in texts {
        if text == P {
            parts.push(PromptPart::Placeholder);
        } else {
            push_text(parts, text);
        }
    }
}

/// Appends to the last text, or adds one.
fn push_text(parts: &mut Vec<PromptPart>, more: &str) {
    if let Some(PromptPart::Text(text)) = parts.last_mut() {
        text.push_str(more);
    } else {
        parts.push(PromptPart::Text(more.to_owned()));
    }
}

//! LatentQA (aypan17/latentqa, commit e40cc44: `lit/utils/dataset_utils.py`, `lit/utils/activation_utils.py`,
//! `lit/configs/peft_config.py`).

use std::path::Path;

use selfie_llama::{ChatTemplate, Tokenizer};

use super::mark_runs;
use crate::{InterpretationPrompt, PromptMessage, PromptPart, Result};

/// The decoder's words between the states and the question.
const ANALYZED: &str = "Sure, I've analyzed the assistant.";
/// The decoder's chat template for Llama 3, in which the assistant's role is called `reflect`.
const TEMPLATE: &str = "{% for message in messages %}{% set role = message['role'] %}{% if role == 'assistant' %}\
{% set role = 'reflect' %}{% endif %}{% set content = '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + \
message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}\
{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>reflect<|end_header_id|>\n\n' }}{% endif %}";
/// This token shows that a tokenizer is Llama 3's.
const HEADER: &str = "<|start_header_id|>";

/// A LatentQA decoder. Its folder only holds a LoRA, so everything else is fixed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentQa;

impl LatentQa {
    /// The output of `layers[15]`.
    pub(super) const READS: usize = 16;
    /// The output of `layers[0]`.
    pub(super) const WRITES: usize = 1;

    /// A user message with `? ` for each token to read, the fixed answer, and the question.
    pub(super) fn prompt(
        self,
        span: usize,
        question: &str,
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
    ) -> Result<InterpretationPrompt> {
        let markers: Vec<String> = (0..span)
            .map(|at| if at == 0 { "?" } else { " ?" }.to_owned())
            .collect();
        let message = |(role, content): (&str, &str)| PromptMessage {
            role: role.to_owned(),
            parts: vec![PromptPart::Text(content.to_owned())],
        };
        let states = "? ".repeat(span);
        let messages = [
            ("user", &*states),
            ("assistant", ANALYZED),
            ("user", question),
        ];
        let messages = messages.map(message);
        let has_headers = tokenizer.encode_plain(HEADER)?.len() == 1;
        let reflect = if has_headers {
            let special = tokenizer.special_tokens();
            Some(ChatTemplate::parse(
                TEMPLATE,
                special,
                Path::new("LatentQA's template"),
            )?)
        } else {
            None
        };
        let prompt =
            InterpretationPrompt::from_messages(&messages, reflect.as_ref().unwrap_or(template))?;
        // The question may contain question marks; the first run is the one to overwrite.
        mark_first(&prompt, &markers)
    }
}

/// [`mark_runs`] of the first occurrence.
fn mark_first(prompt: &InterpretationPrompt, markers: &[String]) -> Result<InterpretationPrompt> {
    let text: String = prompt.parts.iter().map(PromptPart::text).collect();
    let run = markers.concat();
    let Some(at) = text.find(&run) else {
        return mark_runs(prompt, markers, 1);
    };
    let end = at + run.len();
    let head = InterpretationPrompt {
        parts: vec![PromptPart::Text(text[..end].to_owned())],
        ..prompt.clone()
    };
    let mut marked = mark_runs(&head, markers, 1)?;
    marked.parts.push(PromptPart::Text(text[end..].to_owned()));
    Ok(marked)
}

//! Interpretation prompts as chat messages, formatted by the reader's chat template.

use selfie_llama::{ChatEnd, ChatMessage, ChatTemplate};
use serde_json::Value;

use crate::{InterpError, InterpretationPrompt, Joining, PromptPart, Result};

/// A message of an interpretation prompt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PromptMessage {
    /// The role of the speaker: `system`, `user` or `assistant`.
    pub role: String,
    /// The content.
    pub parts: Vec<PromptPart>,
}

/// The first of the characters that stand for placeholders in the template's input, from a private-use plane.
const MARKS: u32 = 0xF0000;

impl PromptMessage {
    /// Reads messages from JSON. `content` is a text, or a list of texts with a 0 for each placeholder. `None` if no
    /// item of the list is an object; [`InterpretationPrompt::from_json`] reads such lists.
    pub fn list_from_json(json: &str) -> Result<Option<Vec<Self>>> {
        let list: Vec<Value> =
            serde_json::from_str(json).map_err(|source| InterpError::PromptJson { source })?;
        if !list.iter().any(Value::is_object) {
            return Ok(None);
        }
        let message = |(index, value): (usize, &Value)| {
            Self::read(value).ok_or_else(|| InterpError::PromptMessage {
                index,
                found: value.to_string(),
            })
        };
        list.iter()
            .enumerate()
            .map(message)
            .collect::<Result<_>>()
            .map(Some)
    }

    fn read(value: &Value) -> Option<Self> {
        let object = value.as_object().filter(|object| object.len() == 2)?;
        let parts = match object.get("content")? {
            Value::String(text) => vec![PromptPart::Text(text.clone())],
            Value::Array(list) => list.iter().map(PromptPart::read).collect::<Option<_>>()?,
            _ => return None,
        };
        Some(Self {
            role: object.get("role")?.as_str()?.to_owned(),
            parts,
        })
    }
}

impl InterpretationPrompt {
    /// Formats messages with a chat template. A final assistant message is left open; after any other message, the
    /// assistant's turn begins. The prompt is tokenized as [`Joining::PartByPart`], so that nothing merges.
    ///
    /// ```
    /// use selfie_interp::{InterpretationPrompt, PromptMessage, PromptPart};
    /// use selfie_llama::ChatTemplate;
    ///
    /// let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}";
    /// let template = ChatTemplate::parse(template, &Default::default(), "a.jinja".as_ref())?;
    /// let messages = r#"[{"role":"user","content":["Explain: ",0]},{"role":"assistant","content":"Sure,"}]"#;
    /// let messages = PromptMessage::list_from_json(messages)?.unwrap();
    ///
    /// let prompt = InterpretationPrompt::from_messages(&messages, &template)?;
    /// let text = |text: &str| PromptPart::Text(text.to_owned());
    /// let after = text("</><assistant>Sure,");
    /// assert_eq!(prompt.parts, [text("<user>Explain: "), PromptPart::Placeholder, after]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Errors of the template; a placeholder that it drops or writes twice.
    pub fn from_messages(messages: &[PromptMessage], template: &ChatTemplate) -> Result<Self> {
        let mut marks = (MARKS..).filter_map(char::from_u32);
        let mut used = Vec::new();
        let mut content = |part: &PromptPart| match part {
            PromptPart::Text(text) | PromptPart::Marker(text) => text.clone(),
            PromptPart::Placeholder => {
                let mark = marks.next().unwrap_or_default();
                used.push(mark);
                mark.to_string()
            }
        };
        let chat: Vec<ChatMessage> = messages
            .iter()
            .map(|message| {
                let content: String = message.parts.iter().map(&mut content).collect();
                ChatMessage::new(&message.role, content)
            })
            .collect();
        let end = ChatEnd::to_go_on(messages.last().map(|message| &*message.role));
        let text = template.render(&chat, end)?;
        let prompt = Self {
            parts: split(&text, &used),
            joining: Joining::PartByPart,
            rendered: true,
        };
        for (index, &mark) in used.iter().enumerate() {
            let times = text.matches(mark).count();
            if times != 1 {
                let text = prompt.parts.iter().map(PromptPart::text).collect();
                return Err(InterpError::PlaceholderLost { index, times, text });
            }
        }
        Ok(prompt)
    }
}

/// Splits text at the marks, and puts a placeholder in place of each mark.
fn split(text: &str, marks: &[char]) -> Vec<PromptPart> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(marks) {
        if at > 0 {
            parts.push(PromptPart::Text(rest[..at].to_owned()));
        }
        parts.push(PromptPart::Placeholder);
        let mark = rest[at..].chars().next().map_or(0, char::len_utf8);
        rest = &rest[at + mark..];
    }
    if !rest.is_empty() {
        parts.push(PromptPart::Text(rest.to_owned()));
    }
    parts
}

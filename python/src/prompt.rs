//! Prompts: texts, and chats that the model's chat template formats.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use selfie::Opened;
use selfie::llama::{Bos, ChatEnd, ChatMessage};

use crate::error::{Failed, Result, value_error};

/// A prompt as text.
pub(crate) struct Prompt {
    pub(crate) text: String,
    /// [`Bos::Given`] for the text of a chat: the template wrote bos, or left it out.
    pub(crate) bos: Bos,
}

/// Several prompts that begin alike.
pub(crate) struct Prompts {
    pub(crate) texts: Vec<String>,
    pub(crate) bos: Bos,
}

impl Prompt {
    /// A string as it is; a list of messages as the chat template formats it.
    pub(crate) fn new(opened: &Opened, given: &Bound<'_, PyAny>) -> PyResult<Self> {
        if given.is_instance_of::<PyString>() {
            return Ok(Self {
                text: given.extract()?,
                bos: opened.options.bos,
            });
        }
        if given.try_iter().is_err() {
            return Err(PyTypeError::new_err(
                "prompt: expected a text, or the messages of a chat",
            ));
        }
        Ok(Self {
            text: render(opened, given)?,
            bos: Bos::Given,
        })
    }

    pub(crate) fn ids(&self, opened: &Opened) -> Result<Vec<u32>> {
        Ok(opened.encode_as(&self.text, self.bos)?)
    }
}

impl Prompts {
    /// One prompt, or any number of them.
    pub(crate) fn new(opened: &Opened, given: &Bound<'_, PyAny>) -> PyResult<Self> {
        let one = given.is_instance_of::<PyString>();
        let items: Vec<Bound<'_, PyAny>> = if one {
            vec![given.clone()]
        } else {
            given.try_iter()?.collect::<PyResult<_>>()?
        };
        let is_chat = items.iter().any(|item| item.is_instance_of::<PyDict>());
        let prompts = if is_chat {
            let messages = PyList::new(given.py(), items)?;
            vec![Prompt::new(opened, messages.as_any())?]
        } else {
            items
                .iter()
                .map(|item| Prompt::new(opened, item))
                .collect::<PyResult<Vec<_>>>()?
        };
        let bos = prompts
            .first()
            .map_or(opened.options.bos, |prompt| prompt.bos);
        if prompts.iter().any(|prompt| prompt.bos != bos) {
            return value_error(
                "prompts: some are texts and some are chats; interpret them separately",
            );
        }
        let texts = prompts.into_iter().map(|prompt| prompt.text).collect();
        Ok(Self { texts, bos })
    }

    /// Notes about prompts that begin with two bos tokens, or a chat that lacks one.
    pub(crate) fn notes(&self, opened: &Opened) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        for text in &self.texts {
            let tokenizer = &opened.tokenizer;
            let note = if self.bos == Bos::Given {
                tokenizer.missing_bos_note(text)
            } else {
                tokenizer.bos_note(text, self.bos)
            };
            notes.extend(note?.map(|note| note.to_string()));
        }
        Ok(notes)
    }
}

/// The text of messages, ending where the model continues.
pub(crate) fn render(opened: &Opened, messages: &Bound<'_, PyAny>) -> PyResult<String> {
    let json = messages.py().import("json")?;
    let json: String = json.call_method1("dumps", (messages,))?.extract()?;
    let messages = ChatMessage::list_from_json(&json).map_err(Failed::from)?;
    let template = opened.needed_chat_template().map_err(Failed::from)?;
    let end = ChatEnd::to_go_on(messages.last().map(|message| &*message.role));
    Ok(template.render(&messages, end).map_err(Failed::from)?)
}

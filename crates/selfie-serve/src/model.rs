//! What is known about the model without its weights. It is prepared once, so that requests open no files.

use std::sync::Arc;

use axum::http::StatusCode;
use selfie::Opened;
use selfie::interp::{InterpretationPrompt, LocatedPrompt, Options, ReaderSize};
use selfie::llama::{Bos, ChatEnd, ChatMessage, ChatTemplate, LlamaError, TokenText, Tokenizer};

use crate::error::Result;
use crate::problem::Problem;
use crate::prompts::Prompt;

/// The model's small files.
pub(crate) struct ServedModel {
    pub(crate) opened: Arc<Opened>,
    chat_template: Option<ChatTemplate>,
    templates: Vec<(&'static str, InterpretationPrompt)>,
    /// The size of the reader.
    pub(crate) size: ReaderSize,
}

impl ServedModel {
    pub(crate) fn new(opened: Arc<Opened>, size: ReaderSize) -> Result<Self> {
        let chat_template = opened.chat_template()?;
        let named = |name| {
            let prompt = InterpretationPrompt::named(name, chat_template.as_ref());
            Ok((name, prompt.map_err(selfie::Error::from)?))
        };
        let templates = InterpretationPrompt::TEMPLATES.into_iter().map(named);
        Ok(Self {
            templates: templates.collect::<Result<_>>()?,
            chat_template,
            opened,
            size,
        })
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.opened.tokenizer
    }

    /// A named interpretation prompt.
    pub(crate) fn template(&self, name: &str) -> Result<InterpretationPrompt, Problem> {
        let known = self.templates.iter().find(|(known, _)| *known == name);
        match known {
            Some((_, prompt)) => Ok(prompt.clone()),
            // This returns the error message.
            None => Ok(InterpretationPrompt::template(name)?),
        }
    }

    pub(crate) fn has_chat_template(&self) -> bool {
        self.chat_template.is_some()
    }

    pub(crate) fn chat_template(&self) -> Result<&ChatTemplate, Problem> {
        let missing = || LlamaError::NoChatTemplate {
            path: self.opened.name.clone().into(),
        };
        self.chat_template.as_ref().ok_or_else(|| missing().into())
    }

    /// A plain prompt.
    pub(crate) fn prompt(&self, text: String) -> Result<Prompt, Problem> {
        let ids = self.opened.encode(&text)?;
        // A value that begins with a dash would be taken for an option.
        let words = if text.starts_with('-') {
            vec![format!("--prompt={text}")]
        } else {
            vec!["--prompt".to_owned(), text.clone()]
        };
        self.checked(Prompt::new(text, ids, self.opened.options.bos, words))
    }

    /// A prompt formatted by the model's chat template.
    pub(crate) fn chat(&self, messages: &[ChatMessage]) -> Result<Prompt, Problem> {
        let end = ChatEnd::to_go_on(messages.last().map(|message| &*message.role));
        let text = self.chat_template()?.render(messages, end)?;
        let ids = self.tokenizer().encode_as(&text, Bos::Given)?;
        let json = serde_json::to_string(messages)
            .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        let words = vec!["--chat".to_owned(), "--prompt".to_owned(), json];
        self.checked(Prompt::new(text, ids, Bos::Given, words))
    }

    fn checked(&self, prompt: Prompt) -> Result<Prompt, Problem> {
        self.opened.config.check_context(prompt.ids.len())?;
        Ok(prompt)
    }

    pub(crate) fn tokens(&self, prompt: &Prompt) -> Result<Vec<TokenText>, Problem> {
        Ok(self.tokenizer().tokens(&prompt.ids)?)
    }

    /// The ids of the options' interpretation prompt. Checks that the reader has room for it.
    pub(crate) fn locate(&self, options: &Options) -> Result<LocatedPrompt, Problem> {
        let located = options.prompt.locate_as(self.tokenizer(), options.bos)?;
        let first = located.placeholders.iter().copied().min().unwrap_or(0);
        let tokens = located.ids.len();
        for (what, found, room) in [
            (
                "max_new_tokens",
                options.max_new_tokens,
                self.size.max_new_tokens,
            ),
            (
                "tokens of the interpretation prompt",
                tokens,
                self.size.prompt_tokens,
            ),
            (
                "tokens of the interpretation prompt from its first placeholder on",
                tokens - first,
                self.size.written_tokens,
            ),
        ] {
            if found > room {
                let message = format!("{what}: {found}, but this server has room for {room}");
                return Err(Problem::bad(message));
            }
        }
        Ok(located)
    }
}

//! Chat prompts: the messages, and the text that the model's chat template makes of them.

use std::ops::Range;

use selfie::Opened;
use selfie::llama::{Bos, ChatEnd, ChatMessage, RenderedChat};

use crate::args::{BosArg, ChatArgs, ModelArgs};
use crate::console::print_note;
use crate::error::{Result, usage};

/// A formatted chat.
pub(crate) struct Chat {
    /// Its messages.
    pub(crate) messages: Vec<ChatMessage>,
    /// The text, and where the messages are in it.
    pub(crate) rendered: RenderedChat,
}

/// The texts to tokenize: with `--chat`, the output of the chat template, to which the tokenizer adds nothing.
pub(crate) fn texts(
    prompts: Vec<String>,
    args: &ChatArgs,
    model: &ModelArgs,
    opened: &mut Opened,
) -> Result<Vec<String>> {
    if !args.chat {
        return Ok(prompts);
    }
    let chats = chats(&prompts, args, model, opened)?;
    Ok(chats.into_iter().map(|chat| chat.rendered.text).collect())
}

/// [`texts`] for several lists of prompts.
pub(crate) fn lists<const N: usize>(
    prompts: [&[String]; N],
    args: &ChatArgs,
    model: &ModelArgs,
    opened: &mut Opened,
) -> Result<[Vec<String>; N]> {
    let mut texts = texts(prompts.concat(), args, model, opened)?.into_iter();
    Ok(prompts.map(|list| texts.by_ref().take(list.len()).collect()))
}

/// [`texts`] for one prompt.
pub(crate) fn text(
    prompt: &str,
    args: &ChatArgs,
    model: &ModelArgs,
    opened: &mut Opened,
) -> Result<String> {
    let texts = texts(vec![prompt.to_owned()], args, model, opened)?;
    Ok(texts.concat())
}

/// The chats of prompts, with a note if they lack the bos that other prompts get.
pub(crate) fn chats(
    prompts: &[String],
    args: &ChatArgs,
    model: &ModelArgs,
    opened: &mut Opened,
) -> Result<Vec<Chat>> {
    if model.bos != BosArg::Auto {
        return usage(
            "--bos: the chat template decides how a prompt begins; leave --bos out with --chat",
        );
    }
    let template = opened.needed_chat_template()?;
    let mut chats = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let messages = messages(prompt, args.system.as_deref())?;
        let end = ChatEnd::to_go_on(messages.last().map(|message| &*message.role));
        let rendered = template.render_spans(&messages, end);
        let rendered = rendered.map_err(selfie::Error::from)?;
        chats.push(Chat { messages, rendered });
    }
    // One note for each model.
    if let Some(chat) = chats.first().filter(|_| opened.options.bos != Bos::Given) {
        let note = opened.tokenizer.missing_bos_note(&chat.rendered.text)?;
        if let Some(note) = note {
            print_note(model.quiet, note);
        }
    }
    opened.options.bos = Bos::Given;
    Ok(chats)
}

/// The messages of a prompt: a JSON list as it is, anything else as one user message. `system` goes first.
fn messages(prompt: &str, system: Option<&str>) -> Result<Vec<ChatMessage>> {
    let list = prompt.trim_start().strip_prefix('[');
    let is_list = list.is_some_and(|list| list.trim_start().starts_with('{'));
    let mut messages = if is_list {
        ChatMessage::list_from_json(prompt)?
    } else if prompt.is_empty() {
        return Err(selfie::Error::EmptyPrompt.into());
    } else {
        vec![ChatMessage::new("user", prompt)]
    };
    if let Some(system) = system {
        if messages.iter().any(|message| message.role == "system") {
            return usage("--system: the messages already have a system message; give only one");
        }
        messages.insert(0, ChatMessage::new("system", system));
    }
    Ok(messages)
}

impl Chat {
    /// The message that each token belongs to, as `1:user`; empty for the template's own tokens.
    pub(crate) fn roles(&self, opened: &Opened) -> Result<Vec<String>> {
        let overlaps = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
        let tokens = opened.tokenizer.encode_spans(&self.rendered.text)?;
        let role = |(_, span): (u32, Range<usize>)| {
            let contents = self.rendered.contents.iter().enumerate();
            let own = |content: &Option<Range<usize>>| {
                content
                    .as_ref()
                    .is_some_and(|content| overlaps(content, &span))
            };
            let mut own = contents.filter(|(_, content)| own(content));
            let found = own.next();
            found.map_or_else(String::new, |(index, _)| {
                format!("{index}:{}", self.messages[index].role)
            })
        };
        Ok(tokens.into_iter().map(role).collect())
    }

    /// Notes the messages whose tokens cannot be found in the formatted text.
    pub(crate) fn note_unmarked(&self, quiet: bool) {
        let messages = self.messages.iter().zip(&self.rendered.contents);
        for (index, (message, _)) in messages
            .enumerate()
            .filter(|(_, (_, content))| content.is_none())
        {
            print_note(
                quiet,
                format!(
                    "message {index} ({}) is not verbatim in the formatted text: its tokens are not marked",
                    message.role
                ),
            );
        }
    }
}

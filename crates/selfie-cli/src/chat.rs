//! Prompts that are chats: messages as they are given, and the text that the model's chat template makes of them.

use std::ops::Range;

use selfie::Opened;
use selfie::llama::{Bos, ChatEnd, ChatMessage, RenderedChat};

use crate::args::{BosArg, ChatArgs, ModelArgs};
use crate::console::tell;
use crate::error::{Result, usage};

/// A chat, written out.
pub(crate) struct Chat {
    /// Its messages.
    pub(crate) messages: Vec<ChatMessage>,
    /// The text, and where they are in it.
    pub(crate) rendered: RenderedChat,
}

/// The prompts as they are tokenized: with `--chat`, what the chat template makes of them. The model then adds nothing to
/// a prompt.
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

/// [`texts`] of one prompt.
pub(crate) fn text(
    prompt: &str,
    args: &ChatArgs,
    model: &ModelArgs,
    opened: &mut Opened,
) -> Result<String> {
    let texts = texts(vec![prompt.to_owned()], args, model, opened)?;
    Ok(texts.concat())
}

/// The chats of prompts, with a note if they begin without the bos that other prompts get.
pub(crate) fn chats(
    prompts: &[String],
    args: &ChatArgs,
    model: &ModelArgs,
    opened: &mut Opened,
) -> Result<Vec<Chat>> {
    if model.bos != BosArg::Auto {
        return usage("--bos: with --chat the chat template says how a prompt begins");
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
    if let Some(chat) = chats.first() {
        tell_of_bos(opened, &chat.rendered.text, model.quiet)?;
    }
    opened.options.bos = Bos::Given;
    Ok(chats)
}

/// A list of messages if it is one in JSON, else a message of the user; after one of the system, if it is given.
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
            return usage("--system: the messages have one of the system already");
        }
        messages.insert(0, ChatMessage::new("system", system));
    }
    Ok(messages)
}

fn tell_of_bos(opened: &Opened, text: &str, quiet: bool) -> Result<()> {
    let tokenizer = &opened.tokenizer;
    let added = tokenizer.begin(Bos::Auto)?.first().copied();
    if let Some(bos) = added.filter(|bos| !text.is_empty() && !starts_with(opened, text, *bos)) {
        let bos = tokenizer.piece(bos).unwrap_or_default();
        tell(
            quiet,
            format!("the chat template writes no {bos}, which prompts begin with otherwise"),
        );
    }
    Ok(())
}

fn starts_with(opened: &Opened, text: &str, id: u32) -> bool {
    let ids = opened.tokenizer.encode_plain(text);
    ids.is_ok_and(|ids| ids.first() == Some(&id))
}

impl Chat {
    /// Whose message each token is of, as `1:user`; empty for the template's own.
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

    /// Tells of the messages whose tokens cannot be told from the template's.
    pub(crate) fn tell_of_lost(&self, quiet: bool) {
        let messages = self.messages.iter().zip(&self.rendered.contents);
        for (index, (message, _)) in messages
            .enumerate()
            .filter(|(_, (_, content))| content.is_none())
        {
            tell(
                quiet,
                format!(
                    "message {index} ({}) is not in the text as it is given: its tokens are not marked",
                    message.role
                ),
            );
        }
    }
}

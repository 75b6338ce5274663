//! What becomes text, or is made of it: tokenizers, chat templates, interpretation prompts.

use std::cell::OnceCell;
use std::path::Path;

use selfie::interp::{InterpretationPrompt, PromptMessage};
use selfie::llama::{Bos, ChatEnd, ChatMessage, ChatTemplate, Tokenizer};

use crate::files::{parts, with_files};

/// The files of a tokenizer: `tokenizer.json`, or several with `=== NAME` before each.
pub(crate) fn tokenizer(bytes: &[u8]) -> bool {
    const NAMES: [&str; 8] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "config.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
    ];
    let mut files = parts(bytes, &NAMES);
    if files.is_empty() {
        files.push(("tokenizer.json", bytes));
    }
    with_files(&files, |dir| match Tokenizer::open(dir) {
        Ok(tokenizer) => use_tokenizer(&tokenizer),
        Err(_) => false,
    })
}

/// Whether text can be encoded and decoded.
fn use_tokenizer(tokenizer: &Tokenizer) -> bool {
    let mut works = true;
    for text in ["", "a", "Hello, world!  <s> é\u{1F600}\n\t0123"] {
        for bos in [Bos::Auto, Bos::Always, Bos::Never, Bos::Given] {
            let ids = tokenizer.encode_as(text, bos);
            let tokens = ids.and_then(|ids| tokenizer.tokens(&ids));
            works &= tokens.is_ok() || bos == Bos::Always;
        }
        works &= tokenizer.encode_spans(text).is_ok();
        works &= tokenizer.encode_continuation(text).is_ok();
    }
    let all: Vec<u32> = (0..tokenizer.vocab_size() as u32).take(100).collect();
    let _ = tokenizer.decode(&all);
    let _ = tokenizer.pieces(&[0, 1, u32::MAX]);
    let mut stream = tokenizer.stream();
    for id in all {
        let _ = stream.push(id);
    }
    let _ = stream.finish();
    works
}

/// `chat_template.jinja`, and a chat that it writes.
pub(crate) fn chat_template(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let special = with_demo(|demo| demo.tokenizer.special_tokens().clone());
    let Ok(template) = ChatTemplate::parse(text, &special, Path::new("chat_template.jinja")) else {
        return false;
    };
    let chat = ["system", "user", "assistant"]
        .map(|role| ChatMessage::new(role, " What is it?\n{{ 7 }} "));
    let mut works = template.render_spans(&chat, ChatEnd::Continue).is_ok();
    works |= template.render_spans(&chat[1..2], ChatEnd::Reply).is_ok();
    works
}

/// An interpretation prompt in JSON, and the messages of a chat, which are given in the same way.
pub(crate) fn interpretation_prompt(bytes: &[u8]) -> bool {
    let Ok(json) = std::str::from_utf8(bytes) else {
        return false;
    };
    with_demo(|demo| {
        if let Ok(messages) = ChatMessage::list_from_json(json) {
            let _ = demo.template.render_spans(&messages, ChatEnd::Reply);
        }
        let prompt = match PromptMessage::list_from_json(json) {
            Ok(Some(messages)) => InterpretationPrompt::from_messages(&messages, &demo.template),
            Ok(None) => InterpretationPrompt::from_json(json),
            Err(_) => return false,
        };
        let Ok(prompt) = prompt else {
            return false;
        };
        if let Ok(marked) = prompt.with_marker(" ?") {
            let _ = marked.locate(&demo.tokenizer);
        }
        match prompt.locate(&demo.tokenizer) {
            Ok(located) => {
                let rows = located.rows.iter().flat_map(|rows| rows.rows.clone());
                assert!(rows.clone().all(|row| row < located.ids.len()));
                assert!(rows.count() > 0);
                true
            }
            Err(_) => false,
        }
    })
}

/// The demo checkpoint's tokenizer and template.
struct Demo {
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

fn with_demo<T>(use_it: impl FnOnce(&Demo) -> T) -> T {
    thread_local! {
        static DEMO: OnceCell<Demo> = const { OnceCell::new() };
    }
    DEMO.with(|demo| {
        use_it(demo.get_or_init(|| Demo {
            tokenizer: selfie::demo::tokenizer().expect("the demo has a tokenizer"),
            template: selfie::demo::chat_template().expect("the demo has a template"),
        }))
    })
}

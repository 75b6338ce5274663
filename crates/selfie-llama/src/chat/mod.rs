//! A checkpoint's chat template: renders messages as text, like `apply_chat_template` of transformers 4.57.

mod jinja;

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use minijinja::Environment;
use minijinja::value::Serde;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::folder::resolve_folder;
use crate::gguf::{Gguf, is_gguf};
use crate::json::{Fields, parse_object};
use crate::{LlamaError, Result, Tokenizer};

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatMessage {
    /// The author: `system`, `user` or `assistant`; a template may know others.
    pub role: String,
    /// The text of the message.
    pub content: String,
}

/// How the text of a chat ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatEnd {
    /// After the last message, which is closed.
    Closed,
    /// With the assistant's turn opened (`add_generation_prompt`).
    Reply,
    /// Inside the last message, which stays open (`continue_final_message`). If the template trims messages, white
    /// space at the end is dropped.
    Continue,
}

/// A chat as text, with the positions of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedChat {
    /// The text.
    pub text: String,
    /// For each message, the byte range of its content without surrounding white space. `None` if the template drops or
    /// rewrites the content.
    pub contents: Vec<Option<Range<usize>>>,
}

/// The chat template of a checkpoint.
///
/// ```
/// use selfie_llama::{ChatEnd, ChatMessage, ChatTemplate};
///
/// let template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}\
///     {% if add_generation_prompt %}<|assistant|>{% endif %}";
/// let mut special = serde_json::Map::new();
/// special.insert("eos_token".into(), "</s>".into());
/// let template = ChatTemplate::parse(template, &special, "chat_template.jinja".as_ref())?;
///
/// let chat = [ChatMessage::new("user", "Hello!")];
/// assert_eq!(template.render(&chat, ChatEnd::Reply)?, "<|user|>Hello!</s><|assistant|>");
/// # Ok::<(), selfie_llama::LlamaError>(())
/// ```
///
/// `strftime_now` returns the local time, so a template that writes the date renders differently on another day.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special: Map<String, Value>,
    path: PathBuf,
}

/// The file that holds only a template.
const FILE: &str = "chat_template.jinja";
/// The default of several templates; it takes precedence.
const DEFAULT_FILE: &str = "additional_chat_templates/default.jinja";
/// The file that holds a template among other fields, and the field.
const CONFIG: &str = "tokenizer_config.json";
const FIELD: &str = "chat_template";

/// The tag that transformers appends to a message to continue, to find its end.
const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// The stack of a thread that renders, in bytes. What a template nests is freed level by level, by recursion, and its
/// fuel lasts for some 75,000 levels.
const STACK: usize = 64 << 20;

/// The first of the characters that mark where contents begin and end, from a private-use plane.
const MARKS: u32 = 0xF0000;

impl ChatMessage {
    /// Creates a message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }

    /// Parses messages from JSON: `[{"role": "user", "content": "Hello!"}]`.
    pub fn list_from_json(json: &str) -> Result<Vec<Self>> {
        serde_json::from_str(json).map_err(|source| LlamaError::ChatMessages { source })
    }
}

impl ChatEnd {
    /// How to end a chat that the model continues: inside the last message if the assistant wrote it, otherwise with a
    /// reply.
    pub fn to_go_on(last_role: Option<&str>) -> Self {
        if last_role == Some("assistant") {
            Self::Continue
        } else {
            Self::Reply
        }
    }
}

impl ChatTemplate {
    /// The places that are searched for a template, as text for messages.
    pub const PLACES: &str = "chat_template.jinja, or chat_template in tokenizer_config.json, or \
                              tokenizer.chat_template in a GGUF file";

    /// Opens the template of a folder, of the snapshot of a `models--org--name` folder, or of a GGUF file. `None` if
    /// there is none. Of several templates, the one named `default` is used.
    pub fn open(dir: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let special = tokenizer.special_tokens();
        if is_gguf(dir) {
            let templates = Gguf::open(dir)?.chat_template()?;
            let object = templates.map(|value| (FIELD.to_owned(), value));
            let text = of_config(&object.into_iter().collect(), dir)?;
            let template = text.map(|text| Self::parse(&text, special, dir));
            return template.transpose();
        }
        let dir = resolve_folder(dir)?;
        for name in [DEFAULT_FILE, FILE] {
            let path = dir.join(name);
            if let Some(text) = read(&path)? {
                return Self::parse(&text, special, &path).map(Some);
            }
        }
        let path = dir.join(CONFIG);
        let Some(json) = read(&path)? else {
            return Ok(None);
        };
        let text = of_config(&parse_object(&json, &path)?, &path)?;
        text.map(|text| Self::parse(&text, special, &path))
            .transpose()
    }

    /// Parses a template. `special` maps token names to tokens ([`Tokenizer::special_tokens`]); errors name `path`.
    pub fn parse(text: &str, special: &Map<String, Value>, path: &Path) -> Result<Self> {
        let mut template = Self {
            environment: jinja::environment(),
            special: special.clone(),
            path: path.to_owned(),
        };
        let source = jinja::without_generation(&text.replace("\r\n", "\n"));
        let parsed = template.environment.add_template_owned(FIELD, source);
        parsed.map_err(|error| template.error(&error))?;
        Ok(template)
    }

    /// The same template with one more named value, such as `enable_thinking` as `false`.
    pub fn with_value(mut self, name: &str, value: Value) -> Self {
        self.special.insert(name.to_owned(), value);
        self
    }

    /// Renders messages as text. If the text begins with bos, the template wrote it, so tokenize the text with
    /// [`Bos::Given`](crate::Bos::Given).
    ///
    /// # Errors
    /// The template raised one (`raise_exception`); the error gives the line. Or the last message should continue but
    /// is not in the text.
    pub fn render(&self, messages: &[ChatMessage], end: ChatEnd) -> Result<String> {
        let mut messages = messages.to_vec();
        let last = messages.last_mut().ok_or(LlamaError::NoMessages)?;
        if end != ChatEnd::Continue {
            return self.fill(&messages, end);
        }
        let content = last.content.trim().to_owned();
        last.content.push_str(TAG);
        let mut text = self.fill(&messages, end)?;
        let at = text.rfind(TAG.trim_end());
        let Some(at) = at.filter(|_| text.contains(&content)) else {
            return Err(LlamaError::ChatNotContinued {
                path: self.path.clone(),
            });
        };
        let is_trimmed = !text[at..].starts_with(TAG);
        text.truncate(at);
        if is_trimmed {
            text.truncate(text.trim_end().len());
        }
        Ok(text)
    }

    /// Like [`render`](Self::render), and also returns where the contents of the messages are in the text.
    pub fn render_spans(&self, messages: &[ChatMessage], end: ChatEnd) -> Result<RenderedChat> {
        let text = self.render(messages, end)?;
        let marked = marked(messages);
        let found = self.render(&marked, end).ok();
        let (stripped, contents) = found.map_or_else(Default::default, |text| {
            positions_of_marks(&text, messages.len())
        });
        let contents = if stripped == text {
            contents
        } else {
            // The template inspects the messages, or they contain the marks themselves.
            vec![None; messages.len()]
        };
        Ok(RenderedChat { text, contents })
    }

    /// The text of bos, as the template knows it; empty if there is none.
    pub fn bos(&self) -> &str {
        let bos = self.special.get("bos_token").and_then(Value::as_str);
        bos.unwrap_or_default()
    }

    /// The file that holds the template.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn fill(&self, messages: &[ChatMessage], end: ChatEnd) -> Result<String> {
        let mut values = self.special.clone();
        // Python's None, which differs from an undefined name.
        values.insert("tools".to_owned(), Value::Null);
        values.insert("documents".to_owned(), Value::Null);
        values.insert("messages".to_owned(), serde_json::json!(messages));
        values.insert(
            "add_generation_prompt".to_owned(),
            Value::Bool(end == ChatEnd::Reply),
        );
        let render = || {
            let template = self.environment.get_template(FIELD);
            let text = template.and_then(|template| template.render(Serde(values)));
            text.map_err(|error| self.error(&error))
        };
        thread::scope(|scope| {
            let started = thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, render);
            let thread = started.map_err(|error| LlamaError::ChatTemplate {
                path: self.path.clone(),
                line: None,
                reason: format!("no thread could be started for it: {error}"),
            })?;
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    fn error(&self, error: &minijinja::Error) -> LlamaError {
        let kind = error.kind().to_string();
        let reason = error.detail().unwrap_or(&kind);
        LlamaError::ChatTemplate {
            path: self.path.clone(),
            line: error.line(),
            // An error message is a single line.
            reason: reason.replace(char::is_control, " "),
        }
    }
}

/// Reads a file's text; `None` if it does not exist.
fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source)
            if matches!(
                source.kind(),
                ErrorKind::NotFound | ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(LlamaError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

/// `chat_template` of `tokenizer_config.json`: a text, or a list of named texts.
fn of_config(object: &Map<String, Value>, path: &Path) -> Result<Option<String>> {
    const EXPECTED: &str = "expected a template, or a list of {\"name\": .., \"template\": ..} with one called default";
    let config = Fields::new(path, object);
    let text = match config.get(FIELD) {
        None => return Ok(None),
        Some(Value::Array(list)) => list
            .iter()
            .find(|one| one["name"] == "default")
            .and_then(|one| one["template"].as_str()),
        Some(value) => value.as_str(),
    };
    let text = text.ok_or_else(|| config.refuse(FIELD, EXPECTED))?;
    Ok(Some(text.to_owned()))
}

/// The messages, with two unique characters around each content. The white space that a template may trim stays
/// outside.
fn marked(messages: &[ChatMessage]) -> Vec<ChatMessage> {
    let mark = |number: u32| char::from_u32(MARKS + number).unwrap_or_default();
    let one = |(message, index): (&ChatMessage, u32)| {
        let content = &message.content;
        let core = content.trim();
        let lead = content.len() - content.trim_start().len();
        let (before, after) = (&content[..lead], &content[lead + core.len()..]);
        let (open, close) = (mark(2 * index), mark(2 * index + 1));
        let content = format!("{before}{open}{core}{close}{after}");
        ChatMessage::new(&message.role, content)
    };
    messages.iter().zip(0..).map(one).collect()
}

/// Removes the marks, and returns the bytes between the two marks of each message.
fn positions_of_marks(text: &str, messages: usize) -> (String, Vec<Option<Range<usize>>>) {
    let mut stripped = String::with_capacity(text.len());
    let mut contents = vec![None; messages];
    let mut begun = None;
    for c in text.chars() {
        let number = (c as u32).checked_sub(MARKS).map(|n| n as usize);
        match number.filter(|&number| number < 2 * messages) {
            None => stripped.push(c),
            Some(number) if number % 2 == 0 => begun = Some((number, stripped.len())),
            Some(number) => {
                let own = begun.take().filter(|&(open, _)| open + 1 == number);
                contents[number / 2] = own.map(|(_, begin)| begin..stripped.len());
            }
        }
    }
    (stripped, contents)
}

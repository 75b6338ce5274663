//! Jinja, configured as in transformers (`_compile_jinja_template` of `chat_template_utils.py`, 4.57).

use std::fmt::Write as _;
use std::io;

use chrono::Local;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The budget of a template. A step costs 1, and so do 64 bytes of text that it makes. A long chat takes some
/// thousands. An endless template, or one that doubles a text again and again, ends here.
const FUEL: u64 = 300_000;
/// How deep lists and maps may be nested in a value that is printed.
const MOST_DEPTH: usize = 100;
/// The widest padding or indentation of a text. Python's methods for these cost no fuel.
const MOST_WIDTH: usize = 1000;

/// An environment with everything that chat templates use.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    // Only delimiters could be wrong, and these are the usual ones.
    environment.set_syntax(syntax.unwrap_or_default());
    environment.set_fuel(Some(FUEL));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(print);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// Replaces `{% generation %}` with a plain block. It marks what the assistant says and prints nothing itself.
pub(super) fn without_generation(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find("{%") {
        let (before, block) = rest.split_at(at + 2);
        text.push_str(before);
        let sign = block.len() - block.trim_start_matches(['-', '+']).len();
        let name = block[sign..].trim_start();
        let space = block.len() - name.len();
        let word = name
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(name.len());
        let new = match &name[..word] {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        rest = block;
        if let Some(new) = new {
            text.push_str(&block[..space]);
            text.push_str(new);
            rest = &name[word..];
        }
    }
    text.push_str(rest);
    text
}

/// Prints values as Python does where Python's form differs.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => Ok(out.write_str("None")?),
        ValueKind::Bool if value.is_true() => Ok(out.write_str("True")?),
        ValueKind::Bool => Ok(out.write_str("False")?),
        _ => {
            check_size(state, value)?;
            escape_formatter(out, state, value)
        }
    }
}

/// Refuses a list or a map whose text the fuel left cannot pay for, or one that is nested too deeply. The engine
/// charges a text only once it is there, and `[0] * 100000000` takes no memory before it is printed.
fn check_size(state: &State, value: &Value) -> Result<(), Error> {
    let mut left = state.fuel_levels().map_or(FUEL, |(_, left)| left);
    charge(value, MOST_DEPTH, &mut left)
}

/// Takes from `left` what it costs to write the values inside `value`.
fn charge(value: &Value, depth: usize, left: &mut u64) -> Result<(), Error> {
    if let Some(text) = value.as_str() {
        return take(left, text.len() as u64 / 64);
    }
    if value.as_object().is_none() {
        return Ok(());
    }
    let Some(depth) = depth.checked_sub(1) else {
        let reason = format!("a value is nested more than {MOST_DEPTH} deep");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    };
    let is_map = value.kind() == ValueKind::Map;
    for item in value.try_iter().into_iter().flatten() {
        take(left, 1)?;
        charge(&item, depth, left)?;
        if is_map {
            charge(&value.get_item(&item)?, depth, left)?;
        }
    }
    Ok(())
}

fn take(left: &mut u64, fuel: u64) -> Result<(), Error> {
    let rest = left.checked_sub(fuel);
    *left = rest.ok_or_else(|| Error::from(ErrorKind::OutOfFuel))?;
    Ok(())
}

/// A method of Python. `str.format` is charged nothing for the width of what it pads: a wide one is refused.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    for arg in args {
        check_size(state, arg)?;
    }
    if name == "format"
        && let Some(text) = value.as_str()
        && !has_small_widths(text)
    {
        let reason = format!("str.format: a width is no number up to {MOST_WIDTH}");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    unknown_method_callback(state, value, name, args)
}

/// Whether no number of a format is larger than a width may be, and none comes from an argument.
fn has_small_widths(text: &str) -> bool {
    let numbers = text.split(|c: char| !c.is_ascii_digit());
    let is_small =
        |number: &str| number.is_empty() || number.parse().is_ok_and(|n: usize| n <= MOST_WIDTH);
    let has_nested = text.split('{').any(|field| {
        let spec = field.split('}').next().unwrap_or_default();
        spec.contains(':') && field.len() == spec.len()
    });
    numbers.into_iter().all(is_small) && !has_nested
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    let written = write!(text, "{}", Local::now().format(format));
    written.map_err(|_| {
        let reason = format!("strftime_now: \"{format}\" is not a time format");
        Error::new(ErrorKind::InvalidOperation, reason)
    })?;
    Ok(text)
}

/// `json.dumps(value, ensure_ascii=False)`, without the escapes of Jinja's own filter.
fn tojson(state: &State, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if indent.is_some_and(|indent| indent > MOST_WIDTH) {
        let reason = format!("tojson: indent is larger than {MOST_WIDTH}");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    check_size(state, value)?;
    let mut bytes = Vec::new();
    let written = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut bytes, Python)),
        Some(spaces) => {
            let indent = " ".repeat(spaces);
            let pretty = PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut bytes, pretty))
        }
    };
    let bad = |error: &dyn std::fmt::Display| {
        Error::new(ErrorKind::BadSerialization, format!("tojson: {error}"))
    };
    written.map_err(|error| bad(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| bad(&error))?;
    Ok(Value::from(text))
}

/// JSON with a space after commas and colons.
struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

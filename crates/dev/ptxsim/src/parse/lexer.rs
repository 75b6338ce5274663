//! Tokens.

use crate::error::{Position, Result, SimError};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// `mov`, `%r1`, `$label`, `_`
    Word(String),
    /// `.global`, `.L2::128B`: without the dot
    Dot(String),
    /// An integer, or `8.0` of a version line, as written.
    Number(String),
    /// `0f3F800000`
    F32(u32),
    /// `0d...` or a decimal fraction
    F64(u64),
    /// `"text"`
    Text(String),
    Punct(char),
    End,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(word) | Self::Number(word) => write!(f, "`{word}`"),
            Self::Dot(word) => write!(f, "`.{word}`"),
            Self::F32(bits) => write!(f, "`0f{bits:08X}`"),
            Self::F64(bits) => write!(f, "`0d{bits:016X}`"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Punct(c) => write!(f, "`{c}`"),
            Self::End => f.write_str("the end of the text"),
        }
    }
}

/// A token, its position, and whether white space precedes it.
#[derive(Clone, Debug)]
pub(super) struct Spanned {
    pub(super) token: Token,
    pub(super) at: Position,
    pub(super) spaced: bool,
}

struct Chars<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    at: Position,
}

impl Chars<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn peek_second(&mut self) -> Option<char> {
        let mut ahead = self.rest.clone();
        ahead.next();
        ahead.next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.at = Position {
                line: self.at.line + 1,
                column: 1,
            };
        } else {
            self.at.column += 1;
        }
        Some(c)
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek().filter(|&c| keep(c)) {
            word.push(c);
            self.next();
        }
        word
    }

    /// Skips white space and comments. Returns whether there were any.
    fn skip_blank(&mut self) -> Result<bool> {
        let mut any = false;
        loop {
            match (self.peek(), self.peek_second()) {
                (Some(c), _) if c.is_whitespace() => {
                    self.next();
                }
                (Some('/'), Some('/')) => {
                    self.take_while(|c| c != '\n');
                }
                (Some('/'), Some('*')) => self.skip_comment()?,
                _ => return Ok(any),
            }
            any = true;
        }
    }

    fn skip_comment(&mut self) -> Result<()> {
        let at = self.at;
        self.next();
        self.next();
        loop {
            match self.next() {
                Some('*') if self.peek() == Some('/') => {
                    self.next();
                    return Ok(());
                }
                Some(_) => {}
                None => return Err(syntax(at, "this comment does not end")),
            }
        }
    }
}

pub(super) fn syntax(at: Position, message: impl Into<String>) -> SimError {
    SimError::Syntax {
        at,
        message: message.into(),
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '$'
}

/// The tokens of `source`, with one `End` at the end.
pub(super) fn lex(source: &str) -> Result<Vec<Spanned>> {
    let mut chars = Chars {
        rest: source.chars().peekable(),
        at: Position { line: 1, column: 1 },
    };
    let mut tokens = Vec::new();
    loop {
        let spaced = chars.skip_blank()? || tokens.is_empty();
        let at = chars.at;
        let Some(c) = chars.peek() else {
            tokens.push(Spanned {
                token: Token::End,
                at,
                spaced,
            });
            return Ok(tokens);
        };
        let token = match c {
            '.' => dot(&mut chars)?,
            '0'..='9' => number(&mut chars)?,
            '"' => text(&mut chars)?,
            '%' | '$' | '_' | 'a'..='z' | 'A'..='Z' => {
                chars.next();
                let word = format!("{c}{}", chars.take_while(is_word));
                if word == "%" {
                    return Err(syntax(at, "a name is missing after `%`"));
                }
                Token::Word(word)
            }
            ',' | ';' | ':' | '{' | '}' | '[' | ']' | '(' | ')' | '<' | '>' | '+' | '-' | '!'
            | '|' | '@' | '=' => {
                chars.next();
                Token::Punct(c)
            }
            _ => {
                return Err(syntax(
                    at,
                    format!("the character {c:?} has no meaning here"),
                ));
            }
        };
        tokens.push(Spanned { token, at, spaced });
    }
}

fn dot(chars: &mut Chars<'_>) -> Result<Token> {
    let at = chars.at;
    chars.next();
    let mut word = chars.take_while(is_word);
    while chars.peek() == Some(':') && chars.peek_second() == Some(':') {
        chars.next();
        chars.next();
        word.push_str("::");
        word.push_str(&chars.take_while(is_word));
    }
    if word.is_empty() {
        return Err(syntax(at, "a name is missing after `.`"));
    }
    Ok(Token::Dot(word))
}

fn text(chars: &mut Chars<'_>) -> Result<Token> {
    let at = chars.at;
    chars.next();
    let text = chars.take_while(|c| c != '"' && c != '\n');
    match chars.next() {
        Some('"') => Ok(Token::Text(text)),
        _ => Err(syntax(at, "this string does not end")),
    }
}

fn number(chars: &mut Chars<'_>) -> Result<Token> {
    let at = chars.at;
    let mut word = chars.take_while(is_word);
    let hex = |digits: &str, count: usize| {
        (digits.len() == count)
            .then(|| u64::from_str_radix(digits, 16).ok())
            .flatten()
    };
    if let Some(digits) = word.strip_prefix("0f").or_else(|| word.strip_prefix("0F")) {
        return match hex(digits, 8) {
            Some(bits) => Ok(Token::F32(bits as u32)),
            None => Err(syntax(
                at,
                format!("`{word}` must have 8 hexadecimal digits after 0f"),
            )),
        };
    }
    if let Some(digits) = word.strip_prefix("0d").or_else(|| word.strip_prefix("0D")) {
        return match hex(digits, 16) {
            Some(bits) => Ok(Token::F64(bits)),
            None => Err(syntax(
                at,
                format!("`{word}` must have 16 hexadecimal digits after 0d"),
            )),
        };
    }
    let is_fraction =
        chars.peek() == Some('.') && chars.peek_second().is_some_and(|c| c.is_ascii_digit());
    if is_fraction {
        chars.next();
        word.push('.');
        word.push_str(&chars.take_while(is_word));
        if word.ends_with(['e', 'E']) && matches!(chars.peek(), Some('+' | '-')) {
            word.extend(chars.next());
            word.push_str(&chars.take_while(is_word));
        }
    }
    Ok(Token::Number(word))
}

/// The value of an integer literal.
pub(super) fn integer(word: &str, at: Position) -> Result<i128> {
    let digits = word.strip_suffix('U').unwrap_or(word);
    let parsed = if let Some(hex) = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = digits
        .strip_prefix("0b")
        .or_else(|| digits.strip_prefix("0B"))
    {
        u64::from_str_radix(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(digits, 8)
    } else {
        digits.parse()
    };
    match parsed {
        Ok(value) if digits.chars().next().is_some_and(|c| c.is_ascii_digit()) => Ok(value.into()),
        _ => Err(syntax(at, format!("`{word}` is not a 64-bit integer"))),
    }
}

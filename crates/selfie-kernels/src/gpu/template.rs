//! Our three extensions of PTX. They are expanded before the text goes to the driver or the simulator.
//!
//! Registers cannot be indexed, so a loop over registers must be unrolled, and its length depends on the head
//! dimension. A kernel writes the loop once:
//!
//! ```text
//! $for j in 0..D/8
//!     mul.f32 %o$j, %o$j, %factor;
//! $end
//! ```
//!
//! A loop runs over a range, or over a list such as `16, 8, 4, 2, 1`. `$let name = expression` names a value until the
//! end of the enclosing loop. `$name` and `${expression}` stand for an integer. Expressions have `+ - * / %`,
//! parentheses and names. Everything else is plain PTX.

use std::fmt::Write;

/// A template breaks the rules above.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct TemplateError {
    /// The line of the template, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Expands the loops and values of `source`.
pub fn expand(source: &str, names: &[(&str, i64)]) -> Result<String, TemplateError> {
    let lines: Vec<&str> = source.lines().collect();
    let mut names = names.to_vec();
    let mut out = String::with_capacity(2 * source.len());
    let end = block(&lines, 0, &mut names, &mut out)?;
    if end < lines.len() {
        return fail(end, "$end without $for");
    }
    Ok(out)
}

/// Expands from line `at` to the `$end` of this block or the end of the file, and returns that line.
fn block<'a>(
    lines: &[&'a str],
    mut at: usize,
    names: &mut Vec<(&'a str, i64)>,
    out: &mut String,
) -> Result<usize, TemplateError> {
    let outside = names.len();
    while at < lines.len() {
        let line = lines[at].trim();
        if line == "$end" {
            break;
        }
        if let Some(header) = line.strip_prefix("$for ") {
            at = repeat(lines, at, header, names, out)?;
        } else if let Some(definition) = line.strip_prefix("$let ") {
            let Some((name, value)) = definition.split_once(" = ") else {
                return fail(at, "expected `$let name = expression`");
            };
            let value = Expression::value(value, at, names)?;
            names.push((name, value));
        } else {
            values(lines[at], at, names, out)?;
            out.push('\n');
        }
        at += 1;
    }
    names.truncate(outside);
    Ok(at)
}

/// Expands the loop whose header is on line `at`, and returns the line of its `$end`.
fn repeat<'a>(
    lines: &[&'a str],
    at: usize,
    header: &'a str,
    names: &mut Vec<(&'a str, i64)>,
    out: &mut String,
) -> Result<usize, TemplateError> {
    let Some((name, items)) = header.split_once(" in ") else {
        return fail(
            at,
            "expected `$for name in first..last` or `$for name in 4, 2, 1`",
        );
    };
    let value = |text| Expression::value(text, at, names);
    let items: Vec<i64> = match items.split_once("..") {
        Some((first, last)) => (value(first)?..value(last)?).collect(),
        None => items.split(',').map(value).collect::<Result<_, _>>()?,
    };
    // A loop of no rounds is walked once to find its end, and its output is dropped.
    let length = out.len();
    let mut end = at;
    let rounds = if items.is_empty() { &[0] } else { &items[..] };
    for &item in rounds {
        names.push((name, item));
        end = block(lines, at + 1, names, out)?;
        names.pop();
    }
    if end == lines.len() {
        return fail(at, "$for without $end");
    }
    if items.is_empty() {
        out.truncate(length);
    }
    Ok(end)
}

/// Appends one line with its values filled in.
fn values(
    line: &str,
    at: usize,
    names: &[(&str, i64)],
    out: &mut String,
) -> Result<(), TemplateError> {
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, next) = if let Some(inner) = after.strip_prefix('{') {
            match inner.split_once('}') {
                Some(split) => split,
                None => return fail(at, "${ without }"),
            }
        } else {
            let length = after
                .find(|c: char| !c.is_ascii_alphanumeric())
                .unwrap_or(after.len());
            after.split_at(length)
        };
        let value = Expression::value(name, at, names)?;
        write!(out, "{value}").expect("writing to a String does not fail");
        rest = next;
    }
    out.push_str(rest);
    Ok(())
}

/// The innermost meaning of a name.
fn lookup(name: &str, names: &[(&str, i64)]) -> Option<i64> {
    let mut innermost = names.iter().rev();
    innermost.find(|(n, _)| *n == name).map(|&(_, value)| value)
}

/// The rest of an expression, read from the left.
struct Expression<'a> {
    rest: &'a str,
    line: usize,
    names: &'a [(&'a str, i64)],
}

impl Expression<'_> {
    fn value(text: &str, line: usize, names: &[(&str, i64)]) -> Result<i64, TemplateError> {
        let mut expression = Expression {
            rest: text,
            line,
            names,
        };
        let value = expression.sum()?;
        if !expression.rest.trim().is_empty() {
            return fail(line, format!("`{text}` is not an expression"));
        }
        Ok(value)
    }

    /// Takes one of the operators in `any`, if it comes next.
    fn operator(&mut self, any: &str) -> Option<char> {
        self.rest = self.rest.trim_start();
        let c = self.rest.chars().next().filter(|&c| any.contains(c))?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn sum(&mut self) -> Result<i64, TemplateError> {
        let mut value = self.product()?;
        while let Some(c) = self.operator("+-") {
            let other = self.product()?;
            value = if c == '+' {
                value + other
            } else {
                value - other
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<i64, TemplateError> {
        let mut value = self.factor()?;
        while let Some(c) = self.operator("*/%") {
            let other = self.factor()?;
            if c != '*' && other == 0 {
                return fail(self.line, "division by 0");
            }
            value = match c {
                '*' => value * other,
                '/' => value / other,
                _ => value % other,
            };
        }
        Ok(value)
    }

    fn factor(&mut self) -> Result<i64, TemplateError> {
        if self.operator("(").is_some() {
            let value = self.sum()?;
            return match self.operator(")") {
                Some(_) => Ok(value),
                None => fail(self.line, "( without )"),
            };
        }
        self.rest = self.rest.trim_start();
        let length = self.rest.find(|c: char| !c.is_ascii_alphanumeric());
        let (word, rest) = self.rest.split_at(length.unwrap_or(self.rest.len()));
        self.rest = rest;
        match (word.parse(), lookup(word, self.names)) {
            (Ok(number), _) | (_, Some(number)) => Ok(number),
            _ => fail(
                self.line,
                format!("`{word}` is neither a number nor a name"),
            ),
        }
    }
}

fn fail<T>(line: usize, reason: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError {
        line: line + 1,
        reason: reason.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[(&str, i64)] = &[("D", 48)];

    #[test]
    fn loops_and_values_are_written_out() {
        let source = "a.x${D/4}x2 %r$D;\n$for i in 0..D/16\n  $for j in i..2\nb${i * 2 + j%2};\n  $end\n$end\n$for k in 4, 2\nc$k\n$end";
        let want = "a.x12x2 %r48;\nb0;\nb1;\nb3;\nc4\nc2\n";
        assert_eq!(expand(source, NAMES), Ok(want.into()));
    }

    #[test]
    fn a_definition_ends_with_its_loop() {
        let source = "$let D = D/16\n$for i in 0..2\n$let D = D + i\na$D\n$end\nb$D";
        assert_eq!(expand(source, NAMES), Ok("a3\na4\nb3\n".into()));
    }

    #[test]
    fn arithmetic_binds_as_usual() {
        let source = "${1 + 2 * 3} ${(1 + 2) * 3} ${7 - 2 - 1} ${D / 32 * 32} ${D % 32}";
        assert_eq!(expand(source, NAMES), Ok("7 9 4 32 16\n".into()));
    }

    #[test]
    fn a_loop_of_no_rounds_writes_nothing() {
        let source = "a\n$for i in 3..D%16\nb\n$for j in 0..2\nc\n$end\n$end\nd";
        assert_eq!(expand(source, NAMES), Ok("a\nd\n".into()));
    }

    #[test]
    fn mistakes_name_their_line() {
        for (source, line, reason) in [
            ("a\n$end", 2, "$end without $for"),
            ("$for i in 0..2\na", 1, "$for without $end"),
            (
                "$for i of 0..2\n$end",
                1,
                "expected `$for name in first..last` or `$for name in 4, 2, 1`",
            ),
            ("$let x 1", 1, "expected `$let name = expression`"),
            ("\n\n${1 +", 3, "${ without }"),
            ("$X", 1, "`X` is neither a number nor a name"),
            ("${D + T}", 1, "`T` is neither a number nor a name"),
            ("${1 / (D - 48)}", 1, "division by 0"),
            ("${(1}", 1, "( without )"),
            ("${1 1}", 1, "`1 1` is not an expression"),
        ] {
            let reason = reason.into();
            assert_eq!(expand(source, NAMES), Err(TemplateError { line, reason }));
        }
    }
}

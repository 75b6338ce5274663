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

/// A template that does not follow the rules above.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct TemplateError {
    /// The line of the template, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// The most rounds of all loops together. The longest of our templates has some thousands.
const MAX_ROUNDS: usize = 1 << 16;
/// The most bytes that a template may expand to.
const MAX_BYTES: usize = 16 << 20;
/// The deepest nesting of loops, and of parentheses.
const MAX_DEPTH: usize = 32;

/// Expands the loops and values of `source`.
pub fn expand(source: &str, names: &[(&str, i64)]) -> Result<String, TemplateError> {
    let mut expansion = Expansion {
        lines: source.lines().collect(),
        names: names.to_vec(),
        out: String::with_capacity(2 * source.len()),
        rounds: 0,
        depth: 0,
    };
    let end = expansion.block(0)?;
    if end < expansion.lines.len() {
        return fail(end, "$end without $for");
    }
    Ok(expansion.out)
}

/// A template during expansion.
struct Expansion<'a> {
    lines: Vec<&'a str>,
    names: Vec<(&'a str, i64)>,
    out: String,
    /// Rounds of all loops so far.
    rounds: usize,
    /// The number of open loops.
    depth: usize,
}

impl<'a> Expansion<'a> {
    /// Expands from line `at` to the `$end` of this block, or the end of the file; returns that line.
    fn block(&mut self, mut at: usize) -> Result<usize, TemplateError> {
        let outside = self.names.len();
        while at < self.lines.len() {
            let line = self.lines[at].trim();
            if line == "$end" {
                break;
            }
            if let Some(header) = line.strip_prefix("$for ") {
                at = self.repeat(at, header)?;
            } else if let Some(definition) = line.strip_prefix("$let ") {
                let Some((name, value)) = definition.split_once(" = ") else {
                    return fail(at, "expected `$let name = expression`");
                };
                let value = Expression::value(value, at, &self.names)?;
                self.names.push((name, value));
            } else {
                self.values(at)?;
                self.out.push('\n');
            }
            if self.out.len() > MAX_BYTES {
                return fail(at, format!("more than {MAX_BYTES} bytes are written"));
            }
            at += 1;
        }
        self.names.truncate(outside);
        Ok(at)
    }

    /// Expands the loop whose header is on line `at`; returns the line of its `$end`.
    fn repeat(&mut self, at: usize, header: &'a str) -> Result<usize, TemplateError> {
        let Some((name, items)) = header.split_once(" in ") else {
            return fail(
                at,
                "expected `$for name in first..last` or `$for name in 4, 2, 1`",
            );
        };
        let value = |text| Expression::value(text, at, &self.names);
        let items: Vec<i64> = match items.split_once("..") {
            Some((first, last)) => {
                let (first, last) = (value(first)?, value(last)?);
                if last.saturating_sub(first) > MAX_ROUNDS as i64 {
                    return fail(at, too_many_rounds());
                }
                (first..last).collect()
            }
            None => items.split(',').map(value).collect::<Result<_, _>>()?,
        };
        if self.depth == MAX_DEPTH {
            return fail(at, format!("more than {MAX_DEPTH} loops within each other"));
        }
        self.depth += 1;
        // A loop of no rounds is walked once, for its end, and what it would write is dropped.
        let length = self.out.len();
        let mut end = at;
        let rounds = if items.is_empty() { &[0] } else { &items[..] };
        for &item in rounds {
            self.rounds += 1;
            if self.rounds > MAX_ROUNDS {
                return fail(at, too_many_rounds());
            }
            self.names.push((name, item));
            end = self.block(at + 1)?;
            self.names.pop();
        }
        self.depth -= 1;
        if end == self.lines.len() {
            return fail(at, "$for without $end");
        }
        if items.is_empty() {
            self.out.truncate(length);
        }
        Ok(end)
    }

    /// Appends line `at` with its values filled in.
    fn values(&mut self, at: usize) -> Result<(), TemplateError> {
        let mut rest = self.lines[at];
        while let Some((before, after)) = rest.split_once('$') {
            self.out.push_str(before);
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
            let value = Expression::value(name, at, &self.names)?;
            self.out.push_str(&value.to_string());
            rest = next;
        }
        self.out.push_str(rest);
        Ok(())
    }
}

fn too_many_rounds() -> String {
    format!("its loops have more than {MAX_ROUNDS} rounds")
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
    /// Parentheses that are open.
    depth: usize,
}

impl Expression<'_> {
    fn value(text: &str, line: usize, names: &[(&str, i64)]) -> Result<i64, TemplateError> {
        let mut expression = Expression {
            rest: text,
            line,
            names,
            depth: 0,
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
            let sum = if c == '+' {
                value.checked_add(other)
            } else {
                value.checked_sub(other)
            };
            value = self.fits(sum)?;
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
            let product = match c {
                '*' => value.checked_mul(other),
                '/' => value.checked_div(other),
                _ => value.checked_rem(other),
            };
            value = self.fits(product)?;
        }
        Ok(value)
    }

    fn fits(&self, value: Option<i64>) -> Result<i64, TemplateError> {
        match value {
            Some(value) => Ok(value),
            None => fail(self.line, "a value does not fit 64 bits"),
        }
    }

    fn factor(&mut self) -> Result<i64, TemplateError> {
        if self.operator("(").is_some() {
            if self.depth == MAX_DEPTH {
                let reason = format!("more than {MAX_DEPTH} parentheses within each other");
                return fail(self.line, reason);
            }
            self.depth += 1;
            let value = self.sum()?;
            self.depth -= 1;
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

    #[test]
    fn what_would_grow_without_bound_is_refused() {
        let end = |n: usize| "$end\n".repeat(n);
        for (source, line, reason) in [
            (
                "$for i in 0..99999999999\n$end".to_owned(),
                1,
                "its loops have more than 65536 rounds",
            ),
            (
                "$for i in 0..1000\n$for j in 0..1000\n$end\n$end".to_owned(),
                2,
                "its loops have more than 65536 rounds",
            ),
            (
                format!("$for i in 0..60000\n{}\n$end", "a".repeat(1000)),
                2,
                "more than 16777216 bytes are written",
            ),
            (
                "$for i in 0..1\n".repeat(33) + &end(33),
                33,
                "more than 32 loops within each other",
            ),
            (
                format!("${{{}1}}", "(".repeat(33)),
                1,
                "more than 32 parentheses within each other",
            ),
            (
                "${9223372036854775807 + 1}".to_owned(),
                1,
                "a value does not fit 64 bits",
            ),
            (
                "${(0 - 9223372036854775807 - 1) / (0 - 1)}".to_owned(),
                1,
                "a value does not fit 64 bits",
            ),
        ] {
            let reason = reason.into();
            assert_eq!(expand(&source, NAMES), Err(TemplateError { line, reason }));
        }
    }
}

//! The syntax of cells, ranges and lists.

use std::ops::Range;

use crate::error::{Result, usage};

/// `A..B`, `A..=B`, `all`, `last`, or a list of numbers and ranges; `all` is `0..len`. `what` names the option.
pub(crate) fn numbers(what: &str, text: &str, len: usize) -> Result<Vec<usize>> {
    parse(what, text, len, None)
}

/// The same of a prompt's tokens, which may also be counted from its end: `-1` is the last, `-3..` the last three.
pub(crate) fn tokens(what: &str, text: &str, len: usize) -> Result<Vec<usize>> {
    parse(what, text, len, Some(len))
}

fn parse(what: &str, text: &str, len: usize, end: Option<usize>) -> Result<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.split(',').map(str::trim) {
        if part == "all" {
            numbers.extend(0..len);
            continue;
        }
        if part == "last" && len > 0 {
            numbers.push(len - 1);
            continue;
        }
        let range = match part.split_once("..") {
            None => position(part, end).and_then(|n| Some(n..n.checked_add(1)?)),
            Some((from, to)) => range(from, to, end),
        };
        let Some(range) = range else {
            let from_end = if end.is_some() { " -1, -3..," } else { "" };
            return usage(format!(
                "--{what} {text}: \"{part}\" is not a number, A..B, A..=B,{from_end} last or all"
            ));
        };
        if range.is_empty() {
            return usage(format!("--{what} {text}: \"{part}\" holds no number"));
        }
        let Ok(first) = usize::try_from(range.start) else {
            return usage(format!(
                "--{what} {text}: \"{part}\" begins before the first of {len}"
            ));
        };
        match usize::try_from(range.end) {
            Ok(end) if end <= len => numbers.extend(first..end),
            _ => {
                return usage(format!(
                    "--{what} {text}: {} is out of range 0..{len}",
                    range.end - 1
                ));
            }
        }
    }
    Ok(numbers)
}

/// A number; a negative one is counted from `end`, where there is one, and can come out below 0.
fn position(text: &str, end: Option<usize>) -> Option<i64> {
    let number: i64 = text.parse().ok()?;
    if !text.starts_with('-') {
        return Some(number);
    }
    let end = i64::try_from(end?).ok()?;
    (number < 0).then(|| end.saturating_add(number))
}

fn range(from: &str, to: &str, end: Option<usize>) -> Option<Range<i64>> {
    let from = position(from, end)?;
    match (to.strip_prefix('='), end) {
        (Some(to), _) => Some(from..position(to, end)?.checked_add(1)?),
        (None, Some(end)) if to.is_empty() => Some(from..i64::try_from(end).ok()?),
        (None, _) => Some(from..position(to, end)?),
    }
}

/// `L:T,L:T` of a prompt of so many tokens; `L:-1` is its last. `what` names the option.
pub(crate) fn pairs(what: &str, text: &str, tokens: usize) -> Result<Vec<(usize, usize)>> {
    let pair = |part: &str| {
        let (layer, token) = part.trim().split_once(':')?;
        Some((layer.parse().ok()?, position(token, Some(tokens))?))
    };
    text.split(',')
        .map(|part| match pair(part) {
            Some((layer, token)) => match usize::try_from(token) {
                Ok(token) => Ok((layer, token)),
                Err(_) => usage(format!(
                    "--{what} {text}: \"{part}\" is before the first of {tokens} tokens"
                )),
            },
            None => usage(format!(
                "--{what} {text}: \"{part}\" is not LAYER:TOKEN, such as 3:5"
            )),
        })
        .collect()
}

/// A list of numbers.
pub(crate) fn list<T: std::str::FromStr>(what: &str, text: &str) -> Result<Vec<T>> {
    text.split(',')
        .map(|part| match part.trim().parse() {
            Ok(number) => Ok(number),
            Err(_) => usage(format!("--{what} {text}: \"{part}\" is not a number")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_rust() {
        assert_eq!(numbers("layers", "1..4", 9).unwrap(), [1, 2, 3]);
        assert_eq!(numbers("layers", "1..=4", 9).unwrap(), [1, 2, 3, 4]);
        assert_eq!(numbers("layers", "all", 3).unwrap(), [0, 1, 2]);
        assert_eq!(numbers("layers", "7, 2..4,0", 9).unwrap(), [7, 2, 3, 0]);
        assert_eq!(numbers("tokens", "0,last", 9).unwrap(), [0, 8]);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "", "a", "1..", "..3", "-1", "3..3", "3..2", "0..0", "1..=0", "1,,2", "9", "0..10",
        ] {
            assert!(numbers("layers", text, 9).is_err(), "{text}");
        }
    }

    #[test]
    fn tokens_can_be_counted_from_the_end() {
        let cases: [(&str, &[usize]); 9] = [
            ("-1", &[8]),
            ("-9", &[0]),
            ("-3..", &[6, 7, 8]),
            ("-3..-1", &[6, 7]),
            ("-3..=-1", &[6, 7, 8]),
            ("7..", &[7, 8]),
            ("2..-5", &[2, 3]),
            ("0,-1", &[0, 8]),
            ("last,-2..9", &[8, 7, 8]),
        ];
        for (text, expected) in cases {
            assert_eq!(tokens("tokens", text, 9).unwrap(), expected, "{text}");
        }
        for text in [
            "-0",
            "-10",
            "-10..",
            "-1..-3",
            "-1..0",
            "--1",
            "-",
            "-3..=",
            "..-1",
            "..",
            "-1-",
            "9",
            "-3..10",
            "-9223372036854775808",
            "9223372036854775807",
        ] {
            assert!(tokens("tokens", text, 9).is_err(), "{text}");
        }
    }

    #[test]
    fn cells_are_pairs() {
        assert_eq!(pairs("cells", "3:5, 4:0", 9).unwrap(), [(3, 5), (4, 0)]);
        assert_eq!(pairs("cells", "3:-1,4:-9", 9).unwrap(), [(3, 8), (4, 0)]);
        for text in [
            "", "3", "3:", ":5", "3:5,", "3:5:6", "a:b", "-1:2", "1:-0", "1:-10", "1:-3..",
        ] {
            assert!(pairs("cells", text, 9).is_err(), "{text}");
        }
    }
}

//! The syntax of cells, ranges and lists.

use std::ops::Range;

use crate::error::{Result, usage};

/// `A..B`, `A..=B`, `all`, `last`, or a list of numbers and ranges; `all` is `0..len`. `what` names the option.
pub(crate) fn numbers(what: &str, text: &str, len: usize) -> Result<Vec<usize>> {
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
            None => part
                .parse()
                .ok()
                .and_then(|n: usize| Some(n..n.checked_add(1)?)),
            Some((from, to)) => range(from, to),
        };
        let Some(range) = range else {
            return usage(format!(
                "--{what} {text}: \"{part}\" is not a number, A..B, A..=B, last or all"
            ));
        };
        if range.is_empty() {
            return usage(format!("--{what} {text}: \"{part}\" holds no number"));
        }
        if range.end > len {
            return usage(format!(
                "--{what} {text}: {} is out of range 0..{len}",
                range.end - 1
            ));
        }
        numbers.extend(range);
    }
    Ok(numbers)
}

fn range(from: &str, to: &str) -> Option<Range<usize>> {
    let from: usize = from.parse().ok()?;
    match to.strip_prefix('=') {
        Some(to) => Some(from..to.parse::<usize>().ok()?.checked_add(1)?),
        None => Some(from..to.parse().ok()?),
    }
}

/// `L:T,L:T`. `what` names the option.
pub(crate) fn pairs(what: &str, text: &str) -> Result<Vec<(usize, usize)>> {
    let pair = |part: &str| {
        let (layer, token) = part.trim().split_once(':')?;
        Some((layer.parse().ok()?, token.parse().ok()?))
    };
    text.split(',')
        .map(|part| match pair(part) {
            Some(pair) => Ok(pair),
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
    fn cells_are_pairs() {
        assert_eq!(pairs("cells", "3:5, 4:0").unwrap(), [(3, 5), (4, 0)]);
        for text in ["", "3", "3:", ":5", "3:5,", "3:5:6", "a:b", "-1:2"] {
            assert!(pairs("cells", text).is_err(), "{text}");
        }
    }
}

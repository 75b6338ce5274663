//! The syntax of cells, ranges and lists.

use std::collections::BTreeMap;
use std::ops::Range;

use selfie::{Opened, TokenSelector};

use crate::console::print_note;
use crate::error::{Result, usage};

/// Parses `A..B`, `A..=B`, `all`, `last`, or a list of numbers and ranges; `all` is `0..len`. `what` names the option.
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
                .parse::<usize>()
                .ok()
                .and_then(|n| Some(n..n.checked_add(1)?)),
            Some((from, to)) => range(from, to),
        };
        let Some(range) = range else {
            return usage(format!(
                "--{what} {text}: \"{part}\" is not a number, A..B, A..=B, last or all"
            ));
        };
        if range.is_empty() {
            return usage(format!("--{what} {text}: \"{part}\" is an empty range"));
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
    let from = from.parse().ok()?;
    match to.strip_prefix('=') {
        Some(to) => Some(from..to.parse::<usize>().ok()?.checked_add(1)?),
        None => Some(from..to.parse().ok()?),
    }
}

/// Parses the value of `--tokens`.
pub(crate) fn selector(text: &str) -> Result<TokenSelector> {
    text.parse()
        .or_else(|error: selfie::Error| usage(format!("--tokens {error}")))
}

/// The tokens that `--tokens` selects in each prompt. A part that no prompt has is an error. A part that only some
/// prompts have is a note that names the others.
pub(crate) fn tokens(
    selector: &TokenSelector,
    prompts: &[String],
    opened: &Opened,
    quiet: bool,
) -> Result<Vec<Vec<usize>>> {
    let mut found = Vec::with_capacity(prompts.len());
    let mut missed: BTreeMap<String, Vec<(usize, String)>> = BTreeMap::new();
    for (index, prompt) in prompts.iter().enumerate() {
        let selected = selector.select(prompt, &opened.spans(prompt)?);
        for one in selected.missed {
            let why = one.to_string();
            missed.entry(one.part).or_default().push((index, why));
        }
        found.push(selected.tokens);
    }
    for (part, places) in missed {
        if places.len() == prompts.len() {
            return usage(format!("--tokens {selector}: {}", places[0].1));
        }
        let places: Vec<usize> = places.into_iter().map(|(index, _)| index).collect();
        print_note(
            quiet,
            format!("--tokens: {}", not_in_all(&part, &places, prompts.len())),
        );
    }
    Ok(found)
}

/// Says that a part of a selector is missing from some prompts, and names the first of them.
fn not_in_all(what: &str, places: &[usize], prompts: usize) -> String {
    const NAMED: usize = 10;
    let first: Vec<String> = places.iter().take(NAMED).map(usize::to_string).collect();
    let more = if places.len() > NAMED { ", ..." } else { "" };
    let (count, list) = (places.len(), first.join(", "));
    format!(
        "\"{what}\" is missing, in whole or in part, from {count} of {prompts} prompts: {list}{more}"
    )
}

/// Parses a number. A negative one counts back from `end`; the result can be below 0.
fn position(text: &str, end: usize) -> Option<i64> {
    let number: i64 = text.parse().ok()?;
    if !text.starts_with('-') {
        return Some(number);
    }
    let end = i64::try_from(end).ok()?;
    (number < 0).then(|| end.saturating_add(number))
}

/// Parses `L:T,L:T` for a prompt with `tokens` tokens; `L:-1` is its last token. `what` names the option.
pub(crate) fn pairs(what: &str, text: &str, tokens: usize) -> Result<Vec<(usize, usize)>> {
    let pair = |part: &str| {
        let (layer, token) = part.trim().split_once(':')?;
        Some((layer.parse().ok()?, position(token, tokens)?))
    };
    text.split(',')
        .map(|part| match pair(part) {
            Some((layer, token)) => match usize::try_from(token) {
                Ok(token) => Ok((layer, token)),
                Err(_) => usage(format!(
                    "--{what} {text}: \"{part}\" is before the first of the prompt's {tokens} tokens"
                )),
            },
            None => usage(format!(
                "--{what} {text}: \"{part}\" is not LAYER:TOKEN, such as 3:5"
            )),
        })
        .collect()
}

/// Parses a list of numbers.
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
    fn ranges_follow_rust_syntax() {
        assert_eq!(numbers("layers", "1..4", 9).unwrap(), [1, 2, 3]);
        assert_eq!(numbers("layers", "1..=4", 9).unwrap(), [1, 2, 3, 4]);
        assert_eq!(numbers("layers", "all", 3).unwrap(), [0, 1, 2]);
        assert_eq!(numbers("layers", "7, 2..4,0", 9).unwrap(), [7, 2, 3, 0]);
        assert_eq!(numbers("layers", "0,last", 9).unwrap(), [0, 8]);
    }

    #[test]
    fn malformed_ranges_are_refused() {
        for text in [
            "", "a", "1..", "..3", "-1", "3..3", "3..2", "0..0", "1..=0", "1,,2", "9", "0..10",
        ] {
            assert!(numbers("layers", text, 9).is_err(), "{text}");
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

    /// Texts of pieces that these parsers know, put together at random.
    #[test]
    fn any_text_is_refused_or_in_range() {
        const PIECES: [&str; 15] = [
            "0",
            "7",
            "18446744073709551615",
            "9223372036854775808",
            "-",
            "+",
            ".",
            "..",
            "=",
            ",",
            ":",
            " ",
            "all",
            "last",
            "é",
        ];
        let mut random = fastrand::Rng::with_seed(3);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..200_000 {
            let pieces = random.usize(0..8);
            let text: String = (0..pieces)
                .map(|_| PIECES[random.usize(0..PIECES.len())])
                .collect();
            match numbers("layers", &text, 9) {
                Ok(layers) => {
                    assert!(layers.iter().all(|&layer| layer < 9), "{text}");
                    taken += 1;
                }
                Err(_) => refused += 1,
            }
            let _ = pairs("cells", &text, 9);
        }
        assert!(taken > 1000 && refused > 1000, "{taken}, {refused}");
    }
}

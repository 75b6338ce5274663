//! Line breaking.

use unicode_width::UnicodeWidthChar;

use crate::widths::{char_width, width};

/// A piece of text, with its relevancy if known.
pub(crate) type Part<'a> = (&'a str, Option<f32>);

/// Words on one line. Each word consists of parts without spaces between them.
#[derive(Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) words: Vec<Vec<(String, Option<f32>)>>,
    /// Whether the text begins with a letter of a right-to-left script.
    pub(crate) right_to_left: bool,
}

/// Breaks text at its spaces, and splits words wider than `room`, which is in units of the font size.
pub(crate) fn wrap<'a>(parts: impl IntoIterator<Item = Part<'a>>, room: f64) -> Vec<Line> {
    let words = words(parts);
    let letters = words.iter().flatten().flat_map(|(part, _)| part.chars());
    let first = letters.clone().find(|&c| c.is_alphabetic());
    let right_to_left = first.is_some_and(is_right_to_left);
    let mut lines = Vec::new();
    let mut line: Vec<Vec<(String, Option<f32>)>> = Vec::new();
    let mut used = 0.0;
    for word in words.into_iter().flat_map(|word| cut(word, room)) {
        let wide: f64 = word.iter().map(|(part, _)| width(part)).sum();
        let space = if line.is_empty() {
            0.0
        } else {
            char_width(' ')
        };
        if !line.is_empty() && used + space + wide > room {
            lines.push(std::mem::take(&mut line));
            used = 0.0;
        } else {
            used += space;
        }
        used += wide;
        line.push(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    let line = |words| Line {
        words,
        right_to_left,
    };
    lines.into_iter().map(line).collect()
}

fn words<'a>(parts: impl IntoIterator<Item = Part<'a>>) -> Vec<Vec<(String, Option<f32>)>> {
    let mut words: Vec<Vec<(String, Option<f32>)>> = Vec::new();
    let mut within = false;
    for (part, relevancy) in parts {
        for (index, text) in part.split(char::is_whitespace).enumerate() {
            within &= index == 0;
            if text.is_empty() {
                continue;
            }
            match words.last_mut().filter(|_| within) {
                Some(word) => word.push((text.to_owned(), relevancy)),
                None => words.push(vec![(text.to_owned(), relevancy)]),
            }
            within = true;
        }
    }
    words
}

/// Splits a word into pieces that fit into `room`; combining marks stay with their letter.
fn cut(word: Vec<(String, Option<f32>)>, room: f64) -> Vec<Vec<(String, Option<f32>)>> {
    let wide: f64 = word.iter().map(|(part, _)| width(part)).sum();
    if wide <= room {
        return vec![word];
    }
    let mut pieces = vec![Vec::new()];
    let mut used = 0.0;
    for (part, relevancy) in word {
        let mut text = String::new();
        for c in part.chars() {
            let wide = char_width(c);
            if used > 0.0 && used + wide > room && c.width() != Some(0) {
                push(&mut pieces, std::mem::take(&mut text), relevancy);
                pieces.push(Vec::new());
                used = 0.0;
            }
            used += wide;
            text.push(c);
        }
        push(&mut pieces, text, relevancy);
    }
    pieces
}

fn push(pieces: &mut [Vec<(String, Option<f32>)>], text: String, relevancy: Option<f32>) {
    if let Some(last) = pieces.last_mut().filter(|_| !text.is_empty()) {
        last.push((text, relevancy));
    }
}

/// Hebrew, Arabic, and the scripts among and around them.
fn is_right_to_left(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}' | '\u{10800}'..='\u{10fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &[Line]) -> Vec<String> {
        let word = |word: &Vec<(String, Option<f32>)>| {
            word.iter().map(|(part, _)| &**part).collect::<String>()
        };
        let line = |line: &Line| line.words.iter().map(word).collect::<Vec<_>>().join(" ");
        lines.iter().map(line).collect()
    }

    #[test]
    fn lines_break_at_spaces_and_fit() {
        let parts = [
            ("The", Some(0.1)),
            (" mess", Some(0.2)),
            ("age asks", Some(0.3)),
            (" for", None),
        ];
        // Exactly enough room, then slightly too little for a third word.
        let room = width("The message");
        let lines = wrap(parts, room);
        assert_eq!(texts(&lines), ["The message", "asks for"]);
        // A word of two pieces keeps the relevancy of each.
        let want = [
            ("mess".to_owned(), Some(0.2)),
            ("age".to_owned(), Some(0.3)),
        ];
        assert_eq!(lines[0].words[1], want);
    }

    #[test]
    fn long_words_are_cut_and_marks_stay_with_their_letter() {
        let lines = wrap([("e\u{301}e\u{301}e\u{301}", None)], 2.0 * width("e"));
        assert_eq!(texts(&lines), ["e\u{301}e\u{301}", "e\u{301}"]);
        // Even if nothing fits, every line has a letter.
        assert_eq!(texts(&wrap([("漢字", None)], 0.1)), ["漢", "字"]);
    }

    #[test]
    fn the_first_letter_decides_the_direction() {
        let runs = |text| wrap([(text, None)], 99.0)[0].right_to_left;
        assert!(runs("שלום abc") && runs("(1) مرحبا"));
        assert!(!runs("abc שלום") && !runs("123"));
    }
}

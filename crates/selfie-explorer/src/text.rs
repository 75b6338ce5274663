//! Prompts and model output, made safe to show.

use std::fmt::Write as _;

/// Text that stays on its line, cannot control the terminal, and hides nothing: line breaks become ⏎, other control
/// characters a dot, and invisible or direction-changing characters an escape.
pub fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => clean.push('⏎'),
            c if c.is_control() => clean.push('·'),
            c => push_visible(&mut clean, c),
        }
    }
    clean
}

/// A token's piece on its own line, with an escape for each invisible character.
pub fn visible(piece: &str) -> String {
    let mut visible = String::with_capacity(piece.len());
    for c in piece.chars() {
        if c.is_control() {
            visible.extend(c.escape_default());
        } else {
            push_visible(&mut visible, c);
        }
    }
    visible
}

/// Pushes the character, or an escape if it is invisible.
fn push_visible(text: &mut String, c: char) {
    if is_invisible(c) {
        // Writing to a string does not fail.
        let _ = write!(text, "{}", c.escape_unicode());
    } else {
        text.push(c);
    }
}

/// Whether a character is invisible: format characters (direction, joiners, zero width, tags), line and paragraph
/// separators, and characters without a glyph. Letters of any direction, combining marks and spaces are visible.
fn is_invisible(c: char) -> bool {
    // Line separators count as spaces, and Hangul fillers as letters.
    if matches!(
        c,
        '\u{2028}' | '\u{2029}' | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}'
    ) {
        return true;
    }
    if c.is_ascii() || c.is_alphanumeric() || c.is_whitespace() {
        return false;
    }
    // Debug escapes unprintable characters; after a letter it leaves combining marks alone.
    ['a', c].iter().collect::<String>().escape_debug().count() > 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_escaped() {
        // Bidirectional controls, zero width, separators, a soft hyphen, a tag.
        let hidden = "\u{202e}\u{202a}\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{2028}\u{2029}\
                      \u{ad}\u{180e}\u{fff9}\u{e0041}\u{3164}";
        for c in hidden.chars() {
            let escape = format!("\\u{{{:x}}}", u32::from(c));
            assert_eq!(clean(&format!("a{c}b")), format!("a{escape}b"));
            assert_eq!(visible(&c.to_string()), escape);
        }
        assert_eq!(clean("a\nb\x1b[31m\u{9b}"), "a⏎b·[31m·");
        assert_eq!(visible("\n\t\u{7f}"), "\\n\\t\\u{7f}");
    }

    #[test]
    fn letters_and_marks_of_any_script_stay() {
        for text in [
            "שָׁלוֹם",
            "مَرْحَبًا",
            "e\u{301}",
            "नमस्ते",
            "กำ",
            "漢字\u{3000}",
            "❤️ 🙂 €",
            "a\u{a0}b",
            "\"'\\",
            "▁Ġ",
        ] {
            assert_eq!(clean(text), text);
            assert_eq!(visible(text), text);
        }
    }
}

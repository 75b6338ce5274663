//! What is typed on the command line.

use selfie::TokenSelector;

/// `--tokens`, on a prompt of five tokens.
pub(crate) fn tokens(bytes: &[u8]) -> bool {
    const PROMPT: &str = "Paris, Texas is é";
    let spans = [0..5, 5..6, 6..12, 12..15, 15..18];
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let Ok(selector) = text.parse::<TokenSelector>() else {
        return false;
    };
    let selected = selector.select(PROMPT, &spans);
    assert!(selected.tokens.iter().all(|&token| token < spans.len()));
    let _ = selector.needs_text();
    selector.to_string() == text
}

//! Cutting texts.

/// Which part of a text becomes a row's interpretation. The ids and their scores stay complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The text before the last occurrence of a string. selfie-adapters cut at the last quotation mark.
    BeforeLast(String),
    /// The text between two strings, without white space at its ends. Natural-language autoencoders mark explanations
    /// in this way.
    Between(String, String),
}

impl Cut {
    /// The selected part of `text`; all of it if it lacks the marks. If only the closing mark is missing, because the
    /// text ended too soon, the part runs to the end.
    pub fn of<'a>(&self, text: &'a str) -> &'a str {
        match self {
            Cut::BeforeLast(mark) => text.rfind(mark).map_or(text, |at| &text[..at]),
            Cut::Between(open, close) => match text.split_once(open.as_str()) {
                None => text,
                Some((_, rest)) => rest
                    .split_once(close.as_str())
                    .map_or(rest, |(inner, _)| inner)
                    .trim(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut() {
        let quote = Cut::BeforeLast("\"".to_owned());
        assert_eq!(quote.of("a \"b\" c\" and"), "a \"b\" c");
        assert_eq!(quote.of("no mark"), "no mark");
        let tags = Cut::Between("<explanation>".to_owned(), "</explanation>".to_owned());
        assert_eq!(
            tags.of("x <explanation>\n a b \n</explanation> y</explanation>"),
            "a b"
        );
        assert_eq!(tags.of("<explanation> cut off"), "cut off");
        assert_eq!(tags.of("plain "), "plain ");
    }
}

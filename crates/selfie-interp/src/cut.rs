//! What is left of a text.

/// The part of a text that a row keeps as its interpretation; ids and their scores stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cut {
    /// What stands before the last occurrence of a text, as selfie-adapters cut at the last quotation mark.
    BeforeLast(String),
    /// What stands between two texts, as natural-language autoencoders mark it; without white space at its ends.
    Between(String, String),
}

impl Cut {
    /// The part of `text`; all of it where the marks are not in it. Where only the second is missing (a text that came to
    /// its end too soon), it is the rest.
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

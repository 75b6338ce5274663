//! Shell commands that reproduce a cell.

use std::collections::{BTreeSet, HashMap};

use crate::Row;

/// Where these commands come from.
#[derive(Clone, Debug)]
pub enum Commands {
    /// From the rows alone. Everything they do not record (the interpretation prompt, sampling, dtype, edits) keeps its
    /// default.
    FromRows,
    /// From a run's own command line.
    FromRun {
        /// `selfie interpret` and its options, except those that choose prompts, cells, injections, and the output.
        options: Vec<String>,
        /// The options that produce each [`Row::prompt`], by its text.
        prompts: HashMap<String, Vec<String>>,
    },
}

impl Commands {
    /// The command for a prompt's cells, without the options that [`injection_options`] and the cell add.
    pub(crate) fn of_prompt(&self, prompt: &str, rows: &[&Row]) -> String {
        match self {
            Self::FromRows => of_rows(rows),
            Self::FromRun { options, prompts } => {
                let prompt = prompts.get(prompt).map_or(&[][..], Vec::as_slice);
                command_line(options.iter().chain(prompt))
            }
        }
    }

    /// A caveat about the commands.
    pub(crate) fn note(&self) -> Option<&'static str> {
        match self {
            Self::FromRows => Some(
                "Rows do not record the interpretation prompt, sampling, seed, dtype or edits: add those of the run.",
            ),
            Self::FromRun { .. } => None,
        }
    }
}

/// The options of an injection.
pub(crate) fn injection_options(row: &Row) -> String {
    command_line(&[
        "--inject-layer".to_owned(),
        row.inject_layer.to_string(),
        "--mode".to_owned(),
        row.mode.clone(),
        "--strength".to_owned(),
        row.strength.to_string(),
    ])
}

/// With as many tokens as the longest text, every row keeps its text.
fn of_rows(rows: &[&Row]) -> String {
    let Some(first) = rows.first() else {
        return String::new();
    };
    let tokens = rows.iter().map(|row| row.pieces.len()).max().unwrap_or(0);
    let mut words = vec!["selfie", "interpret"]
        .into_iter()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let mut option = |name: &str, value: &str| words.extend([name.to_owned(), value.to_owned()]);
    if first.model != "demo" {
        option("--model", &first.model);
    }
    if let Some(reader) = &first.reader {
        option("--reader", reader);
    }
    option("--prompt", &first.prompt);
    option("--max-new-tokens", &tokens.to_string());
    let controls: BTreeSet<&str> = rows
        .iter()
        .flat_map(|row| row.controls())
        .map(|(name, ..)| name)
        .collect();
    if !controls.is_empty() {
        option(
            "--controls",
            &controls.into_iter().collect::<Vec<_>>().join(","),
        );
    }
    if rows.iter().all(|row| row.relevancy_score.is_empty()) {
        words.push("--no-relevancy".to_owned());
    }
    command_line(&words)
}

/// Quotes words for a POSIX shell.
pub fn command_line<'a>(words: impl IntoIterator<Item = &'a String>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| quote(word)).collect();
    quoted.join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A POSIX shell decides what a quoted word means.
    #[test]
    fn a_shell_reads_words_back() {
        let words = [
            "a b",
            "it's",
            "",
            "$HOME `x` \"y\" \\",
            "--model",
            "two\nlines",
            "שלום e\u{301}",
            "!*?[a]~#;&|<>",
        ];
        let words: Vec<String> = words.map(str::to_owned).to_vec();
        let script = format!("printf '%s\\0' {}", command_line(&words));
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        let read = String::from_utf8(output.stdout).unwrap();
        assert_eq!(read.split_terminator('\0').collect::<Vec<_>>(), words);
    }
}

//! Commands that reproduce the cells of a run: its own command line, without the options that choose cells.

use std::collections::HashMap;

use selfie_explorer::Commands;

/// Options that choose prompts, cells and injections, or the output. All take a value. (`--quiet`, which takes none,
/// goes too.)
const CELL_OPTIONS: [&str; 12] = [
    "--prompt",
    "--prompts",
    "--tensor",
    "--cells",
    "--layers",
    "--tokens",
    "--inject-layer",
    "--mode",
    "--strength",
    "--batch-size",
    "--out",
    "--format",
];

/// This process's command line. `prompts` gives each row's text with the option and value that produce it.
pub(crate) fn commands(
    prompts: impl IntoIterator<Item = (String, (&'static str, String))>,
) -> Commands {
    let words = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned());
    let one = |(text, (option, value)): (String, (&str, String))| {
        // A value that begins with a dash would be taken for an option.
        let words = if value.starts_with('-') {
            vec![format!("{option}={value}")]
        } else {
            vec![option.to_owned(), value]
        };
        (text, words)
    };
    Commands::FromRun {
        options: ["selfie".to_owned()]
            .into_iter()
            .chain(kept(words))
            .collect(),
        prompts: prompts.into_iter().map(one).collect::<HashMap<_, _>>(),
    }
}

/// Options of `serve` that do not concern the model; all take a value. The page compares edits by itself.
const SERVE_OPTIONS: [&str; 9] = [
    "--port",
    "--host",
    "--allow-host",
    "--max-new-tokens",
    "--max-prompt-tokens",
    "--batch-size",
    "--queue",
    "--timeout",
    "--edit",
];

/// `selfie interpret` with the model of this process, which runs `selfie serve`.
pub(crate) fn interpret_command() -> Vec<String> {
    let words = std::env::args_os()
        .skip(2)
        .map(|word| word.to_string_lossy().into_owned());
    let command = ["selfie", "interpret"].map(str::to_owned);
    command
        .into_iter()
        .chain(without(&SERVE_OPTIONS, words))
        .collect()
}

fn kept(words: impl Iterator<Item = String>) -> Vec<String> {
    without(&CELL_OPTIONS, words)
}

/// Removes some options, which take a value, and `--quiet`, which takes none.
fn without(options: &[&str], words: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        if options.contains(&&*word) {
            words.next();
        } else if word != "--quiet"
            && !options
                .iter()
                .any(|option| word.starts_with(&format!("{option}=")))
        {
            kept.push(word);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_choose_cells_are_removed() {
        let line = "interpret --quiet --prompt a --model M --tokens -3.. --seed 3 --out=page.html --strength 0.5,1 --controls none \
                    --prompt=b --no-relevancy --cells 3:1";
        let kept = kept(line.split_whitespace().map(str::to_owned));
        let want = "interpret --model M --seed 3 --controls none --no-relevancy";
        assert_eq!(kept.join(" "), want);
    }
}

//! The command line of a run, without what chooses its cells: what reproduces each cell of it.

use std::collections::HashMap;

use selfie_explorer::Commands;

/// Options that choose prompts, cells and injections, or the output; all take a value. (`--quiet`, which takes none, goes
/// too.)
const CHOSEN_ANEW: [&str; 12] = [
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

/// This process's command line; `prompts` are the texts of rows, each with the option and the value that give it.
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

/// The options of `serve` that are not those of a model; all take a value. The page compares edits by itself.
const OF_SERVING: [&str; 9] = [
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

/// `selfie interpret` with the model of this process's command line, which is one of `selfie serve`.
pub(crate) fn of_model() -> Vec<String> {
    let words = std::env::args_os()
        .skip(2)
        .map(|word| word.to_string_lossy().into_owned());
    let command = ["selfie", "interpret"].map(str::to_owned);
    command
        .into_iter()
        .chain(without(&OF_SERVING, words))
        .collect()
}

fn kept(words: impl Iterator<Item = String>) -> Vec<String> {
    without(&CHOSEN_ANEW, words)
}

/// Words without some options, which take a value, and `--quiet`, which takes none.
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
    fn what_chooses_cells_is_left_out() {
        let line = "interpret --quiet --prompt a --model M --tokens -3.. --seed 3 --out=page.html --strength 0.5,1 --controls none \
                    --prompt=b --no-relevancy --cells 3:1";
        let kept = kept(line.split_whitespace().map(str::to_owned));
        let want = "interpret --model M --seed 3 --controls none --no-relevancy";
        assert_eq!(kept.join(" "), want);
    }
}

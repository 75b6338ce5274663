//! Runs the commands of README and of the book as a reader would: page by page, each in one shell and one empty folder.
//!
//! The info string of a block says where it runs; `docs/src/contributing/book.md` has the rules.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Separates the output of one block from that of the next.
const MARK: &str = "-- end of block --";

/// On a terminal, `interpret` prints a table. Here it would print JSON lines, so it is told to print a table.
const PRELUDE: &str = r#"
set -euo pipefail
selfie() {
    if [[ "$1" == interpret* && " $* " != *" --out "* && " $* " != *" --format "* ]]; then
        set -- "$@" --format table
    fi
    command selfie "$@"
}
"#;

/// A block that is run here, and what the page says that it prints.
struct Block {
    line: usize,
    script: String,
    output: Option<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// README, and the pages that SUMMARY.md links.
fn pages() -> Vec<PathBuf> {
    let book = root().join("docs/src");
    let summary = fs::read_to_string(book.join("SUMMARY.md")).unwrap();
    let links = summary
        .lines()
        .filter_map(|line| line.split_once("](")?.1.strip_suffix(')'));
    let mut pages: Vec<PathBuf> = links.map(|link| book.join(link)).collect();
    pages.push(root().join("README.md"));
    pages
}

/// The blocks of a page that are run here. A `text` block that follows directly is the output.
fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut follows = false;
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            follows &= line.is_empty() || line.starts_with("<details>");
            continue;
        };
        let inside = lines.by_ref().map(|(_, line)| line);
        let text: String = inside
            .take_while(|line| *line != "```")
            .map(|line| format!("{line}\n"))
            .collect();
        match info {
            "sh" => blocks.push(Block {
                line: number + 1,
                script: text,
                output: None,
            }),
            "text" if follows => blocks.last_mut().unwrap().output = Some(text),
            "sh,no_run" | "sh,server" | "sh,parallel" => {}
            _ => assert!(
                !info.starts_with("sh") && info != "bash",
                "line {}: ```{info}",
                number + 1
            ),
        }
        follows = info == "sh";
    }
    blocks
}

/// Whether lines are those that a page shows, where a line `...` stands for any number of them.
fn agrees(shown: &[&str], lines: &[&str]) -> bool {
    match shown.split_first() {
        None => lines.is_empty(),
        Some((&"...", rest)) => (0..=lines.len()).any(|skip| agrees(rest, &lines[skip..])),
        Some((first, rest)) => lines
            .split_first()
            .is_some_and(|(line, more)| line.trim_end() == first.trim_end() && agrees(rest, more)),
    }
}

/// Runs the blocks of a page; returns how many there are.
fn run(page: &Path) -> usize {
    let blocks = blocks(&fs::read_to_string(page).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut script = PRELUDE.to_owned();
    for block in &blocks {
        // The shown outputs come from the path that every machine has, since others round differently. It is slow, so
        // blocks without an output use the best path.
        script += match block.output {
            Some(_) => "export SELFIE_CPU_PATH=portable\n",
            None => "unset SELFIE_CPU_PATH\n",
        };
        script += &block.script.replace("cargo run --release -- ", "selfie ");
        script += &format!("echo '{MARK}'\n");
    }
    let program = Path::new(env!("CARGO_BIN_EXE_selfie")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let outcome = Command::new("bash")
        .args(["-c", &script])
        .current_dir(&folder)
        .env("PATH", path)
        .env_remove("SELFIE_CPU_PATH")
        .output()
        .unwrap();
    let stdout = String::from_utf8(outcome.stdout).unwrap();
    let said = String::from_utf8(outcome.stderr).unwrap();
    let end = format!("{MARK}\n");
    let mut outputs = stdout.split_terminator(&end);
    for block in &blocks {
        let at = format!("{}:{}", page.display(), block.line);
        let output = outputs.next().unwrap_or_default();
        if let Some(shown) = &block.output {
            let (shown, lines): (Vec<&str>, Vec<&str>) =
                (shown.lines().collect(), output.lines().collect());
            assert!(
                agrees(&shown, &lines),
                "{at} shows\n{}\nand prints\n{output}{said}",
                shown.join("\n")
            );
        }
    }
    assert!(
        outcome.status.success(),
        "{}: a command fails\n{stdout}{said}",
        page.display()
    );
    blocks.len()
}

#[test]
fn the_commands_of_the_book_run() {
    let run: usize = pages().iter().map(|page| run(page)).sum();
    assert!(run > 20, "only {run} blocks were run");
}

#[test]
fn an_ellipsis_stands_for_any_lines() {
    let agree = |shown: &str, lines: &str| {
        agrees(
            &shown.lines().collect::<Vec<_>>(),
            &lines.lines().collect::<Vec<_>>(),
        )
    };
    assert!(agree("a\n...\nd", "a\nb\nc\nd"));
    assert!(agree("a\n...\nb", "a\nb"));
    assert!(!agree("a\n...\nd", "a\nb\nc"));
    assert!(!agree("a", "a\nb"));
}

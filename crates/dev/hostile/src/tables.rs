//! Tables: prompts, and suites of `selfie eval`, and rows that are shown.

use selfie::control::{behaviours, choices, facts, lines, rewrites};
use selfie_sweep::read_prompts;

use crate::files::with_files;

/// A CSV file, as each command reads one.
pub(crate) fn csv(bytes: &[u8]) -> bool {
    let one = ["{} is".to_owned()];
    let words = ["no".to_owned()];
    with_files(&[("table.csv", bytes)], |dir| {
        let path = &dir.join("table.csv");
        let suites = [
            facts(path),
            rewrites(path, &one[0]),
            choices(path, "{prompt} {question}", &words),
            behaviours(path, &one, &words),
        ];
        let mut taken = false;
        for suite in suites.into_iter().flatten() {
            let texts: Vec<String> = suite.cases.iter().map(|case| case.prompt.clone()).collect();
            let scores = suite.scores(&texts);
            assert!(
                scores
                    .iter()
                    .all(|score| (0.0..=1.0).contains(&score.share))
            );
            taken = true;
        }
        let _ = lines(path);
        taken | read_prompts(path, None).is_ok() | read_prompts(path, Some("prompt")).is_ok()
    })
}

/// JSON lines: prompts, and rows as they are shown.
pub(crate) fn jsonl(bytes: &[u8]) -> bool {
    with_files(&[("table.jsonl", bytes)], |dir| {
        let path = &dir.join("table.jsonl");
        let rows = selfie_sweep::read_rows(path);
        let rows = rows.map(|rows| rows.take_while(Result::is_ok).count());
        let shown = selfie_explorer::read_rows(path);
        if let Ok(rows) = shown {
            use selfie_explorer::{Commands, Explorer, Run};
            let name = "table.jsonl".to_owned();
            if let Ok(explorer) = Explorer::new(Run { name, rows }, None, &Commands::FromRows) {
                let _ = explorer.to_html();
                let _ = explorer.to_svg();
            }
        }
        rows.is_ok() | read_prompts(path, None).is_ok() | read_prompts(path, Some("prompt")).is_ok()
    })
}

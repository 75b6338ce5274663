//! What a model says on lists of prompts: facts, choices, behaviours. An edit is judged by the same list before and after it.

use std::path::Path;

use csv::StringRecord;
use selfie_kernels::Backend;
use selfie_llama::{Decoding, Llama, LlamaConfig, Tokenizer};
use serde::Serialize;

use crate::reward::mentions;
use crate::states::{continue_all, encode_all};
use crate::{ControlError, Result};

/// Prompts that are continued, and what is looked for in each continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Suite {
    /// What [`Case::values`] are, in order.
    pub columns: Vec<&'static str>,
    /// The prompts.
    pub cases: Vec<Case>,
}

/// A prompt of a suite.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Cases of one group are counted together.
    pub group: String,
    /// Where it comes from.
    pub values: Vec<String>,
    /// The text that is continued.
    pub prompt: String,
    /// What is looked for.
    pub measures: Vec<Measure>,
}

/// Something that a continuation has or has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// What it is called.
    pub name: String,
    /// What has to be in it.
    pub look: Look,
}

/// What a continuation has to have in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// This text, letter by letter.
    Exact(String),
    /// Any of these, in capitals or not.
    Any(Vec<String>),
    /// None of these.
    None(Vec<String>),
}

/// A measure over the cases of a group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// The group.
    pub group: String,
    /// The measure.
    pub measure: String,
    /// The share of continuations that have it.
    pub share: f64,
    /// The cases.
    pub cases: usize,
}

/// Facts: columns `prompt, attribute`. Measured: the share of continuations that contain the attribute (the check that
/// SelfIE's package makes with CounterFact).
pub fn facts(path: &Path) -> Result<Suite> {
    let cases = read(path, ["prompt", "attribute"], |[prompt, attribute]| Case {
        group: String::new(),
        measures: vec![Measure {
            name: "attribute".to_owned(),
            look: Look::Exact(attribute.clone()),
        }],
        values: vec![prompt.clone(), attribute],
        prompt,
    })?;
    Ok(Suite {
        columns: vec!["prompt", "attribute"],
        cases,
    })
}

/// Choices: columns `prompt, question, answer`, and a template with `{prompt}` and `{question}`. Measured: the share of
/// continuations that mention the answer, and that of each of `others`.
pub fn choices(path: &Path, template: &str, others: &[String]) -> Result<Suite> {
    for missing in ["{prompt}", "{question}"] {
        check_template(template, missing)?;
    }
    let measure = |name: &str, word: &str| Measure {
        name: name.to_owned(),
        look: Look::Any(vec![word.to_owned()]),
    };
    let columns = ["prompt", "question", "answer"];
    let cases = read(path, columns, |[prompt, question, answer]| {
        let mut measures = vec![measure("answer", &answer)];
        measures.extend(others.iter().map(|word| measure(word, word)));
        Case {
            group: String::new(),
            prompt: fill(
                template,
                &[("{prompt}", &prompt), ("{question}", &question)],
            ),
            values: vec![prompt, question, answer],
            measures,
        }
    })?;
    Ok(Suite {
        columns: columns.to_vec(),
        cases,
    })
}

/// Behaviours: a file with an instruction a line, and templates with `{}`. Measured for each template: the share of
/// continuations that mention any of `words`, and the share that mention none.
pub fn behaviours(path: &Path, templates: &[String], words: &[String]) -> Result<Suite> {
    let instructions = lines(path)?;
    let mut cases = Vec::new();
    for template in templates {
        check_template(template, "{}")?;
        cases.extend(instructions.iter().map(|instruction| Case {
            group: template.clone(),
            values: vec![template.clone(), instruction.clone()],
            prompt: template.replace("{}", instruction),
            measures: vec![
                Measure {
                    name: "match".to_owned(),
                    look: Look::Any(words.to_vec()),
                },
                Measure {
                    name: "no match".to_owned(),
                    look: Look::None(words.to_vec()),
                },
            ],
        }));
    }
    Ok(Suite {
        columns: vec!["template", "instruction"],
        cases,
    })
}

impl Suite {
    /// Finds every error that can be found without the weights.
    pub fn check(
        &self,
        config: &LlamaConfig,
        tokenizer: &Tokenizer,
        max_new_tokens: usize,
    ) -> Result<()> {
        for case in &self.cases {
            config.check_context(tokenizer.encode(&case.prompt)?.len() + max_new_tokens)?;
        }
        Ok(())
    }

    /// What each prompt goes on with, without special tokens. `finished` is told how many are done.
    pub fn run<B: Backend>(
        &self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        decoding: &Decoding,
        finished: impl FnMut(usize),
    ) -> Result<Vec<String>> {
        let prompts: Vec<String> = self.cases.iter().map(|case| case.prompt.clone()).collect();
        let prompts = encode_all(tokenizer, &prompts)?;
        continue_all(model, tokenizer, &prompts, decoding, finished)
    }

    /// The shares over continuations of all cases, group by group.
    pub fn scores(&self, texts: &[String]) -> Vec<Score> {
        let mut scores: Vec<Score> = Vec::new();
        let mut hits: Vec<usize> = Vec::new();
        for (case, text) in self.cases.iter().zip(texts) {
            for measure in &case.measures {
                let is_it = |s: &Score| s.group == case.group && s.measure == measure.name;
                let at = scores.iter().position(is_it).unwrap_or_else(|| {
                    hits.push(0);
                    scores.push(Score {
                        group: case.group.clone(),
                        measure: measure.name.clone(),
                        share: 0.0,
                        cases: 0,
                    });
                    scores.len() - 1
                });
                scores[at].cases += 1;
                hits[at] += usize::from(measure.look.finds(text));
            }
        }
        for (score, hits) in scores.iter_mut().zip(hits) {
            score.share = hits as f64 / score.cases as f64;
        }
        scores
    }
}

impl Look {
    /// Whether a continuation is as it has to be.
    pub fn finds(&self, text: &str) -> bool {
        match self {
            Look::Exact(wanted) => text.contains(wanted),
            Look::Any(words) => mentions(text, words),
            Look::None(words) => !mentions(text, words),
        }
    }
}

/// The lines of a file that are not blank. A line that is a JSON string is the text that it stands for, such as a prompt
/// with line breaks.
pub fn lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(|source| ControlError::Read {
        path: path.to_owned(),
        source,
    })?;
    let lines: Vec<String> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.to_owned()))
        .collect();
    if lines.is_empty() {
        return Err(data(path, "it has no line with text".to_owned()));
    }
    Ok(lines)
}

/// The rows of a CSV file with a header, which may have more columns than are asked for.
fn read<const N: usize>(
    path: &Path,
    columns: [&str; N],
    case: impl Fn([String; N]) -> Case,
) -> Result<Vec<Case>> {
    let failed = |error: csv::Error| data(path, error.to_string());
    let file = std::fs::File::open(path).map_err(|source| ControlError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut reader = csv::Reader::from_reader(file);
    let header = reader.headers().map_err(failed)?.clone();
    let mut places = [0; N];
    for (place, column) in places.iter_mut().zip(columns) {
        *place = header
            .iter()
            .position(|name| name.trim() == column)
            .ok_or_else(|| {
                let found: Vec<&str> = header.iter().collect();
                data(
                    path,
                    format!(
                        "it has no column \"{column}\"; the columns are: {}",
                        found.join(", ")
                    ),
                )
            })?;
    }
    let mut cases = Vec::new();
    for record in reader.records() {
        let record: StringRecord = record.map_err(failed)?;
        let values = places.map(|place| record.get(place).unwrap_or("").to_owned());
        if let Some(empty) = values.iter().position(|value| value.trim().is_empty()) {
            let line = record.position().map_or(0, csv::Position::line);
            let column = columns[empty];
            return Err(data(
                path,
                format!("line {line} has nothing in column \"{column}\""),
            ));
        }
        cases.push(case(values));
    }
    if cases.is_empty() {
        return Err(data(path, "it has no rows".to_owned()));
    }
    Ok(cases)
}

fn data(path: &Path, reason: String) -> ControlError {
    ControlError::Data {
        path: path.to_owned(),
        reason,
    }
}

fn check_template(template: &str, missing: &'static str) -> Result<()> {
    if template.contains(missing) {
        return Ok(());
    }
    Err(ControlError::Template {
        template: template.to_owned(),
        missing,
    })
}

/// Puts values in their places, each once: a value that looks like a place stays as it is.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        match values.iter().find(|(place, _)| rest.starts_with(place)) {
            Some((place, value)) => {
                filled.push_str(value);
                rest = &rest[place.len()..];
            }
            None => {
                filled.push('{');
                rest = &rest[1..];
            }
        }
    }
    filled + rest
}

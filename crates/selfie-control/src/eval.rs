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

/// Facts: columns `prompt, attribute`. Measured: the share of continuations that contain the attribute, in capitals or
/// not. This is the check that the notebooks of SelfIE make with CounterFact.
pub fn facts(path: &Path) -> Result<Suite> {
    let cases = read(path, ["prompt", "attribute"], |[prompt, attribute]| Case {
        group: String::new(),
        measures: vec![Measure {
            name: "attribute".to_owned(),
            look: Look::Any(vec![attribute.clone()]),
        }],
        values: vec![prompt.clone(), attribute],
        prompt,
    })?;
    Ok(Suite {
        columns: vec!["prompt", "attribute"],
        cases,
    })
}

/// Rewrites: columns `prompt, target, paraphrases, neighbours`, the last two each a JSON list of prompts, or prompts with
/// `|` between them; `target` is what is to be said. Measured, as CounterFact's rewrites are (arXiv 2202.05262, section
/// 3.3), but by what is generated: efficacy, the share of prompts whose continuation mentions the target; paraphrase, the
/// same of the paraphrases; specificity, the share of neighbours that do not mention it, or, with a column `attribute`,
/// that mention this. [`harmonic_mean`] makes one score of the three. `template` has a place `{}` for each prompt.
pub fn rewrites(path: &Path, template: &str) -> Result<Suite> {
    check_template(template, "{}")?;
    let with_attribute = columns_of(path)?.iter().any(|name| name == "attribute");
    let attribute = if with_attribute {
        "attribute"
    } else {
        "target"
    };
    let columns = ["prompt", "target", "paraphrases", "neighbours", attribute];
    let mut cases = Vec::new();
    for [prompt, target, paraphrases, neighbours, attribute] in records(path, columns)? {
        let mut case = |measure: &str, prompt: &str, look: Look| {
            cases.push(Case {
                group: String::new(),
                values: vec![measure.to_owned(), prompt.to_owned(), target.clone()],
                prompt: template.replace("{}", prompt),
                measures: vec![Measure {
                    name: measure.to_owned(),
                    look,
                }],
            });
        };
        let said = || Look::Any(vec![target.clone()]);
        case("efficacy", &prompt, said());
        for paraphrase in prompts_in(&paraphrases) {
            case("paraphrase", &paraphrase, said());
        }
        for neighbour in prompts_in(&neighbours) {
            let word = vec![attribute.clone()];
            let look = if with_attribute {
                Look::Any(word)
            } else {
                Look::None(word)
            };
            case("specificity", &neighbour, look);
        }
    }
    Ok(Suite {
        columns: vec!["measure", "prompt", "target"],
        cases,
    })
}

/// A JSON list of texts, or texts with `|` between them.
fn prompts_in(text: &str) -> Vec<String> {
    serde_json::from_str(text)
        .unwrap_or_else(|_| text.split('|').map(|part| part.trim().to_owned()).collect())
}

/// The harmonic mean of the scores' shares: 0 where one of them is.
pub fn harmonic_mean(scores: &[Score]) -> f64 {
    let inverse: f64 = scores.iter().map(|score| 1.0 / score.share).sum();
    scores.len() as f64 / inverse
}

/// Choices: columns `prompt, question, answer`, and a template with `{prompt}` and `{question}`. Measured: the share of
/// continuations that mention the answer, and that of each of `others`. The answer's column may be called `mislead_answer`,
/// as in the data of SelfIE.
pub fn choices(path: &Path, template: &str, others: &[String]) -> Result<Suite> {
    for missing in ["{prompt}", "{question}"] {
        check_template(template, missing)?;
    }
    let measure = |name: &str, word: &str| Measure {
        name: name.to_owned(),
        look: Look::Any(vec![word.to_owned()]),
    };
    let seed = columns_of(path)?
        .iter()
        .any(|name| name == "mislead_answer");
    let answer = if seed { "mislead_answer" } else { "answer" };
    let columns = ["prompt", "question", answer];
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

/// Behaviours: a file with an instruction a line, or a CSV file whose header has a column `harmful_behavior`, as the results
/// of SelfIE have it; and templates with `{}`. Measured for each template: the share of
/// continuations that mention any of `words`, and the share that mention none.
pub fn behaviours(path: &Path, templates: &[String], words: &[String]) -> Result<Suite> {
    let instructions = instructions(path)?;
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
            let prompt = tokenizer.encode(&case.prompt)?.len();
            config.check_context(prompt.saturating_add(max_new_tokens))?;
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

/// The instructions of [`behaviours`].
fn instructions(path: &Path) -> Result<Vec<String>> {
    let is_csv = path
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("csv"));
    let column = "harmful_behavior";
    if is_csv && columns_of(path)?.iter().any(|name| name == column) {
        let rows = records(path, [column])?;
        return Ok(rows.into_iter().map(|[instruction]| instruction).collect());
    }
    lines(path)
}

/// The rows of a CSV file with a header, which may have more columns than are asked for.
fn records<const N: usize>(path: &Path, columns: [&str; N]) -> Result<Vec<[String; N]>> {
    let failed = |error: csv::Error| data(path, error.to_string());
    let mut reader = open_csv(path)?;
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
    let mut rows = Vec::new();
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
        rows.push(values);
    }
    if rows.is_empty() {
        return Err(data(path, "it has no rows".to_owned()));
    }
    Ok(rows)
}

fn open_csv(path: &Path) -> Result<csv::Reader<std::fs::File>> {
    let file = std::fs::File::open(path).map_err(|source| ControlError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(csv::Reader::from_reader(file))
}

/// The names in a CSV file's header.
fn columns_of(path: &Path) -> Result<Vec<String>> {
    let failed = |error: csv::Error| data(path, error.to_string());
    let mut reader = open_csv(path)?;
    let header = reader.headers().map_err(failed)?;
    Ok(header.iter().map(|name| name.trim().to_owned()).collect())
}

/// A case for each row.
fn read<const N: usize>(
    path: &Path,
    columns: [&str; N],
    case: impl Fn([String; N]) -> Case,
) -> Result<Vec<Case>> {
    Ok(records(path, columns)?.into_iter().map(case).collect())
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

//! Evaluates what a model says about lists of prompts: facts, rewrites, choices, behaviours. Running the same list
//! before and after an edit judges the edit.

use std::path::Path;

use csv::StringRecord;
use selfie_kernels::Backend;
use selfie_llama::{Bos, Decoding, Llama, LlamaConfig, Tokenizer};
use serde::Serialize;

use crate::reward::mentions;
use crate::states::{continue_all, encode_all};
use crate::{ControlError, Result};

/// Prompts to continue, and what to look for in each continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Suite {
    /// The names of [`Case::values`], in order.
    pub columns: Vec<&'static str>,
    /// The prompts.
    pub cases: Vec<Case>,
    /// Whether the prompts begin with bos; [`Bos::Given`] is for prompts from a chat template.
    pub bos: Bos,
}

/// A prompt of a suite.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Cases of the same group are counted together.
    pub group: String,
    /// The fields it was made from.
    pub values: Vec<String>,
    /// The text to continue.
    pub prompt: String,
    /// What to look for.
    pub measures: Vec<Measure>,
}

/// A condition that a continuation meets or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// The name of the measure.
    pub name: String,
    /// What the continuation must mention.
    pub condition: Condition,
}

/// What a continuation must mention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Any of these words, ignoring case.
    Any(Vec<String>),
    /// None of these words, ignoring case.
    None(Vec<String>),
}

/// A measure over the cases of a group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// The group.
    pub group: String,
    /// The measure.
    pub measure: String,
    /// The share of continuations that meet it.
    pub share: f64,
    /// The number of cases.
    pub cases: usize,
}

/// Facts, from the columns `prompt, attribute`. Measures the share of continuations that contain the attribute,
/// ignoring case. SelfIE's notebooks check CounterFact in this way.
pub fn facts(path: &Path) -> Result<Suite> {
    let cases = read(path, ["prompt", "attribute"], |[prompt, attribute]| Case {
        group: String::new(),
        measures: vec![Measure {
            name: "attribute".to_owned(),
            condition: Condition::Any(vec![attribute.clone()]),
        }],
        values: vec![prompt.clone(), attribute],
        prompt,
    })?;
    Ok(Suite {
        columns: vec!["prompt", "attribute"],
        cases,
        bos: Bos::Auto,
    })
}

/// Rewrites, from the columns `prompt, target, paraphrases, neighbours`. The last two hold JSON lists of prompts, or
/// prompts separated by `|`; `target` is what the model should say. Measured like CounterFact's rewrites (arXiv
/// 2202.05262, section 3.3), but on generated text: efficacy is the share of prompts whose continuation mentions the
/// target; paraphrase is the same for the paraphrases; specificity is the share of neighbours whose continuation does
/// not mention it, or, if there is a column `attribute`, mentions that. [`harmonic_mean`] combines the three into one
/// score. `template` has a `{}` for the prompt.
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
        let mut case = |measure: &str, prompt: &str, condition: Condition| {
            cases.push(Case {
                group: String::new(),
                values: vec![measure.to_owned(), prompt.to_owned(), target.clone()],
                prompt: template.replace("{}", prompt),
                measures: vec![Measure {
                    name: measure.to_owned(),
                    condition,
                }],
            });
        };
        let said = || Condition::Any(vec![target.clone()]);
        case("efficacy", &prompt, said());
        for paraphrase in prompts_in(&paraphrases) {
            case("paraphrase", &paraphrase, said());
        }
        for neighbour in prompts_in(&neighbours) {
            let word = vec![attribute.clone()];
            let condition = if with_attribute {
                Condition::Any(word)
            } else {
                Condition::None(word)
            };
            case("specificity", &neighbour, condition);
        }
    }
    Ok(Suite {
        columns: vec!["measure", "prompt", "target"],
        cases,
        bos: Bos::Auto,
    })
}

/// Parses a JSON list of texts, or texts separated by `|`.
fn prompts_in(text: &str) -> Vec<String> {
    serde_json::from_str(text)
        .unwrap_or_else(|_| text.split('|').map(|part| part.trim().to_owned()).collect())
}

/// The harmonic mean of the scores' shares; 0 if any of them is 0.
pub fn harmonic_mean(scores: &[Score]) -> f64 {
    let inverse: f64 = scores.iter().map(|score| 1.0 / score.share).sum();
    scores.len() as f64 / inverse
}

/// Choices, from the columns `prompt, question, answer`, and a template with `{prompt}` and `{question}`. Measures the
/// share of continuations that mention the answer, and the share that mention each of `others`. The answer's column may
/// be called `mislead_answer`, as in SelfIE's data.
pub fn choices(path: &Path, template: &str, others: &[String]) -> Result<Suite> {
    for missing in ["{prompt}", "{question}"] {
        check_template(template, missing)?;
    }
    let measure = |name: &str, word: &str| Measure {
        name: name.to_owned(),
        condition: Condition::Any(vec![word.to_owned()]),
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
        bos: Bos::Auto,
    })
}

/// Behaviours, from a file with one instruction per line, or a CSV file with a column `harmful_behavior`, as in
/// SelfIE's results; and templates with `{}`. Measures, for each template, the share of continuations that mention any
/// of `words`, and the share that mention none.
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
                    condition: Condition::Any(words.to_vec()),
                },
                Measure {
                    name: "no match".to_owned(),
                    condition: Condition::None(words.to_vec()),
                },
            ],
        }));
    }
    Ok(Suite {
        columns: vec!["template", "instruction"],
        cases,
        bos: Bos::Auto,
    })
}

impl Suite {
    /// Finds every error that does not need the weights.
    pub fn check(
        &self,
        config: &LlamaConfig,
        tokenizer: &Tokenizer,
        max_new_tokens: usize,
    ) -> Result<()> {
        for case in &self.cases {
            let prompt = tokenizer.encode_as(&case.prompt, self.bos)?.len();
            config.check_context(prompt.saturating_add(max_new_tokens))?;
        }
        Ok(())
    }

    /// The continuation of each prompt, without special tokens. `finished` gets the number of prompts done so far.
    pub fn run<B: Backend>(
        &self,
        model: &Llama<B>,
        tokenizer: &Tokenizer,
        decoding: &Decoding,
        finished: impl FnMut(usize),
    ) -> Result<Vec<String>> {
        let prompts: Vec<&str> = self.cases.iter().map(|case| &*case.prompt).collect();
        let prompts = encode_all(tokenizer, &prompts, self.bos)?;
        continue_all(model, tokenizer, &prompts, decoding, finished)
    }

    /// The shares over the continuations of all cases, group by group.
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
                hits[at] += usize::from(measure.condition.finds(text));
            }
        }
        for (score, hits) in scores.iter_mut().zip(hits) {
            score.share = hits as f64 / score.cases as f64;
        }
        scores
    }
}

impl Condition {
    /// Whether a continuation meets the condition.
    pub fn finds(&self, text: &str) -> bool {
        match self {
            Condition::Any(words) => mentions(text, words),
            Condition::None(words) => !mentions(text, words),
        }
    }
}

/// The lines of a file that are not blank. A line that is a JSON string is decoded, so that a prompt can have line
/// breaks.
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
        return Err(data(path, "the file has no lines with text".to_owned()));
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

/// The rows of a CSV file with a header. Columns that are not in `columns` are ignored.
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
                        "there is no column \"{column}\"; the columns are: {}",
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
                format!("column \"{column}\" is empty in line {line}"),
            ));
        }
        rows.push(values);
    }
    if rows.is_empty() {
        return Err(data(path, "the file has no rows".to_owned()));
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

/// One case per row.
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

/// Fills in the placeholders, each once: values that look like placeholders stay as they are.
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

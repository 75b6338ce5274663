//! `selfie score`.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};

use selfie::control::{ControlError, OutputFile};
use selfie::interp::{Agreement, Embeddings, Released};
use selfie::llama::{PromptSite, Site};
use selfie::{Opened, Source, on};
use serde_json::{Map, Value, json};

use crate::error::{CliError, Result, usage};
use crate::open::{load, open};
use crate::reader_args::ScoreArgs;

/// Texts to reconstruct at a time.
const BATCH: usize = 64;

pub(crate) fn score(args: &ScoreArgs) -> Result<()> {
    let released = Released::open(&args.reconstructor, args.reader_as)?;
    let Some(Released::Reconstructor(meta)) = released else {
        return usage(format!(
            "--reconstructor {}: not a reconstructor; expected a folder with nla_meta.yaml and the role ar, critic or \
             reconstructor",
            args.reconstructor.display()
        ));
    };
    let mut rows = read(args)?;
    let out = args.out.as_deref().map(OutputFile::new).transpose()?;
    let subject = open(&args.model)?;
    if meta.d_model != subject.config.d_model {
        return usage(format!(
            "{}: d_model is {}, but {} has {}",
            meta.path.display(),
            meta.d_model,
            subject.name,
            subject.config.d_model
        ));
    }
    let source = Source::from(args.reconstructor.as_path());
    let critic = Opened::new(source, subject.options.clone())?;
    let model = load(subject, args.model.quiet)?;
    let states = states(&rows, &model)?;
    let reconstructor = critic.load_reconstructor(model.device(), meta)?;
    for (rows, states) in rows.chunks_mut(BATCH).zip(states.chunks(BATCH)) {
        let texts: Vec<&str> = rows.iter().map(|row| text(row, "interpretation")).collect();
        let vectors = reconstructor.reconstruct(&texts)?;
        for ((row, state), vector) in rows.iter_mut().zip(states).zip(vectors) {
            let agreement = Agreement::of(&vector, state);
            row.insert("cosine".to_owned(), json!(agreement.cosine));
            row.insert("reconstruction_error".to_owned(), json!(agreement.mse));
        }
    }
    let lines: String = rows
        .into_iter()
        .map(|row| format!("{}\n", Value::Object(row)))
        .collect();
    let Some(mut out) = out else {
        return io::stdout()
            .lock()
            .write_all(lines.as_bytes())
            .map_err(CliError::Stdout);
    };
    let written = out.file()?.write_all(lines.as_bytes());
    written.map_err(|source| out.failed(source))?;
    Ok(out.finish()?)
}

fn text<'a>(row: &'a Map<String, Value>, field: &str) -> &'a str {
    row.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Reads `--rows`: each row describes a prompt's cell.
fn read(args: &ScoreArgs) -> Result<Vec<Map<String, Value>>> {
    let json = fs::read_to_string(&args.rows).map_err(|source| ControlError::Read {
        path: args.rows.clone(),
        source,
    })?;
    let mut rows = Vec::new();
    for (index, line) in json
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let row: Option<Map<String, Value>> = serde_json::from_str(line).ok();
        let is_cell = |row: &Map<String, Value>| {
            let numbers = ["layer", "token"]
                .iter()
                .all(|field| row.get(*field).is_some_and(Value::is_u64));
            numbers
                && ["prompt", "interpretation"]
                    .iter()
                    .all(|field| row.get(*field).is_some_and(Value::is_string))
        };
        let Some(row) = row.filter(is_cell) else {
            return usage(format!(
                "--rows {}: line {} is not a row of interpret; it needs prompt, interpretation, layer and token",
                args.rows.display(),
                index + 1
            ));
        };
        rows.push(row);
    }
    Ok(rows)
}

/// The states that the rows interpret.
fn states(rows: &[Map<String, Value>], model: &selfie::Model) -> Result<Vec<Vec<f32>>> {
    let mut prompts: Vec<Vec<u32>> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut sites = Vec::new();
    for row in rows {
        let prompt = text(row, "prompt");
        let index = match known.get(prompt) {
            Some(&index) => index,
            None => {
                prompts.push(model.opened.encode(prompt)?);
                known.insert(prompt, prompts.len() - 1);
                prompts.len() - 1
            }
        };
        let number =
            |field: &str| row.get(field).and_then(Value::as_u64).unwrap_or_default() as usize;
        let (layer, token) = (number("layer"), number("token"));
        let (tokens, n_layers) = (prompts[index].len(), model.opened.config.n_layers);
        if layer > n_layers || token >= tokens {
            return usage(format!(
                "--rows: layer {layer}, token {token} of {prompt:?} is out of range: {} has layers 0..={n_layers}, \
                 the prompt {tokens} tokens",
                model.opened.name
            ));
        }
        sites.push(PromptSite {
            prompt: index,
            site: Site::HiddenStates(layer),
            token,
        });
    }
    let states = on!(&model.llama, llama => {
        Embeddings::capture(llama, &prompts, &sites).and_then(|states| states.to_host(llama.backend()))
    });
    let states = states.map_err(selfie::Error::from)?;
    Ok(states
        .chunks_exact(model.opened.config.d_model)
        .map(<[f32]>::to_vec)
        .collect())
}

//! `selfie map`, and the option `--map`.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use selfie::control::OutputFile;
use selfie::interp::{InterpError, Map, Vector};
use selfie::{Model, fit_map};
use selfie_sweep::read_prompts;

use crate::args::{BosArg, ModelArgs};
use crate::error::{CliError, Result, usage};
use crate::open::{load, load_on, open};
use crate::reader_args::{MapCommand, MapFitArgs, ReadingArgs};

pub(crate) fn map(command: &MapCommand) -> Result<()> {
    match command {
        MapCommand::Fit(args) => fit(args),
    }
}

/// Reads `--map` and `--subtract`.
pub(crate) fn read_map(args: &ReadingArgs) -> Result<Option<Map>> {
    let Some(path) = &args.map else {
        return Ok(None);
    };
    let map = Map::open(path)?;
    let Some(subtract) = &args.subtract else {
        return Ok(Some(map));
    };
    let Some((file, tensor)) = subtract.rsplit_once(':') else {
        return usage(format!("--subtract {subtract}: expected FILE:TENSOR"));
    };
    let vectors = Vector::read_file(Path::new(file), Some(tensor), map.from_width())?;
    let [mean] = &vectors[..] else {
        return usage(format!(
            "--subtract {subtract}: the tensor has {} vectors; expected one",
            vectors.len()
        ));
    };
    Ok(Some(map.subtract(&mean.values)?))
}

fn fit(args: &MapFitArgs) -> Result<()> {
    let (from, source) = place("from", &args.from)?;
    let (to, target) = place("to", &args.to)?;
    let prompts = read_prompts(&args.prompts, None).map_err(CliError::Prompts)?;
    let mut out = OutputFile::new(&args.out)?;
    let subject = open(&model_args(args, from))?;
    let reader = open(&model_args(args, to))?;
    if target >= reader.config.n_layers {
        let n_layers = reader.config.n_layers;
        let layer = target;
        return Err(InterpError::InjectLayer { layer, n_layers }.into());
    }
    let names = [
        ("source_model", subject.name.clone()),
        ("target_model", reader.name.clone()),
    ];
    let same = subject.source.is_same(&reader.source);
    let subject = load(subject, args.quiet)?;
    let other: Option<Model> = if same {
        None
    } else {
        Some(load_on(reader, subject.device(), args.quiet)?)
    };
    let reader = other.as_ref().unwrap_or(&subject);
    let fitted = fit_map((&subject, source), (reader, target), &prompts, args.ridge)?;
    let header = [
        ("ridge", args.ridge.to_string()),
        ("r2_held_out", fitted.r2.to_string()),
    ];
    let header = [&names[..], &header[..]].concat();
    let bytes = fitted.to_bytes((source, target), &header)?;
    let written = out.file()?.write_all(&bytes);
    written.map_err(|source| out.failed(source))?;
    out.finish()?;
    let mut stdout = io::stdout().lock();
    writeln!(
        stdout,
        "{}: hidden_states[{source}] of {} to layer {target} of {}: R2 {:.4} on {} held-out tokens ({:.4} on the {} \
         fitted tokens)",
        args.out.display(),
        names[0].1,
        names[1].1,
        fitted.r2,
        fitted.pairs[1],
        fitted.r2_fitted,
        fitted.pairs[0]
    )
    .map_err(CliError::Stdout)
}

/// Parses a model and a layer; a layer alone means the demo checkpoint's.
fn place(option: &str, text: &str) -> Result<(Option<PathBuf>, usize)> {
    let (model, layer) = match text.rsplit_once(':') {
        Some((model, layer)) => (Some(PathBuf::from(model)), layer),
        None => (None, text),
    };
    match layer.parse() {
        Ok(layer) => Ok((model, layer)),
        Err(_) => usage(format!(
            "--{option} {text}: expected MODEL:L, with L the number of a layer"
        )),
    }
}

fn model_args(args: &MapFitArgs, model: Option<PathBuf>) -> ModelArgs {
    ModelArgs {
        model,
        device: args.device,
        dtype: args.dtype,
        quantize: None,
        kv: args.kv,
        deterministic: false,
        threads: args.threads,
        bos: BosArg::Auto,
        edit: Vec::new(),
        quiet: args.quiet,
    }
}

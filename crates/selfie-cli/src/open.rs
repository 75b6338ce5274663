//! Opening and loading the model that the options name.

use std::num::NonZeroUsize;

use selfie::kernels::DType;
use selfie::llama::{GenerationConfig, Sampling, SamplingOverrides};
use selfie::{AnyDevice, DeviceOptions, Model, OpenOptions, Opened, Source};

use crate::args::{DTypeArg, ModelArgs, SamplingArgs};
use crate::console::Console;
use crate::error::{Result, usage};

/// Opens everything of `--model` but its weights; without `--model`, opens the demo checkpoint and notes it.
pub(crate) fn open(args: &ModelArgs) -> Result<Opened> {
    let threads = match args.threads {
        Some(0) => return usage("--threads 0: expected at least 1"),
        threads => threads.and_then(NonZeroUsize::new),
    };
    let options = OpenOptions {
        device: DeviceOptions {
            device: args.device,
            deterministic: args.deterministic,
            threads,
            ..DeviceOptions::from_env()?
        },
        dtype: args.dtype.dtype(),
        quantize: args.quantize,
        kv: args.kv.dtype(),
        bos: args.bos.bos(),
        edits: args.edit.clone(),
    };
    let source = match &args.model {
        Some(dir) => Source::from(dir.as_path()),
        None => {
            if !args.quiet {
                eprintln!(
                    "note: this is the demo checkpoint, which knows only a small world; \
                     pass --model DIR to use your own model"
                );
            }
            Source::Demo
        }
    };
    Ok(Opened::new(source, options)?)
}

/// Loads the weights, with notes and a progress bar.
pub(crate) fn load(opened: Opened, quiet: bool) -> Result<Model> {
    Ok(opened.load(&mut Console::new(quiet))?)
}

/// Loads a model and, if it is another one, the reader of its embeddings.
pub(crate) fn load_with_reader(
    opened: Opened,
    reader: Option<Opened>,
    quiet: bool,
) -> Result<(Model, Option<Model>)> {
    let Some(reader) = reader else {
        return Ok((load(opened, quiet)?, None));
    };
    let (model, reader) = opened.load_with_reader(reader, &mut Console::new(quiet))?;
    Ok((model, Some(reader)))
}

/// Loads the weights without the edits.
pub(crate) fn load_unedited(opened: Opened, quiet: bool) -> Result<Model> {
    Ok(opened.load_unedited(&mut Console::new(quiet))?)
}

/// Loads the weights onto the device of another model.
pub(crate) fn load_on(opened: Opened, device: AnyDevice, quiet: bool) -> Result<Model> {
    Ok(opened.load_on(device, &mut Console::new(quiet))?)
}

impl DTypeArg {
    fn dtype(self) -> Option<DType> {
        match self {
            DTypeArg::Auto => None,
            DTypeArg::F32 => Some(DType::F32),
            DTypeArg::Bf16 => Some(DType::Bf16),
            DTypeArg::F16 => Some(DType::F16),
        }
    }
}

impl SamplingArgs {
    pub(crate) fn overrides(&self) -> SamplingOverrides {
        SamplingOverrides {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        }
    }

    /// Greedy unless these options say otherwise: `generation_config.json` is meant for chat, not for interpretations.
    /// `None` is greedy.
    pub(crate) fn alone(&self) -> Result<Option<Sampling>> {
        Ok(GenerationConfig::resolve(None, &self.overrides())?.sampling)
    }
}

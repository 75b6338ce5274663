//! What the options of a model ask for.

use std::num::NonZeroUsize;

use selfie::kernels::DType;
use selfie::llama::{GenerationConfig, Sampling, SamplingOverrides};
use selfie::{AnyDevice, DeviceOptions, Model, OpenOptions, Opened, Source};

use crate::args::{DTypeArg, ModelArgs, SamplingArgs};
use crate::console::Console;
use crate::error::{Result, usage};

/// Everything of `--model` but its weights; without it the demo's, and a note that says so.
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
        bos: args.bos.bos(),
        edits: args.edit.clone(),
    };
    let source = match &args.model {
        Some(dir) => Source::from(dir.as_path()),
        None => {
            if !args.quiet {
                eprintln!(
                    "note: this is the demo checkpoint, which knows a small world only; \
                     --model DIR takes a model of yours"
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

/// The same without the edits.
pub(crate) fn load_unedited(opened: Opened, quiet: bool) -> Result<Model> {
    Ok(opened.load_unedited(&mut Console::new(quiet))?)
}

/// The same beside another model, on its device.
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

    /// Greedy unless these options ask for more: what `generation_config.json` says is meant for chat, not for
    /// interpretations. `None` is greedy.
    pub(crate) fn alone(&self) -> Result<Option<Sampling>> {
        Ok(GenerationConfig::resolve(None, &self.overrides())?.sampling)
    }
}

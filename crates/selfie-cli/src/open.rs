//! Opening a model as the options ask for.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use selfie_control::{Edit, EditStack};
use selfie_kernels::{Backend, DType};
use selfie_llama::{
    Checkpoint, GenerationConfig, Llama, LlamaConfig, Sampling, Tokenizer, stored_dtype,
};

use crate::args::{DTypeArg, ModelArgs, SamplingArgs};
use crate::device::{Device, DeviceOptions, Model, On, on};
use crate::error::{Result, usage};

/// Everything of a model but its weights.
pub(crate) struct Opened {
    pub(crate) files: Files,
    pub(crate) config: LlamaConfig,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) generation: Option<GenerationConfig>,
    pub(crate) quiet: bool,
    /// The edits of `--edit`, in order, with the names of their files.
    pub(crate) edits: Vec<(String, Edit)>,
    dtype: DTypeArg,
    device: DeviceOptions,
}

impl Opened {
    /// Reads the small files of the folder, or of the demo checkpoint.
    pub(crate) fn new(args: &ModelArgs) -> Result<Self> {
        let device = DeviceOptions::new(args)?;
        let files = Files::of(args);
        Ok(Self {
            edits: open_edits(&args.edit, &files, args.dtype)?,
            config: files.config()?,
            tokenizer: files.tokenizer()?,
            generation: files.generation()?,
            files,
            quiet: args.quiet,
            dtype: args.dtype,
            device,
        })
    }

    /// The small files of another folder, to be run as this one is; without edits.
    pub(crate) fn another(&self, dir: &Path) -> Result<Self> {
        let files = Files::Folder(dir.to_owned());
        Ok(Self {
            edits: Vec::new(),
            config: files.config()?,
            tokenizer: files.tokenizer()?,
            generation: files.generation()?,
            files,
            ..*self
        })
    }

    /// Loads the weights and applies the edits.
    pub(crate) fn load(&self) -> Result<Model> {
        let mut model = self.load_unedited()?;
        on!(&mut model, model => self.apply_edits(model)?);
        Ok(model)
    }

    pub(crate) fn apply_edits<B: Backend>(&self, model: &mut Llama<B>) -> Result<()> {
        let mut stack = EditStack::new();
        for (name, edit) in &self.edits {
            stack.apply(model, name, edit)?;
        }
        Ok(())
    }

    /// Loads the weights.
    pub(crate) fn load_unedited(&self) -> Result<Model> {
        let checkpoint = self.files.checkpoint()?;
        let stored = stored_dtype(&self.config, &checkpoint)?;
        let dtype = self.dtype.or(stored);
        // Every type fits f32 exactly; anything else is another model than the file's.
        if dtype != stored && dtype != DType::F32 {
            eprintln!("note: the {stored} weights are rounded to {dtype} (--dtype {dtype})");
        }
        Ok(match self.device(dtype)? {
            On::Cpu(cpu) => On::Cpu(self.load_on(cpu, &checkpoint, dtype)?),
            On::Cuda(cuda) => On::Cuda(self.load_on(cuda, &checkpoint, dtype)?),
        })
    }

    fn load_on<B: Backend>(
        &self,
        backend: B,
        checkpoint: &Checkpoint,
        dtype: DType,
    ) -> Result<Llama<B>> {
        let bar = bar(checkpoint.total_bytes(), self.quiet)
            .with_style(style("loading {bar:30} {bytes}/{total_bytes} {eta}"));
        let config = self.config.clone();
        let model = Llama::load(backend, config, checkpoint, Some(dtype), |bytes| {
            bar.set_position(bytes);
        })?;
        bar.finish_and_clear();
        Ok(model)
    }

    /// The dtype to compute in, and the one that the weights are stored in.
    pub(crate) fn dtypes(&self, checkpoint: &Checkpoint) -> Result<(DType, DType)> {
        let stored = stored_dtype(&self.config, checkpoint)?;
        Ok((self.dtype.or(stored), stored))
    }

    /// The device that the model is computed on in `dtype`.
    pub(crate) fn device(&self, dtype: DType) -> Result<Device> {
        let bytes = self.config.n_parameters() * dtype.size() as u64;
        self.device.open(bytes)
    }

    /// What rows call the model.
    pub(crate) fn name(&self) -> String {
        self.files.name()
    }

    /// The ids that end a text: of generation_config.json, else of config.json, else the tokenizer's.
    pub(crate) fn eos(&self) -> Vec<u32> {
        let generation = self.generation.as_ref().and_then(|g| g.eos.clone());
        let eos = generation.unwrap_or_else(|| self.config.eos.clone());
        if eos.is_empty() {
            return self.tokenizer.eos().into_iter().collect();
        }
        eos
    }

    /// The ids of a prompt; an error when it has no text.
    pub(crate) fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        if prompt.is_empty() {
            return usage("--prompt is empty: give it some text");
        }
        Ok(self.tokenizer.encode(prompt)?)
    }
}

/// Where the files of a model are.
#[derive(Clone)]
pub(crate) enum Files {
    Folder(PathBuf),
    /// The demo checkpoint, in the program itself.
    Demo,
}

impl Files {
    /// Those of `--model`; without it the demo's, and a note that says so.
    pub(crate) fn of(args: &ModelArgs) -> Self {
        match &args.model {
            Some(dir) => Files::Folder(dir.clone()),
            None => {
                if !args.quiet {
                    eprintln!(
                        "note: this is the demo checkpoint, which knows a small world only; \
                         --model DIR takes a model of yours"
                    );
                }
                Files::Demo
            }
        }
    }

    pub(crate) fn config(&self) -> Result<LlamaConfig> {
        Ok(match self {
            Files::Folder(dir) => LlamaConfig::open(dir)?,
            Files::Demo => selfie_demo::config()?,
        })
    }

    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        Ok(match self {
            Files::Folder(dir) => Tokenizer::open(dir)?,
            Files::Demo => selfie_demo::tokenizer()?,
        })
    }

    pub(crate) fn generation(&self) -> Result<Option<GenerationConfig>> {
        Ok(match self {
            Files::Folder(dir) => GenerationConfig::open(dir)?,
            Files::Demo => Some(selfie_demo::generation_config()?),
        })
    }

    /// The weights, of which only the headers are read.
    pub(crate) fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(match self {
            Files::Folder(dir) => Checkpoint::open(dir)?,
            Files::Demo => selfie_demo::checkpoint()?,
        })
    }

    /// What the user typed for the model, or the demo's name.
    pub(crate) fn name(&self) -> String {
        match self {
            Files::Folder(dir) => dir.display().to_string(),
            Files::Demo => selfie_demo::NAME.to_owned(),
        }
    }
}

impl DTypeArg {
    fn or(self, stored: DType) -> DType {
        match self {
            DTypeArg::Auto => stored,
            DTypeArg::F32 => DType::F32,
            DTypeArg::Bf16 => DType::Bf16,
            DTypeArg::F16 => DType::F16,
        }
    }
}

impl SamplingArgs {
    /// `None` is greedy. Flags come before `defaults`, those of generation_config.json.
    pub(crate) fn resolve(&self, defaults: Option<&GenerationConfig>) -> Result<Option<Sampling>> {
        let defaults = defaults.filter(|defaults| defaults.do_sample);
        let asked = self.top_k.is_some() || self.top_p.is_some();
        let temperature = match (self.temperature, defaults) {
            (Some(temperature), _) => temperature,
            (None, Some(defaults)) => defaults.temperature.unwrap_or(1.0),
            (None, None) if asked => 1.0,
            (None, None) => 0.0,
        };
        if temperature == 0.0 {
            return Ok(None);
        }
        let sampling = Sampling {
            temperature,
            top_k: self.top_k.or(defaults.and_then(|d| d.top_k)).unwrap_or(0),
            top_p: self.top_p.or(defaults.and_then(|d| d.top_p)).unwrap_or(1.0),
            seed: self.seed,
            ..Sampling::default()
        };
        sampling.check()?;
        Ok(Some(sampling))
    }
}

/// Reads edits; an error when one of them cannot belong to the model.
fn open_edits(paths: &[PathBuf], files: &Files, dtype: DTypeArg) -> Result<Vec<(String, Edit)>> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let config = files.config()?;
    let dtype = dtype.or(stored_dtype(&config, &files.checkpoint()?)?);
    let mut edits = Vec::new();
    for path in paths {
        let (name, edit) = (path.display().to_string(), Edit::open(path)?);
        edit.check(&name, &config, dtype)?;
        edits.push((name, edit));
    }
    Ok(edits)
}

/// A progress bar on stderr, that is nowhere when stderr is no terminal.
pub(crate) fn bar(total: u64, quiet: bool) -> ProgressBar {
    let target = if quiet {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    ProgressBar::with_draw_target(Some(total), target)
}

pub(crate) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

//! A model whose weights are not loaded yet.

use std::path::PathBuf;

use selfie_control::{Edit, EditStack};
use selfie_interp::{InterpretationPrompt, Options, PromptMessage};
use selfie_kernels::{Backend, BlockFormat, DType};
use selfie_llama::{
    Bos, ChatTemplate, Checkpoint, Decoding, GenerationConfig, Llama, LlamaConfig, LlamaError,
    TokenText, Tokenizer, WeightChoice, WeightSummary, eos_ids, stored_dtype, weight_summary,
};

use crate::cuda::on_device;
use crate::{
    AnyDevice, AnyModel, Device, DeviceOptions, Error, Model, Note, Observer, Result, Source,
};

/// How to run a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpenOptions {
    /// The device.
    pub device: DeviceOptions,
    /// The dtype to compute in. `None` follows the file: on the CPU each matrix keeps its own type, and quantized
    /// blocks stay blocks. f32 holds every type exactly; other dtypes round, which is noted.
    pub dtype: Option<DType>,
    /// The format to quantize the weights to on loading, whatever `dtype` is. Only the CPU can multiply with blocks.
    pub quantize: Option<BlockFormat>,
    /// The dtype of keys and values. `None` means f32 on the CPU, which is exact, and the dtype of the weights on a
    /// GPU, which has no other. bf16 and f16 take half the memory of f32.
    pub kv: Option<DType>,
    /// Whether prompts begin with bos.
    pub bos: Bos,
    /// Edit files to apply, in order.
    pub edits: Vec<PathBuf>,
}

/// Everything of a model except its weights.
pub struct Opened {
    /// Where its files are.
    pub source: Source,
    /// Its name in rows and messages.
    pub name: String,
    /// Its shape.
    pub config: LlamaConfig,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its `generation_config.json`, if there is one.
    pub generation: Option<GenerationConfig>,
    /// The ids that end a text: those of `generation_config.json`, else of `config.json`, else the tokenizer's.
    pub eos: Vec<u32>,
    /// The edits to apply, in order, with the names of their files.
    pub edits: Vec<(String, Edit)>,
    /// How to run it.
    pub options: OpenOptions,
}

impl Opened {
    /// Reads the small files of a model, and the edits. Fails if an edit cannot belong to the model.
    pub fn new(source: Source, options: OpenOptions) -> Result<Self> {
        let config = source.config()?;
        let tokenizer = source.tokenizer()?;
        let generation = source.generation()?;
        Ok(Self {
            edits: open_edits(&source, &config, &options)?,
            eos: eos_ids(generation.as_ref(), &config, &tokenizer),
            name: source.name(),
            source,
            config,
            tokenizer,
            generation,
            options,
        })
    }

    /// Loads the weights and applies the edits.
    pub fn load(self, observer: &mut dyn Observer) -> Result<Model> {
        let device = self.device(observer)?;
        self.load_on(device, observer)
    }

    /// The same on an open device, such as another model's [`Model::device`].
    pub fn load_on(self, device: AnyDevice, observer: &mut dyn Observer) -> Result<Model> {
        let mut model = self.load_weights(device, observer)?;
        model.apply_edits()?;
        Ok(model)
    }

    /// Loads this model and the reader of its embeddings onto one device. If they are the same files in the same
    /// formats, they share one copy of the weights; each has its own edits.
    pub fn load_with_reader(
        self,
        reader: Opened,
        observer: &mut dyn Observer,
    ) -> Result<(Model, Model)> {
        let same = self.source.is_same(&reader.source)
            && self.options.weights() == reader.options.weights()
            && self.options.kv == reader.options.kv;
        if !same {
            let subject = self.load(observer)?;
            let reader = reader.load_on(subject.device(), observer)?;
            return Ok((subject, reader));
        }
        let mut subject = self.load_unedited(observer)?;
        let mut reader = Model {
            opened: reader,
            llama: subject.llama.clone(),
        };
        subject.apply_edits()?;
        reader.apply_edits()?;
        Ok((subject, reader))
    }

    /// Loads the weights without the edits; [`Model::apply_edits`] applies them later.
    pub fn load_unedited(self, observer: &mut dyn Observer) -> Result<Model> {
        let device = self.device(observer)?;
        self.load_weights(device, observer)
    }

    fn load_weights(self, device: AnyDevice, observer: &mut dyn Observer) -> Result<Model> {
        let checkpoint = self.source.checkpoint()?;
        let weights = self.weights(&checkpoint, device.keeps_blocks())?;
        for note in checkpoint.notes() {
            observer.note(Note::Files(note.clone()));
        }
        if let Some(note) = self.weight_note(&checkpoint, &weights)? {
            observer.note(note);
        }
        let choice = self.options.weights();
        // Fails before the weights are read.
        let kv = device.kv_dtype(weights.operand_dtype(), self.options.kv)?;
        let llama = on_device!(device, device => {
            let llama = load(device, &self.config, &checkpoint, choice, observer)?;
            AnyModel::from(llama.with_kv(kv)?)
        });
        Ok(Model {
            opened: self,
            llama,
        })
    }

    /// The note about the weights: blocks, or rounding.
    fn weight_note(
        &self,
        checkpoint: &Checkpoint,
        weights: &WeightSummary,
    ) -> Result<Option<Note>> {
        let formats = weights.to_string();
        if self.options.quantize.is_some() {
            return Ok(Some(Note::Quantized { formats }));
        }
        if weights.has_blocks() {
            return Ok(Some(Note::KeptBlocks { formats }));
        }
        // f32 holds every type exactly; any other dtype may round.
        let dtype = self.options.dtype.unwrap_or(weights.operand_dtype());
        let stored = stored_dtype(&self.config, checkpoint)?;
        let quantized = checkpoint.quantized();
        Ok(if quantized.is_empty() {
            let rounds = dtype != stored && dtype != DType::F32;
            rounds.then_some(Note::Rounded { stored, dtype })
        } else {
            let names: Vec<&str> = quantized.into_keys().collect();
            let stored = names.join(", ");
            (dtype != DType::F32).then_some(Note::Dequantized { stored, dtype })
        })
    }

    /// Applies the edits to a model that was loaded without them.
    pub fn apply_edits<B: Backend>(&self, llama: &mut Llama<B>) -> Result<()> {
        let mut stack = EditStack::new();
        for (name, edit) in &self.edits {
            stack.apply(llama, name, edit)?;
        }
        Ok(())
    }

    /// The device to run the model on.
    pub fn device(&self, observer: &mut dyn Observer) -> Result<AnyDevice> {
        let mut device = self.options.device.clone();
        if self.options.quantize.is_some() && device.device == Device::Auto {
            device.device = Device::Cpu;
        }
        // The size of the weights on a GPU.
        let bytes = self.weights(&self.source.checkpoint()?, false)?.bytes();
        device.open(bytes, observer)
    }

    /// The formats in which the matrices are computed, on a device that multiplies with blocks or one that does not.
    pub fn weights(&self, checkpoint: &Checkpoint, keeps_blocks: bool) -> Result<WeightSummary> {
        let choice = self.options.weights();
        Ok(weight_summary(
            &self.config,
            checkpoint,
            choice,
            keeps_blocks,
        )?)
    }

    /// Checks whether an edit can belong to this model, as far as that is known without the weights. Errors call the
    /// edit `name`.
    pub fn check_edit(&self, name: &str, edit: &Edit) -> Result<()> {
        check_edit(&self.source, &self.config, &self.options, name, edit)
    }

    /// The ids of a prompt, with or without bos as the options say.
    pub fn encode(&self, prompt: &str) -> Result<Vec<u32>> {
        self.encode_as(prompt, self.options.bos)
    }

    /// The ids of a prompt. A prompt from a chat template has its own bos: [`Bos::Given`].
    pub fn encode_as(&self, prompt: &str, bos: Bos) -> Result<Vec<u32>> {
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        Ok(self.tokenizer.encode_as(prompt, bos)?)
    }

    /// The tokens of a prompt, as cells number them.
    pub fn tokens(&self, prompt: &str) -> Result<Vec<TokenText>> {
        Ok(self.tokenizer.tokens(&self.encode(prompt)?)?)
    }

    /// A note if a prompt has bos twice: its own, and the one that [`encode`](Opened::encode) adds.
    pub fn prompt_note(&self, prompt: &str) -> Result<Option<Note>> {
        let note = self.tokenizer.bos_note(prompt, self.options.bos)?;
        Ok(note.map(Note::Files))
    }

    /// The model's chat template, if it has one.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        self.source.chat_template(&self.tokenizer)
    }

    /// The model's chat template. If it has none, the error says where one would be found.
    pub fn needed_chat_template(&self) -> Result<ChatTemplate> {
        let template = self.chat_template()?;
        let missing = || LlamaError::NoChatTemplate {
            path: self.name.clone().into(),
        };
        Ok(template.ok_or_else(missing)?)
    }

    /// A named interpretation prompt, formatted by this model's chat template.
    pub fn interpretation_prompt(&self, name: &str) -> Result<InterpretationPrompt> {
        let template = self.chat_template()?;
        Ok(InterpretationPrompt::named(name, template.as_ref())?)
    }

    /// Reads an interpretation prompt from JSON: a list of texts with a 0 for each placeholder, or of messages, which
    /// this model's chat template formats.
    pub fn read_interpretation_prompt(&self, json: &str) -> Result<InterpretationPrompt> {
        Ok(match PromptMessage::list_from_json(json)? {
            Some(messages) => {
                InterpretationPrompt::from_messages(&messages, &self.needed_chat_template()?)?
            }
            None => json.parse()?,
        })
    }

    /// Greedy decoding that ends at this model's eos ids.
    pub fn decoding(&self, max_new_tokens: usize) -> Decoding {
        Decoding {
            max_new_tokens,
            eos: self.eos.clone(),
            sampling: None,
        }
    }

    /// SelfIE's defaults for this model, as a reader of its own embeddings.
    pub fn interpret_options(&self) -> Result<Options> {
        self.interpret_options_with(self.interpretation_prompt("summarize")?)
    }

    /// The same with another interpretation prompt.
    pub fn interpret_options_with(&self, prompt: InterpretationPrompt) -> Result<Options> {
        Ok(Options {
            prompt,
            bos: self.options.bos,
            eos: self.eos.clone(),
            model_name: self.name.clone(),
            ..Options::new(&self.config)?
        })
    }
}

fn load<B: Backend>(
    device: B,
    config: &LlamaConfig,
    checkpoint: &Checkpoint,
    choice: WeightChoice,
    observer: &mut dyn Observer,
) -> Result<Llama<B>> {
    let total = checkpoint.total_bytes();
    let loaded = |bytes| observer.loaded(bytes, total);
    Ok(Llama::load_as(
        device,
        config.clone(),
        checkpoint,
        choice,
        loaded,
    )?)
}

impl OpenOptions {
    fn weights(&self) -> WeightChoice {
        match (self.quantize, self.dtype) {
            (Some(format), _) => WeightChoice::Blocks(format),
            (None, Some(dtype)) => WeightChoice::Plain(dtype),
            (None, None) => WeightChoice::Stored,
        }
    }
}

fn open_edits(
    source: &Source,
    config: &LlamaConfig,
    options: &OpenOptions,
) -> Result<Vec<(String, Edit)>> {
    let mut edits = Vec::new();
    for path in &options.edits {
        let (name, edit) = (path.display().to_string(), Edit::open(path)?);
        check_edit(source, config, options, &name, &edit)?;
        edits.push((name, edit));
    }
    Ok(edits)
}

fn check_edit(
    source: &Source,
    config: &LlamaConfig,
    options: &OpenOptions,
    name: &str,
    edit: &Edit,
) -> Result<()> {
    let checkpoint = source.checkpoint()?;
    let on = |keeps_blocks| weight_summary(config, &checkpoint, options.weights(), keeps_blocks);
    let (cpu, gpu) = (on(true)?.operand_dtype(), on(false)?.operand_dtype());
    // If the dtype depends on the device, it is checked when the edit is applied.
    if cpu == gpu {
        edit.check(name, config, cpu)?;
    } else {
        edit.check_shape(name, config)?;
    }
    Ok(())
}

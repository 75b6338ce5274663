//! A small trained LLaMA, built into the program: for first runs, documentation, and tests that need a model whose
//! inner states have a known meaning.
//!
//! It knows the facts of a small world ([`World`]): the capital, language, continent, landmark and another city of 40
//! countries, some invented lands, what objects are made of, and a few invented hazards. It answers chat messages, even
//! if it has to infer a country that the prompt does not name. It also summarizes, repeats words and lists materials.
//! It was trained to describe its own embeddings, except those of the countries in [`World::held_out`]: it has to work
//! out what these say.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use selfie_llama::{Cpu, CpuOptions, Decoding, generate};
//! use std::ops::ControlFlow;
//!
//! let (model, tokenizer) = selfie_demo::open(Cpu::new(CpuOptions::default())?)?;
//! let prompt = tokenizer.encode("[INST] What is the capital of the country of the Colosseum? [/INST]")?;
//! let greedy = Decoding { max_new_tokens: 8, eos: model.config().eos.clone(), sampling: None };
//! let text = generate(&model, &prompt, greedy, |_| ControlFlow::Continue(()))?;
//! assert!(tokenizer.decode(&text.new_ids)?.contains("Rome"));
//! # Ok(())
//! # }
//! ```
//!
//! It is a toy. It knows nothing else, and answers anything outside its training at random. `xtask/demo-model` in the
//! repository trains it; `docs/src/worth.md` says how far to trust its descriptions.
#![forbid(unsafe_code)]

mod random_checkpoint;
mod world;

use std::path::{Path, PathBuf};
use std::{fs, io};

use selfie_kernels::Backend;
use selfie_llama::{
    ChatTemplate, Checkpoint, GenerationConfig, Llama, LlamaConfig, Result, Tokenizer,
};

pub use random_checkpoint::RandomCheckpoint;
pub use world::{Country, Hazard, Object, Templates, World};

/// The model's name in rows and messages.
pub const NAME: &str = "demo";

const CONFIG: &str = include_str!("../checkpoint/config.json");
const GENERATION_CONFIG: &str = include_str!("../checkpoint/generation_config.json");
const TOKENIZER: &str = include_str!("../checkpoint/tokenizer.json");
const TOKENIZER_CONFIG: &str = include_str!("../checkpoint/tokenizer_config.json");
const CHAT_TEMPLATE: &str = include_str!("../checkpoint/chat_template.jinja");
const WEIGHTS: &[u8] = include_bytes!("../checkpoint/model.safetensors");

/// The files of the checkpoint, by name; together they are a Hugging Face folder.
pub const FILES: [(&str, &[u8]); 6] = [
    ("config.json", CONFIG.as_bytes()),
    ("generation_config.json", GENERATION_CONFIG.as_bytes()),
    ("model.safetensors", WEIGHTS),
    ("tokenizer.json", TOKENIZER.as_bytes()),
    ("tokenizer_config.json", TOKENIZER_CONFIG.as_bytes()),
    ("chat_template.jinja", CHAT_TEMPLATE.as_bytes()),
];

/// Opens the model, in bf16 as it is stored, and its tokenizer.
pub fn open<B: Backend>(backend: B) -> Result<(Llama<B>, Tokenizer)> {
    let model = Llama::load(backend, config()?, &checkpoint()?, None, |_| {})?;
    Ok((model, tokenizer()?))
}

/// The model's shape.
pub fn config() -> Result<LlamaConfig> {
    LlamaConfig::parse(CONFIG, &named("config.json"))
}

/// The tokenizer: BPE in Llama's layout, in which every word of the world is one token.
pub fn tokenizer() -> Result<Tokenizer> {
    Tokenizer::parse(TOKENIZER.as_bytes(), Some(TOKENIZER_CONFIG), &named(""))
}

/// The chat template, in LLaMA 2's format.
pub fn chat_template() -> Result<ChatTemplate> {
    let tokenizer = tokenizer()?;
    let path = named("chat_template.jinja");
    ChatTemplate::parse(CHAT_TEMPLATE, tokenizer.special_tokens(), &path)
}

/// The `generation_config.json`.
pub fn generation_config() -> Result<GenerationConfig> {
    GenerationConfig::parse(GENERATION_CONFIG, &named("generation_config.json"))
}

/// The weights, for [`Llama::load`] with options other than those of [`open`].
pub fn checkpoint() -> Result<Checkpoint> {
    Checkpoint::from_bytes(WEIGHTS, &named("model.safetensors"))
}

/// Writes the [`FILES`] to a folder, for tools that need one. Creates the folder if it does not exist.
pub fn write(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for (name, bytes) in FILES {
        fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}

/// The name of a file in errors.
fn named(file: &str) -> PathBuf {
    Path::new("selfie-demo").join(file)
}

//! A probe that steers a generation: what tells one word from another in the residual stream is added while the model
//! writes.
//!
//! `cargo run --release -p selfie-llama --example steer DIR PROMPT FROM TO LAYER`
//!
//! DIR is a Hugging Face folder or a `.gguf` file. PROMPT has the word FROM in it. At the input of LAYER the states of
//! the prompt with TO in its place, less those of the prompt itself, are added to the tokens from the first that
//! differs on. The demo checkpoint then answers a question about another country:
//!
//! ```sh
//! cargo run -p selfie-demo --example write demo
//! cargo run -p selfie-llama --example steer demo "[INST] What is the capital of France? [/INST]" France Italy 3
//! ```

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use selfie_llama::{
    Backend, Cpu, CpuOptions, Decoding, InjectMode, Injection, Llama, Probe, PromptSite, Site,
    Tokenizer, Visit, capture, generate, generate_with,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, prompt, from, to, layer] = &args[..] else {
        return Err("give five arguments: DIR PROMPT FROM TO LAYER".into());
    };
    let layer = layer
        .parse()
        .map_err(|_| format!("LAYER is {layer:?}, which is no number"))?;
    if !prompt.contains(from) {
        return Err(format!("PROMPT has no {from:?} in it").into());
    }
    let dir = Path::new(dir);
    let model = Llama::open(Cpu::new(CpuOptions::default())?, dir)?;
    let tokenizer = Tokenizer::open(dir)?;
    let n_layers = model.config().n_layers;
    if layer >= n_layers {
        return Err(format!("LAYER is {layer}, and the model has the layers 0..{n_layers}").into());
    }

    let ids = tokenizer.encode(prompt)?;
    let other = tokenizer.encode(&prompt.replace(from, to))?;
    if ids.len() != other.len() {
        return Err(
            format!("{from:?} and {to:?} are not equally many tokens of this model").into(),
        );
    }
    let mut probe = Steer::new(&model, layer, &ids, &other)?;

    let decoding = Decoding {
        max_new_tokens: 24,
        eos: model.config().eos.clone(),
        sampling: None,
    };
    let plain = generate(
        &model,
        &ids,
        decoding.clone(),
        |_| ControlFlow::Continue(()),
    )?;
    let steered = generate_with(&model, &ids, decoding, &mut probe, |_| {
        ControlFlow::Continue(())
    })?;
    // The device may still have been writing: now it tells whether a write has missed its row.
    model.backend().check_tally(&mut probe.tally)?;
    println!("as it is: {}", tokenizer.decode(&plain.new_ids)?);
    println!("steered:  {}", tokenizer.decode(&steered.new_ids)?);
    Ok(())
}

/// Adds a vector to the row of each of some positions, at the input of a layer. Nothing leaves the device.
struct Steer<B: Backend> {
    layer: usize,
    positions: Vec<u32>,
    /// `[positions.len(), d_model]`
    vectors: B::Rows,
    tally: B::Tally,
}

impl<B: Backend> Steer<B> {
    /// From the states of the tokens `ids` to those of `other`, from the first token that differs on: later tokens have
    /// taken from it.
    fn new(
        model: &Llama<B>,
        layer: usize,
        ids: &[u32],
        other: &[u32],
    ) -> selfie_llama::Result<Self> {
        let first = ids
            .iter()
            .zip(other)
            .take_while(|(id, other)| id == other)
            .count();
        let steered = first..ids.len();
        let states = |ids: &[u32]| -> selfie_llama::Result<Vec<f32>> {
            let site = |token| PromptSite {
                prompt: 0,
                site: Site::HiddenStates(layer),
                token,
            };
            let sites: Vec<PromptSite> = steered.clone().map(site).collect();
            let rows = capture(model, &[ids.to_vec()], &sites)?;
            Ok(model.backend().read_rows(&rows, 0..sites.len())?)
        };
        let (from, to) = (states(ids)?, states(other)?);
        let difference: Vec<f32> = from.iter().zip(&to).map(|(from, to)| to - from).collect();
        let backend = model.backend();
        let mut vectors = backend.rows(steered.len(), model.config().d_model)?;
        backend.write_rows(&difference, &mut vectors)?;
        Ok(Self {
            layer,
            positions: steered.map(|position| position as u32).collect(),
            vectors,
            tally: backend.tally()?,
        })
    }
}

impl<B: Backend> Probe<B> for Steer<B> {
    fn wants(&self, site: Site) -> bool {
        site == Site::HiddenStates(self.layer)
    }

    fn visit(&mut self, visit: Visit<'_, B>) -> selfie_llama::Result<()> {
        let mut writes = Vec::new();
        for (vector, position) in self.positions.iter().enumerate() {
            // A long prompt comes in pieces, and then token after token: not every batch has the position.
            if let Some(row) = visit.batch.iter().position(|row| row.position == *position) {
                writes.push(Injection {
                    row,
                    vector,
                    mode: InjectMode::Add,
                    strength: 1.0,
                });
            }
        }
        Ok(visit
            .backend
            .inject(&self.vectors, &writes, visit.rows, &mut self.tally)?)
    }
}

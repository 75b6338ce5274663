//! A reward in Rust: reinforcement control makes an embedding of the demo checkpoint stop naming a country.
//!
//! `cargo run --release -p selfie-control --example reward [WORD]`
//!
//! WORD is what the interpretations should not say (default: France).

use std::error::Error;
use std::ops::ControlFlow;
use std::process::ExitCode;

use selfie_control::{Interpreted, Reinforce, Reward, Step, Training, Verdicts};
use selfie_interp::Options;
use selfie_kernels::{Backend, Cpu, CpuOptions};
use selfie_llama::{Llama, Tokenizer};
use serde_json::{Value, json};

/// A reward is -1 for an interpretation that says the word, and 1 for any other.
struct Without {
    word: String,
}

impl<B: Backend> Reward<B> for Without {
    /// The model, with the edit so far, is here for rewards that ask it something.
    fn rewards(
        &mut self,
        _model: &Llama<B>,
        _tokenizer: &Tokenizer,
        interpretations: &[Interpreted<'_>],
    ) -> selfie_control::Result<Verdicts> {
        let reward = |said: &Interpreted<'_>| {
            if said.interpretation.contains(&self.word) {
                -1.0
            } else {
                1.0
            }
        };
        Ok(Verdicts {
            rewards: interpretations.iter().map(reward).collect(),
            undecided: Vec::new(),
        })
    }

    fn describe(&self) -> Value {
        json!({ "without": self.word })
    }
}

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
    let word = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "France".to_owned());
    let (mut model, tokenizer) = selfie_demo::open(Cpu::new(CpuOptions::default())?)?;

    // The embedding of the country in this prompt, at layer 2.
    let prompt = "[INST] What is the capital of France? [/INST]";
    let token = tokenizer
        .encode("[INST] What is the capital of France")?
        .len()
        - 1;
    let control = Reinforce {
        sources: vec![(prompt.to_owned(), token)],
        layer: 2,
        interpretation: Options {
            max_new_tokens: 12,
            ..Options::new(model.config())?
        },
        training: Training::new(40, 3e-3),
    };
    let mut reward = Without { word };
    let outcome = control.run(&mut model, &tokenizer, &mut reward, &mut |step: &Step| {
        println!(
            "step {}: reward {:+}: {}",
            step.step, step.rewards[0], step.interpretations[0]
        );
        ControlFlow::Continue(())
    })?;
    println!("after {} updates: {:?}", outcome.updates(), outcome.end);
    // The edit is on the model; `outcome.edit.write(..)` keeps it, and this takes it off.
    outcome.revert(&mut model)?;
    Ok(())
}

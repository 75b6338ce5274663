//! Decode steps of a whole model. Reading the weights bounds them.

use std::time::Instant;

use selfie_kernels::gpu::Cuda;
use selfie_llama::{Decoding, Llama, generate_all};

use crate::Result;
use crate::report::Report;
use crate::sizes::Sizes;

const RUNS: usize = 3;

/// Times greedy steps for each number of sequences.
pub(crate) fn measure(model: &Llama<Cuda>, sizes: &Sizes, report: &mut Report) -> Result<()> {
    let config = model.config();
    // A step reads every matrix except the embedding table, of which it reads a few rows.
    let table = (config.vocab_size * config.d_model) as u64;
    let read = config.n_parameters() - if config.tie_word_embeddings { 0 } else { table };
    let bytes = (read * model.dtype().size() as u64) as f64;
    for &batch in sizes.decode {
        let mut samples = Vec::new();
        // The first run chooses algorithms and captures the graphs.
        time(model, batch, sizes, sizes.texts[1])?;
        for _ in 0..RUNS {
            let [short, long] = sizes.texts;
            let difference = time(model, batch, sizes, long)? - time(model, batch, sizes, short)?;
            samples.push(difference / (long - short) as f64);
        }
        samples.sort_by(f64::total_cmp);
        let step = samples[RUNS / 2];
        let name = format!("decode step, batch {batch}");
        report.add(&name, step * 1e3, "ms");
        let share = 100.0 * bytes / step / report.copy();
        report.add(&format!("{name}, weights over time, of copy"), share, "%");
    }
    Ok(())
}

/// The seconds to write `new_tokens` tokens after each of `batch` prompts.
fn time(model: &Llama<Cuda>, batch: usize, sizes: &Sizes, new_tokens: usize) -> Result<f64> {
    let start = Instant::now();
    write_texts(model, batch, sizes.prompt, new_tokens)?;
    Ok(start.elapsed().as_secs_f64())
}

/// Writes `new_tokens` tokens after each of `batch` prompts of `tokens` tokens, all together.
pub(crate) fn write_texts(
    model: &Llama<Cuda>,
    batch: usize,
    tokens: usize,
    new_tokens: usize,
) -> Result<()> {
    let vocab = model.config().vocab_size;
    let prompt = |i: usize| (0..tokens).map(move |j| ((31 * i + 7 * j + 5) % vocab) as u32);
    let prompts: Vec<Vec<u32>> = (0..batch).map(|i| prompt(i).collect()).collect();
    let decoding = Decoding {
        max_new_tokens: new_tokens,
        eos: Vec::new(),
        sampling: None,
    };
    let texts = generate_all(model, &prompts, &decoding, |_| {})?;
    assert!(texts.iter().all(|text| text.new_ids.len() == new_tokens));
    Ok(())
}

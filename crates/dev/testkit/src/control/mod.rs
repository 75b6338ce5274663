//! Golden checkpoints and PyTorch's results on them; see `golden/README.md` of selfie-llama.

use std::ops::ControlFlow;
use std::path::Path;

pub use crate::llama::{GOLDEN, Tensors, cpu, dir, golden, ids};
use selfie_control::{Step, Supervised, Target, TargetCell, Training};
use selfie_demo::RandomCheckpoint;
use selfie_interp::{InjectAt, Options};
use selfie_kernels::{Backend, Cpu, DType, InjectMode};
use selfie_llama::{Checkpoint, Decoding, Llama, LlamaConfig, Tokenizer, Trace, generate};
use serde_json::Value;

pub fn load_dir(dir: &Path, dtype: Option<DType>, threads: usize) -> Llama<Cpu> {
    let config = LlamaConfig::open(dir).unwrap();
    let checkpoint = Checkpoint::open(dir).unwrap();
    Llama::load(cpu(threads), config, &checkpoint, dtype, |_| {}).unwrap()
}

pub fn load(name: &str, dtype: Option<DType>) -> (Llama<Cpu>, Tokenizer) {
    let dir = dir(name);
    (load_dir(&dir, dtype, 2), Tokenizer::open(&dir).unwrap())
}

/// A random checkpoint of an odd shape, with a golden checkpoint's tokenizer.
pub fn odd(mlp_bias: bool, dtype: DType) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let random = RandomCheckpoint {
        d_model: 52,
        ffn: 37,
        mlp_bias,
        dtype,
        ..RandomCheckpoint::tiny()
    };
    random.write(dir.path(), &self::dir("llama2-mha")).unwrap();
    dir
}

pub fn doubles(value: &Value) -> Vec<f64> {
    let values = value.as_array().unwrap().iter();
    values.map(|x| x.as_f64().unwrap()).collect()
}

/// `|a - b| <= absolute + relative |b|` for all values.
#[track_caller]
pub fn assert_close(what: &str, got: &[f64], want: &[f64], absolute: f64, relative: f64) {
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!(
            (a - b).abs() <= absolute + relative * b.abs(),
            "{what}: value {i} is {a}, expected {b}"
        );
    }
}

pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// A model's logits at every token, as bits.
pub fn logits(model: &Llama<Cpu>, prompt: &[u32]) -> Vec<u32> {
    let trace = Trace::new(model, prompt).unwrap();
    trace.logits.iter().map(|x| x.to_bits()).collect()
}

pub fn keep_on(_: &Step) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The supervised case `index` of the golden data.
pub fn supervised_case(case: &Value) -> Supervised {
    let number = |field: &str| case[field].as_u64().unwrap() as usize;
    let text = |field: &str| case[field].as_str().unwrap().to_owned();
    let mut training = Training::published(number("steps"), case["lr"].as_f64().unwrap());
    if let Some(prompts) = case["reference_prompts"].as_array() {
        training.reference = Some(selfie_control::Reference {
            prompts: prompts
                .iter()
                .map(|p| p.as_str().unwrap().to_owned())
                .collect(),
            beta: case["beta"].as_f64().unwrap(),
            batch: 512,
            max_drift: None,
        });
    }
    Supervised {
        sources: vec![(text("source_prompt"), number("source_token"))],
        layer: number("source_layer"),
        target: Target::Cells(vec![TargetCell {
            prompt: text("target_prompt"),
            layer: number("target_layer"),
            token: number("target_token"),
        }]),
        training,
        interpretation: None,
    }
}

/// Greedy interpretations of a few tokens, injected at layer 1.
pub fn interpretation(model: &Llama<Cpu>) -> Options {
    Options {
        injections: vec![InjectAt {
            layer: 1,
            mode: InjectMode::Replace,
            strength: 1.0,
        }],
        max_new_tokens: 6,
        ..Options::new(model.config()).unwrap()
    }
}

/// The model, with the edit of a golden case, continues the case's prompt as PyTorch does.
#[track_caller]
pub fn assert_says<B: Backend>(
    name: &str,
    model: &Llama<B>,
    tokenizer: &Tokenizer,
    control: &Supervised,
    case: &Value,
) {
    let want = ids(&case["after_new_ids"]);
    let decoding = Decoding {
        max_new_tokens: want.len(),
        eos: model.config().eos.clone(),
        sampling: None,
    };
    let prompt = tokenizer.encode(&control.sources[0].0).unwrap();
    let got = generate(model, &prompt, decoding, |_| ControlFlow::Continue(()));
    assert_eq!(got.unwrap().new_ids, want, "{name}");
}

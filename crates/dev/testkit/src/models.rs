//! Checks of whole models on a GPU, simulated or not, besides agreement with PyTorch in f32.

use selfie_interp::{Cell, InjectAt, Options};
use selfie_kernels::{Backend, DType, InjectMode};
use selfie_llama::{Llama, Trace};

use crate::interp;
use crate::llama::{self, GOLDEN};

/// The root mean square of the difference between a model's logits and states and PyTorch's in f32.
fn error<B: Backend>(model: &Llama<B>, name: &str) -> f64 {
    let tensors = llama::Tensors::open(name);
    let case = &llama::golden(name)["forward"][0];
    let trace = Trace::new(model, &llama::ids(&case["input_ids"])).unwrap();
    let prefix = case["tensors"].as_str().unwrap();
    let mut squares = Vec::new();
    for (tensor, got) in [
        ("hidden_states", &trace.hidden_states),
        ("logits", &trace.logits),
    ] {
        let want = tensors.get(&format!("{prefix}{tensor}"));
        assert_eq!(got.len(), want.len());
        let difference = got.iter().zip(want).map(|(a, b)| f64::from(a - b).powi(2));
        squares.extend(difference);
    }
    (squares.iter().sum::<f64>() / squares.len() as f64).sqrt()
}

/// In bf16 the oracle is the CPU. It rounds the weights and operands of four products per layer, as the GPU does: eight
/// roundings. The GPU also rounds queries and keys, both before and after their rotation, values, the weights of the
/// softmax, gate and up: eight more. Errors grow as the root of their number. f16 has three more bits.
pub fn sixteen_bits_are_off_by_their_roundings<B: Backend>(open: impl Fn() -> B) {
    for name in GOLDEN {
        let on_gpu = |dtype| error(&llama::load_on(open(), name, Some(dtype)), name);
        let (bf16, f16) = (on_gpu(DType::Bf16), on_gpu(DType::F16));
        let cpu = error(&llama::load(name, Some(DType::Bf16), 2), name);
        println!("{name}: {bf16:.2e} in bf16, {cpu:.2e} on the CPU; {f16:.2e} in f16");
        assert!(bf16 < 2.0 * cpu, "{name}: {bf16:e}, {cpu:e} on the CPU");
        assert!(f16 < bf16 / 5.0, "{name}: {f16:e} in f16, {bf16:e} in bf16");
    }
}

/// The same cell gives the same bits in any batch; `open` opens a device in deterministic mode.
pub fn a_cell_does_not_depend_on_the_batch<B: Backend>(open: impl Fn() -> B) {
    let name = GOLDEN[1];
    for dtype in [DType::F32, DType::Bf16] {
        let (model, tokenizer) = interp::load_on(open(), &interp::dir(name), Some(dtype));
        let cells: Vec<Cell> = [(1, 1), (2, 2), (3, 1), (4, 3), (5, 2)]
            .map(|(layer, token)| Cell {
                prompt: 0,
                layer,
                token,
            })
            .into();
        let inject = |mode, strength| InjectAt {
            layer: 1,
            mode,
            strength,
        };
        let rows = |batch_size| {
            let options = Options {
                injections: vec![
                    inject(InjectMode::Replace, 1.0),
                    inject(InjectMode::Add, 0.5),
                ],
                max_new_tokens: 4,
                eos: vec![],
                batch_size: Some(batch_size),
                ..Options::new(model.config()).unwrap()
            };
            let prompt = "The capital of France is";
            let rows = interp::collect(&model, &tokenizer, &[prompt], &cells, &options);
            let bits = |scores: &[f32]| scores.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let rows = rows.iter().map(|row| {
                let scores = bits(&row.relevancy_score);
                (row.layer, row.token, row.new_ids.clone(), scores)
            });
            rows.collect::<Vec<_>>()
        };
        let one = rows(1);
        assert_eq!(one.len(), 10);
        for batch_size in [3, 10] {
            assert_eq!(rows(batch_size), one, "{dtype}, batches of {batch_size}");
        }
    }
}

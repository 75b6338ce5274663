//! Tokens drawn on a device, against [`Sampling::pick`] with the same logits.

use selfie_kernels::{Best, LogitMap};
use selfie_llama::Sampling;

use super::*;

const ALL: Sampling = Sampling {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    seed: 5,
};

/// Each cut by itself, all together, and none.
const SETTINGS: [Sampling; 9] = [
    ALL,
    Sampling {
        temperature: 0.25,
        ..ALL
    },
    Sampling { top_k: 1, ..ALL },
    Sampling { top_k: 50, ..ALL },
    Sampling {
        top_p: 0.9,
        temperature: 0.6,
        ..ALL
    },
    Sampling { top_p: 0.05, ..ALL },
    Sampling { min_p: 0.1, ..ALL },
    Sampling { min_p: 1.0, ..ALL },
    Sampling {
        temperature: 1.7,
        top_k: 400,
        top_p: 0.95,
        min_p: 0.01,
        ..ALL
    },
];

/// Draws from rows of logits: the product of a column (`logits`) and one factor for each row. Returns the logits of
/// each row too.
fn draw<D: Driver>(
    gpu: &Gpu<D>,
    logits: &[f32],
    factors: &[f32],
    sampling: &Sampling,
    step: u64,
) -> Vec<(Option<Best>, Vec<f32>)> {
    let head = Matrix::new(DType::F32, 1, logits);
    let head = must("matrix", gpu.matrix(&[&head], DType::F32));
    let a = acts_of(gpu, factors, 1, DType::F32);
    let draws = (0..factors.len()).map(|row| sampling.on_device(row as u64, step));
    let draws: Vec<_> = draws.map(|draw| draw.expect("it draws")).collect();
    let drawn = must(
        "head_draw",
        gpu.head_draw(&a, &head, &LogitMap::PLAIN, &draws),
    );
    let rows = factors
        .iter()
        .map(|f| logits.iter().map(|x| f * x).collect());
    drawn.into_iter().zip(rows).collect()
}

pub fn check_head_draw<D: Driver>(gpu: &Gpu<D>) {
    let mut errors = Errors::new(gpu, "head_draw");
    let (mut sure, mut all) = (0, 0);
    for (seed, vocab) in [1, 5, 513, 3000].into_iter().enumerate() {
        let logits = values(seed as u64, vocab, (-8.0, 4.0));
        for sampling in SETTINGS {
            for step in 0..4 {
                let rows = draw(gpu, &logits, &[1.0, 0.25, -3.0], &sampling, step);
                for (row, (got, logits)) in rows.into_iter().enumerate() {
                    all += 1;
                    let Some(got) = got else { continue };
                    sure += 1;
                    let want = sampling.pick(&logits, &[], row as u64, step);
                    let name = format!("{vocab} tokens, {sampling:?}, row {row}, step {step}");
                    errors.equal(format_args!("{name}"), got.token, want.token);
                    // Sums in f64, rounded to f32: the last bit may differ.
                    let bound = |_| 2.0 * U * f64::from(want.logprob.abs()) + 1e-9;
                    let (got, want) = ([got.logprob], [want.logprob]);
                    errors.compare(format_args!("{name}"), &got, &want, bound);
                }
            }
        }
    }
    // With 3000 tokens it is unsure in less than one draw of 100,000, unless a cut falls among equal logits.
    errors.equal(format_args!("draws"), sure, all);
    errors.finish();
}

/// Where a cut falls among equal logits, the device leaves the row to the caller, who takes the lower tokens. Logits
/// that are not finite give a log-probability of NaN.
pub fn check_head_draw_limits<D: Driver>(gpu: &Gpu<D>) {
    let mut errors = Errors::new(gpu, "head_draw at its limits");
    // Five times 2, 1, 0, -0, -1, and others below.
    let logits: Vec<f32> = (0..600)
        .map(|i| match i % 120 {
            0 => 2.0,
            1 => 1.0,
            2 => 0.0,
            3 => -0.0,
            4 => -1.0,
            _ => -9.0,
        })
        .collect();
    // 0 and -0 are equal: ten tokens are between ranks 10 and 20.
    for (top_k, top_p, sure) in [
        (0, 1.0, true),
        (5, 1.0, true),
        (7, 1.0, false),
        (10, 1.0, true),
        (15, 1.0, false),
        (20, 1.0, true),
        (0, 0.1, false),
    ] {
        let sampling = Sampling {
            top_k,
            top_p,
            ..ALL
        };
        for (got, logits) in draw(gpu, &logits, &[1.0], &sampling, 3) {
            let want = sampling.pick(&logits, &[], 0, 3).token;
            let name = format_args!("{sampling:?}");
            let got = got.map(|best| best.token);
            errors.equal(name, got, sure.then_some(want));
        }
    }
    // A factor that is not finite makes all logits so, and a large one some.
    let mut large = logits.clone();
    large[77] = 1e38;
    for (factor, logits) in [
        (f32::NAN, &logits),
        (f32::INFINITY, &logits),
        (-9.0, &large),
    ] {
        for (got, _) in draw(gpu, logits, &[factor], &ALL, 0) {
            let nan = got.is_some_and(|best| best.logprob.is_nan());
            errors.equal(format_args!("a factor of {factor}"), nan, true);
        }
    }
    errors.finish();
}

//! Compares sampling with the output of transformers' warpers, and with a naive oracle.

use selfie_llama::{LlamaError, Sampling};
use serde_json::Value;

const ALL: Sampling = Sampling {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    seed: 3,
};

fn reference() -> Value {
    serde_json::from_str(include_str!("sampling_reference.json")).unwrap()
}

fn floats(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap();
    list.iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Logits that are all negative, or have both signs.
fn logits(reference: &Value, both_signs: bool) -> Vec<f32> {
    let logits = floats(&reference["logits"][usize::from(both_signs)]);
    logits.into_iter().map(|logit| logit as f32).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap();
    list.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// How often each of `tokens` tokens was drawn.
fn counts(tokens: usize, draws: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut counts = vec![0; tokens];
    for token in draws {
        counts[token as usize] += 1;
    }
    counts
}

/// How many standard deviations Pearson's chi-square is above its mean (Wilson and Hilferty's approximation). Infinite
/// if something with probability 0 was drawn.
fn misfit(counts: &[u32], probabilities: &[f64]) -> f64 {
    let draws = f64::from(counts.iter().sum::<u32>());
    let mut chi_square = 0.0;
    let mut freedom = -1.0;
    for (&count, &probability) in counts.iter().zip(probabilities) {
        if probability > 0.0 {
            let expected = draws * probability;
            chi_square += (f64::from(count) - expected).powi(2) / expected;
            freedom += 1.0;
        } else if count > 0 {
            return f64::INFINITY;
        }
    }
    if freedom == 0.0 {
        return 0.0;
    }
    let variance = 2.0 / (9.0 * freedom);
    ((chi_square / freedom).cbrt() - (1.0 - variance)) / variance.sqrt()
}

#[test]
fn frequencies_are_the_probabilities_that_transformers_leaves() {
    let reference = reference();
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 25);
    let context = ids(&reference["context"]);
    for case in cases {
        let logits = logits(&reference, case["both_signs"] == true);
        let number = |name: &str| case[name].as_f64().unwrap() as f32;
        let sampling = Sampling {
            temperature: number("temperature"),
            top_k: case["top_k"].as_u64().unwrap() as usize,
            top_p: number("top_p"),
            min_p: number("min_p"),
            repetition_penalty: number("repetition_penalty"),
            seed: 11,
        };
        let draws = (0..100_000).map(|step| sampling.pick(&logits, &context, 5, step).token);
        let counts = counts(logits.len(), draws);
        let probabilities = floats(&case["probabilities"]);
        for (token, (&count, &probability)) in counts.iter().zip(&probabilities).enumerate() {
            assert_eq!(count > 0, probability > 0.0, "{sampling:?}: token {token}");
        }
        let misfit = misfit(&counts, &probabilities);
        assert!(misfit < 3.5, "{sampling:?}: {misfit}");
    }
}

#[test]
fn frequencies_tell_a_wrong_temperature() {
    let reference = reference();
    let logits = logits(&reference, false);
    let sampling = Sampling {
        temperature: 1.05,
        ..ALL
    };
    let draws = (0..100_000).map(|step| sampling.pick(&logits, &[], 5, step).token);
    let expected = floats(&reference["cases"][0]["probabilities"]);
    assert!(misfit(&counts(logits.len(), draws), &expected) > 3.5);
}

#[test]
fn log_probabilities_are_those_of_the_unmodified_logits() {
    let reference = reference();
    let logits = logits(&reference, false);
    let logprobs = floats(&reference["logprobs"]);
    for (temperature, top_k, top_p) in [(1.0, 0, 1.0), (0.3, 0, 1.0), (2.0, 7, 1.0), (1.3, 9, 0.7)]
    {
        let sampling = Sampling {
            temperature,
            top_k,
            top_p,
            seed: 1,
            ..ALL
        };
        for step in 0..200 {
            let best = sampling.pick(&logits, &[], 0, step);
            let error = f64::from(best.logprob) - logprobs[best.token as usize];
            assert!(error.abs() <= 1e-6, "{sampling:?}: {best:?}");
        }
    }
}

#[test]
fn draws_are_the_counter_s_of_the_reference() {
    let number = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    let equal = vec![-1.5; 65536];
    for draw in reference()["draws"].as_array().unwrap() {
        let sampling = Sampling {
            seed: number(&draw["seed"]),
            ..ALL
        };
        let best = sampling.pick(
            &equal,
            &[],
            number(&draw["sequence"]),
            number(&draw["step"]),
        );
        assert_eq!(Some(u64::from(best.token)), draw["of_65536"].as_u64());
        assert!((best.logprob + 65536_f32.ln()).abs() <= 1e-6);
    }
}

#[test]
fn draws_are_independent_along_steps_sequences_and_seeds() {
    let logits = [0.0; 16];
    let pick = |seed, sequence, step| {
        let sampling = Sampling { seed, ..ALL };
        sampling.pick(&logits, &[], sequence, step).token
    };
    let along: [(&str, &dyn Fn(u64) -> u32); 3] = [
        ("steps", &|n| pick(9, 4, n)),
        ("sequences", &|n| pick(9, n, 4)),
        ("seeds", &|n| pick(n, 9, 4)),
    ];
    for (name, token) in along {
        let pairs = (0..50_000).map(|n| token(n) * 16 + token(n + 1));
        let misfit = misfit(&counts(256, pairs), &[1.0 / 256.0; 256]);
        assert!(misfit.abs() < 3.5, "{name}: {misfit}");
    }
    // No two of the three numbers are interchangeable.
    let same = (0..1000)
        .filter(|&n| pick(0, n, 1) == pick(0, 1, n))
        .count();
    assert!(same < 150, "{same}");
}

#[test]
fn a_draw_depends_on_seed_sequence_and_step_alone() {
    let logits = logits(&reference(), false);
    let sampling = Sampling {
        temperature: 1.5,
        top_k: 12,
        top_p: 0.9,
        seed: 77,
        ..ALL
    };
    let alone: Vec<_> = (0..50)
        .map(|step| sampling.pick(&logits, &[], 8, step))
        .collect();
    // The same sequence among others, in another order.
    for step in (0..50).rev() {
        for sequence in [3, 8, 21] {
            let best = sampling.pick(&logits, &[], sequence, step);
            if sequence == 8 {
                assert_eq!(best, alone[step as usize]);
            }
        }
    }
    let other: Vec<_> = (0..50)
        .map(|step| sampling.pick(&logits, &[], 9, step))
        .collect();
    assert_ne!(alone, other);
}

#[test]
fn top_k_of_one_and_tiny_temperatures_are_greedy() {
    let logits = logits(&reference(), false);
    // The largest logit of the reference.
    let greedy = 23;
    let one = Sampling { top_k: 1, ..ALL };
    let cold = |temperature| Sampling { temperature, ..ALL };
    for sampling in [one, cold(1e-4), cold(f32::from_bits(1))] {
        for step in 0..100 {
            assert_eq!(
                sampling.pick(&logits, &[], 0, step).token,
                greedy,
                "{sampling:?}"
            );
        }
    }
    let hot = Sampling {
        temperature: 1e30,
        ..one
    };
    assert_eq!(hot.pick(&[1.0, 1.0 + f32::EPSILON], &[], 0, 0).token, 1);
}

#[test]
fn equal_logits_are_kept_by_lowest_id() {
    let drawn = |sampling: Sampling, logits: &[f32]| -> Vec<bool> {
        let draws = (0..2000).map(|step| sampling.pick(logits, &[], 0, step).token);
        let counts = counts(logits.len(), draws);
        counts.iter().map(|&count| count > 0).collect()
    };
    let top_k = Sampling { top_k: 2, ..ALL };
    let found = drawn(top_k, &[-1.0, 0.5, 0.5, 0.5, 0.5]);
    assert_eq!(found, [false, true, true, false, false]);
    assert_eq!(drawn(top_k, &[0.0, -0.0, 0.0]), [true, true, false]);
    // Two of four equal tokens have half of the mass.
    let top_p = Sampling { top_p: 0.5, ..ALL };
    assert_eq!(drawn(top_p, &[2.0; 4]), [true, true, false, false]);
    // One f32 step more.
    let top_p = Sampling {
        top_p: 0.500_000_06,
        ..ALL
    };
    assert_eq!(drawn(top_p, &[2.0; 4]), [true, true, true, false]);
}

/// The kept tokens by a full sort, then the token at `chance` of their mass in id order.
fn naive(sampling: &Sampling, logits: &[f32], chance: f64) -> usize {
    let temperature = f64::from(sampling.temperature);
    let weight = |token: usize| (f64::from(logits[token]) / temperature).exp();
    let mut tokens: Vec<usize> = (0..logits.len()).collect();
    tokens.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if sampling.top_k > 0 {
        tokens.truncate(sampling.top_k);
    }
    let mass: f64 = tokens.iter().map(|&token| weight(token)).sum();
    let mut before = 0.0;
    tokens.retain(|&token| {
        let kept = before < f64::from(sampling.top_p) * mass;
        before += weight(token);
        kept
    });
    tokens.sort_unstable();
    let mass: f64 = tokens.iter().map(|&token| weight(token)).sum();
    let mut before = 0.0;
    let drawn = tokens.iter().find(|&&token| {
        before += weight(token);
        before > chance * mass
    });
    *drawn.unwrap()
}

#[test]
fn cuts_agree_with_a_full_sort() {
    let mut compared = 0;
    for seed in 0..400_u64 {
        let mut state = seed;
        let mut below = |bound: u64| {
            // Knuth's MMIX generator.
            state = state.wrapping_mul(6_364_136_223_846_793_005);
            state = state.wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        };
        let vocabulary = 1 + below(700);
        // In steps of 1/8, so that many values are equal.
        let logits: Vec<f32> = (0..vocabulary).map(|_| below(64) as f32 / 8.0).collect();
        let sampling = Sampling {
            temperature: [0.25, 1.0, 3.0][seed as usize % 3],
            top_k: [0, 1, 7, 200][seed as usize / 3 % 4],
            top_p: [1.0, 0.99, 0.61, 0.1][seed as usize / 12 % 4],
            seed,
            ..ALL
        };
        // 16 bits of the draw, from a vocabulary of equal tokens; tokens decided by the other bits are skipped.
        let bits = Sampling { seed, ..ALL }
            .pick(&[0.0; 65536], &[], 0, 0)
            .token;
        let low = f64::from(bits) / 65536.0;
        let expected = naive(&sampling, &logits, low);
        if naive(&sampling, &logits, low + 1.0 / 65536.0 - 1e-9) == expected {
            let found = sampling.pick(&logits, &[], 0, 0).token;
            assert_eq!(found as usize, expected, "{sampling:?}, {vocabulary}");
            compared += 1;
        }
    }
    assert!(compared > 380, "{compared}");
}

#[test]
fn without_drawing_the_penalty_decides_as_in_transformers() {
    let reference = reference();
    let logits = logits(&reference, true);
    let cases = reference["greedy"].as_array().unwrap();
    assert_eq!(cases.len(), 52);
    let mut others = 0;
    for case in cases {
        let sampling = Sampling {
            temperature: 0.0,
            repetition_penalty: case["repetition_penalty"].as_f64().unwrap() as f32,
            ..ALL
        };
        let context = ids(&case["context"]);
        let best = sampling.pick(&logits, &context, 0, 0);
        assert_eq!(
            Some(u64::from(best.token)),
            case["token"].as_u64(),
            "{case}"
        );
        // Nothing is drawn, and the order of the context does not matter.
        let reversed: Vec<u32> = context.iter().rev().copied().collect();
        assert_eq!(sampling.pick(&logits, &reversed, 7, 9), best);
        others += u32::from(best.token != 23);
    }
    assert!(others >= 15, "{others}");
}

#[test]
fn the_log_probability_is_that_before_the_penalty() {
    let reference = reference();
    let logits = logits(&reference, false);
    let logprobs = floats(&reference["logprobs"]);
    let sampling = Sampling {
        repetition_penalty: 3.0,
        min_p: 0.1,
        ..ALL
    };
    for step in 0..200 {
        let best = sampling.pick(&logits, &[23, 22, 11, 1_000_000], 0, step);
        let error = f64::from(best.logprob) - logprobs[best.token as usize];
        assert!(error.abs() <= 1e-6, "{best:?}");
    }
}

#[test]
fn logits_that_are_not_finite_give_a_log_probability_that_is_none() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for sampling in [
        ALL,
        Sampling { top_k: 2, ..ALL },
        Sampling { top_p: 0.5, ..ALL },
        Sampling {
            temperature: 0.0,
            ..ALL
        },
        Sampling {
            repetition_penalty: 2.0,
            ..ALL
        },
    ] {
        for logits in [
            &[nan, -1.0, 0.5, nan][..],
            &[0.5, 0.0, nan],
            &[-inf, 0.5, 0.0],
            &[inf, inf, 1.0],
            &[nan, nan],
            &[-inf, -inf],
            &[],
        ] {
            let best = sampling.pick(logits, &[1, 2], 0, 0);
            assert!(best.logprob.is_nan(), "{logits:?}");
        }
        let best = sampling.pick(&[f32::MAX, f32::MIN, 0.0], &[], 0, 0);
        assert_eq!((best.token, best.logprob), (0, 0.0));
    }
}

#[test]
fn values_out_of_range_are_named() {
    assert!(ALL.check().is_ok());
    let default = Sampling::default();
    assert!(default.check().is_ok());
    assert_eq!(default, Sampling { seed: 0, ..ALL });
    let greedy = Sampling {
        temperature: 0.0,
        min_p: 1.0,
        ..ALL
    };
    assert!(greedy.check().is_ok());
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let refused = |name: &str, sampling: fn(f32) -> Sampling, values: &[f32], expected: &str| {
        for &value in values {
            let error = sampling(value).check().unwrap_err();
            assert!(matches!(error, LlamaError::SamplingValue { field, .. } if field == name));
            let message = error.to_string();
            assert!(
                message.starts_with(&format!("{name} is {value}; ")),
                "{message}"
            );
            assert!(message.contains(expected), "{message}");
        }
    };
    let cold = |temperature| Sampling { temperature, ..ALL };
    refused(
        "temperature",
        cold,
        &[-1.0, nan, inf],
        "finite number of at least 0",
    );
    let top_p = |top_p| Sampling { top_p, ..ALL };
    refused(
        "top_p",
        top_p,
        &[0.0, -0.5, 1.000_000_1, nan],
        "above 0 and up to 1",
    );
    let min_p = |min_p| Sampling { min_p, ..ALL };
    refused("min_p", min_p, &[-0.1, 1.1, nan], "from 0 to 1");
    let penalty = |repetition_penalty| Sampling {
        repetition_penalty,
        ..ALL
    };
    refused(
        "repetition_penalty",
        penalty,
        &[0.0, -1.0, nan, inf],
        "finite number above 0",
    );
}

//! Reading and replacing one layer's MLP, states of many prompts, and continuing many prompts together.

use selfie_demo::RandomCheckpoint;
use selfie_kernels::{Backend, Cpu, DType};
use selfie_llama::{
    Decoding, Generated, Llama, LlamaError, MlpRows, PromptSite, Sampling, Site, Trace, capture,
    generate, generate_all,
};
use selfie_testkit::llama::{GOLDEN, golden, ids, load};
use std::ops::ControlFlow;

fn prompts(name: &str) -> Vec<Vec<u32>> {
    let golden = golden(name);
    let prompts = golden["forward"].as_array().unwrap().iter();
    prompts.map(|p| ids(&p["input_ids"])).collect()
}

fn logits(model: &Llama<Cpu>, prompt: &[u32]) -> Vec<u32> {
    let trace = Trace::new(model, prompt).unwrap();
    trace.logits.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn an_mlp_goes_out_and_back_to_the_bit() {
    for (name, dtype) in [
        ("llama2-mha", None),
        ("llama2-mha", Some(DType::F16)),
        ("llama3-gqa", None),
        ("llama3-gqa", Some(DType::F32)),
    ] {
        let mut model = load(name, dtype, 2);
        let prompt = &prompts(name)[0];
        let before = logits(&model, prompt);
        let mlp = model.mlp(1).unwrap();
        assert_eq!(mlp.tensors.len(), 3);
        assert!(mlp.tensors.iter().all(|t| t.dtype == model.dtype()));

        let mut values = mlp.to_f32();
        assert_eq!(mlp.with_values(&values), mlp);
        values.down.iter_mut().for_each(|x| *x = -*x);
        model.set_mlp(&mlp.with_values(&values)).unwrap();
        assert_ne!(logits(&model, prompt), before);
        assert_eq!(model.mlp(1).unwrap().to_f32(), values);
        model.set_mlp(&mlp).unwrap();
        assert_eq!(logits(&model, prompt), before);
        assert_eq!(model.mlp(1).unwrap(), mlp);
    }
}

#[test]
fn an_mlp_that_does_not_fit_is_refused() {
    let mut model = load("llama2-mha", None, 1);
    let mlp = model.mlp(1).unwrap();
    let says = |error: LlamaError, parts: &[&str]| {
        let message = error.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    says(model.mlp(4).unwrap_err(), &["4..5", "0..4"]);

    let mut short = mlp.clone();
    short.tensors.pop();
    says(
        model.set_mlp(&short).unwrap_err(),
        &["down_proj.weight", "[64, 172]"],
    );
    let mut long = mlp.clone();
    long.tensors.push(mlp.tensors[0].clone());
    says(
        model.set_mlp(&long).unwrap_err(),
        &["no more tensors", "gate_proj"],
    );
    let mut other = mlp.clone();
    other.tensors.swap(0, 1);
    says(
        model.set_mlp(&other).unwrap_err(),
        &["gate_proj", "up_proj"],
    );
    let mut moved = mlp.clone();
    moved.layer = 2;
    says(
        model.set_mlp(&moved).unwrap_err(),
        &["layers.2", "layers.1"],
    );

    let mut values = mlp.to_f32();
    values.gate_up[172 * 64 + 3] = f32::INFINITY;
    let refused = model.set_mlp(&mlp.with_values(&values)).unwrap_err();
    says(
        refused,
        &["layers.1.mlp.up_proj.weight", "inf", "learning rate"],
    );
    assert_eq!(model.mlp(1).unwrap(), mlp);
}

#[test]
fn biases_belong_to_the_mlp() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = RandomCheckpoint::tiny();
    random.mlp_bias = true;
    random
        .write(dir.path(), &selfie_testkit::llama::dir("llama2-mha"))
        .unwrap();
    let mut model = Llama::open(selfie_testkit::llama::cpu(1), dir.path()).unwrap();
    let mlp = model.mlp(0).unwrap();
    let names: Vec<&str> = mlp.tensors.iter().map(|t| &t.name[19..]).collect();
    assert_eq!(
        names,
        [
            "gate_proj.weight",
            "gate_proj.bias",
            "up_proj.weight",
            "up_proj.bias",
            "down_proj.weight",
            "down_proj.bias"
        ]
    );
    let before = logits(&model, &[1, 2, 3]);
    let mut values = mlp.to_f32();
    values.gate_up_bias.iter_mut().for_each(|x| *x += 1.0);
    model.set_mlp(&mlp.with_values(&values)).unwrap();
    assert_eq!(model.mlp(0).unwrap().to_f32(), values);
    assert_ne!(logits(&model, &[1, 2, 3]), before);
    model.set_mlp(&mlp).unwrap();
    assert_eq!(logits(&model, &[1, 2, 3]), before);
}

#[test]
fn rows_on_the_device_become_the_mlp_that_their_values_make() {
    let dir = tempfile::tempdir().unwrap();
    for (mlp_bias, dtype) in [(false, DType::F32), (true, DType::Bf16), (true, DType::F16)] {
        let random = RandomCheckpoint {
            mlp_bias,
            dtype,
            ..RandomCheckpoint::tiny()
        };
        random
            .write(dir.path(), &selfie_testkit::llama::dir("llama2-mha"))
            .unwrap();
        let mut model = Llama::open(selfie_testkit::llama::cpu(2), dir.path()).unwrap();
        let mlp = model.mlp(1).unwrap();
        let mut values = mlp.to_f32();
        // No dtype holds a third exactly, so it must be rounded.
        let thirds = |values: &mut Vec<f32>| values.iter_mut().for_each(|x| *x += 1.0 / 3.0);
        thirds(&mut values.gate_up);
        thirds(&mut values.down);
        thirds(&mut values.gate_up_bias);
        thirds(&mut values.down_bias);
        let cpu = selfie_testkit::llama::cpu(1);
        let upload = |values: &[f32], width: usize| {
            let mut rows = cpu.rows(values.len() / width, width).unwrap();
            cpu.write_rows(values, &mut rows).unwrap();
            rows
        };
        let (d, ffn) = (model.config().d_model, model.config().ffn);
        let gate_up = upload(&values.gate_up, d);
        let down = upload(&values.down, ffn);
        let biases = mlp_bias.then(|| {
            (
                upload(&values.gate_up_bias, 1),
                upload(&values.down_bias, 1),
            )
        });
        let rows = MlpRows {
            gate_up: &gate_up,
            down: &down,
            gate_up_bias: biases.as_ref().map(|b| &b.0),
            down_bias: biases.as_ref().map(|b| &b.1),
        };
        let before = logits(&model, &[1, 2, 3]);
        let packed = model.pack_mlp(1, &rows).unwrap();
        assert_eq!(logits(&model, &[1, 2, 3]), before);
        let old = model.swap_mlp(packed);
        assert_eq!(model.mlp(1).unwrap(), mlp.with_values(&values));
        assert_ne!(logits(&model, &[1, 2, 3]), before);
        model.swap_mlp(old);
        assert_eq!(model.mlp(1).unwrap(), mlp);
        assert_eq!(logits(&model, &[1, 2, 3]), before);

        values.gate_up[ffn * d + 3] = f32::NAN;
        let gate_up = upload(&values.gate_up, d);
        let refused = model.pack_mlp(
            1,
            &MlpRows {
                gate_up: &gate_up,
                ..rows
            },
        );
        let message = refused.err().unwrap().to_string();
        assert!(message.contains("layers.1.mlp.up_proj.weight"), "{message}");
    }
}

#[test]
fn captured_rows_are_those_of_a_trace() {
    for name in GOLDEN {
        let model = load(name, None, 2);
        let prompts = prompts(name);
        let d = model.config().d_model;
        let want = |prompt, site, token| PromptSite {
            prompt,
            site,
            token,
        };
        // Out of order, and with a duplicate.
        let wants = [
            want(3, Site::PreMlp(2), 1),
            want(0, Site::HiddenStates(1), 4),
            want(1, Site::Residual(2), 0),
            want(0, Site::HiddenStates(1), 4),
            want(0, Site::HiddenStates(0), 2),
        ];
        let rows = capture(&model, &prompts, &wants).unwrap();
        assert_eq!(model.backend().len(&rows), wants.len());
        for (i, want) in wants.iter().enumerate() {
            let trace = Trace::new(&model, &prompts[want.prompt]).unwrap();
            let (values, layer) = match want.site {
                Site::HiddenStates(layer) => (&trace.hidden_states, layer),
                Site::Residual(layer) => (&trace.residual, layer),
                Site::PreMlp(layer) => (&trace.pre_mlp, layer),
                Site::Output => unreachable!("a trace has the normed states"),
            };
            let at = (layer * trace.input_ids.len() + want.token) * d;
            assert_eq!(rows.row(i), &values[at..at + d], "{want:?}");
        }
        let missed = [want(1, Site::HiddenStates(1), 99)];
        let refused = capture(&model, &prompts, &missed);
        assert!(matches!(
            refused,
            Err(LlamaError::NotCaptured { position: 99, .. })
        ));
    }
}

#[test]
fn many_prompts_are_continued_as_each_alone() {
    for name in GOLDEN {
        let model = load(name, None, 2);
        let eos = model.config().eos.clone();
        // More prompts than slots, with several lengths.
        let prompts: Vec<Vec<u32>> = prompts(name).into_iter().cycle().take(70).collect();
        for sampling in [
            None,
            Some(Sampling {
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0,
                seed: 5,
                ..Sampling::default()
            }),
        ] {
            let decoding = Decoding {
                max_new_tokens: 9,
                eos: eos.clone(),
                sampling,
            };
            let mut counts = vec![];
            let all = generate_all(&model, &prompts, &decoding, |n| counts.push(n)).unwrap();
            assert_eq!(counts.last(), Some(&prompts.len()));
            assert!(counts.is_sorted());
            // Draws depend on a sequence's number, so only the first prompt can be drawn alone.
            let alone = if sampling.is_some() { 1 } else { 5 };
            for (prompt, got) in prompts.iter().zip(&all).take(alone) {
                let keep_on = |_| ControlFlow::Continue(());
                let want: Generated = generate(&model, prompt, decoding.clone(), keep_on).unwrap();
                assert_eq!(*got, want);
            }
            if sampling.is_none() {
                assert_eq!(all[0], all[5]);
            }
        }
        let refused = generate_all(
            &model,
            &[vec![1], vec![]],
            &Decoding {
                max_new_tokens: 1,
                eos,
                sampling: None,
            },
            |_| {},
        );
        assert!(matches!(refused, Err(LlamaError::EmptyPrompt)));
    }
}

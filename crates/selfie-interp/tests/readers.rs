//! Released readers, built from their published formats, against PyTorch hooks and peft on the same files in f32: see
//! `readers/reference.py` in the test kit.

use selfie_interp::released::Meta;
use selfie_interp::{
    Agreement, Cell, InjectAt, InterpretationPrompt, Map, Options, PromptPart, ReaderKind,
    Reconstructor, Released, Row, Vector, interpret_by,
};
use selfie_kernels::{Cpu, InjectMode};
use selfie_llama::{ChatTemplate, Llama, Lora, Sampling, Session, SessionSize};
use selfie_testkit::llama::{assert_close, floats, ids};
use selfie_testkit::readers::{Built, reference};
use serde_json::Value;
use std::ops::ControlFlow;

/// Rows of one cell. The subject is the plain model; the reader is the same model with or without an adapter.
fn read(built: &Built, reader: &Llama<Cpu>, cell: (usize, usize), options: &Options) -> Vec<Row> {
    let (layer, token) = cell;
    let cells = [Cell {
        prompt: 0,
        layer,
        token,
    }];
    let mut rows = Vec::new();
    let mut sink = |row: Row| {
        rows.push(row);
        ControlFlow::Continue(())
    };
    let subject = (&built.model, &built.tokenizer);
    let reader = (reader, &built.tokenizer);
    let prompts = [built.prompt.as_str()];
    let swept = interpret_by(subject, reader, &prompts, &cells, options, &mut sink).unwrap();
    assert_eq!(swept.rows, rows.len());
    rows
}

#[track_caller]
fn assert_row(row: &Row, case: &Value, what: &str) {
    assert_eq!(row.new_ids, ids(&case["new_ids"]), "{what}");
    assert_close(what, &row.logprobs, &floats(&case["logprobs"]));
}

/// Whether all neighbouring layers give different results in a case: another text, or the same text with scores that
/// differ by more than the tolerance.
fn tells_layers_apart(case: &Value) -> bool {
    let scores = floats(&case["logprobs"]);
    for neighbor in case["neighbor_logprobs"].as_array().unwrap() {
        let differences = scores
            .iter()
            .zip(floats(neighbor))
            .map(|(a, b)| (a - b).abs());
        let largest = differences.fold(0.0, f32::max);
        assert!(
            largest > 1e-3,
            "a neighbouring layer agrees to {largest}: {case}"
        );
    }
    let mut neighbors = case["neighbors"].as_array().unwrap().iter();
    neighbors.all(|neighbor| *neighbor != case["new_ids"])
}

fn options(built: &Built) -> Options {
    Options {
        max_new_tokens: 6,
        eos: vec![],
        relevancy: false,
        ..Options::new(built.model.config()).unwrap()
    }
}

fn number(case: &Value, field: &str) -> usize {
    case[field].as_u64().unwrap() as usize
}

/// Nine lines of aliases stand for a hundred million values.
#[test]
fn a_sidecar_of_many_aliases_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..8 {
        let list = vec![format!("*a{}", n - 1); 10].join(", ");
        yaml += &format!("a{n}: &a{n} [{list}]\n");
    }
    std::fs::write(
        folder.path().join("nla_meta.yaml"),
        yaml + "kind: nla_model\n",
    )
    .unwrap();
    let error = Released::open(folder.path(), None).unwrap_err().to_string();
    assert!(error.contains("nla_meta.yaml"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn maps_of_selfie_adapters_in_both_forms() {
    let reference = reference();
    let mut apart = 0;
    for built in Built::all(&reference) {
        let maps = &built.case["maps"];
        let cell = (number(maps, "layer"), number(maps, "token"));
        let marker = reference["marker"].as_str().unwrap();
        let text = PromptPart::Text(reference["meaning"].as_str().unwrap().to_owned());
        let prompt = InterpretationPrompt::new(vec![text])
            .with_marker(marker)
            .unwrap();
        for case in maps["cases"].as_array().unwrap() {
            let kind = case["kind"].as_str().unwrap();
            let what = format!("{} of {}", kind, built.name);
            let located = prompt.locate(&built.tokenizer).unwrap();
            assert_eq!(located.ids, ids(&case["prompt_ids"]), "{what}");
            let positions: Vec<u32> = located.placeholders.iter().map(|&p| p as u32).collect();
            assert_eq!(positions, ids(&case["positions"]), "{what}");
            let map = Map::open(&built.write_map(kind)).unwrap();
            assert_eq!(map.writes_at(), Some(0));
            let at_layer = |map: Map| Options {
                prompt: prompt.clone(),
                injections: vec![InjectAt {
                    layer: 0,
                    mode: InjectMode::Replace,
                    strength: 1.0,
                }],
                map: Some(map),
                ..options(&built)
            };
            let rows = read(&built, &built.model, cell, &at_layer(map.clone()));
            assert_row(&rows[0], case, &what);
            assert_eq!(rows[0].map.as_deref(), Some(map.name()));
            apart += usize::from(tells_layers_apart(case));
            if kind == "scalar_affine" {
                let mean = built.noise(15, built.model.config().d_model, 1.0);
                let rows = read(
                    &built,
                    &built.model,
                    cell,
                    &at_layer(map.subtract(&mean).unwrap()),
                );
                assert_row(&rows[0], &maps["subtracted"], "with a mean subtracted");
            }
        }
    }
    assert!(apart > 0, "no case tells neighbouring layers apart");
}

#[test]
fn activation_oracles_with_their_lora() {
    let reference = reference();
    let mut apart = 0;
    for built in Built::all(&reference) {
        let case = &built.case["oracle"];
        let (layer, tokens) = (number(case, "layer"), ids(&case["tokens"]));
        let dir = built.write_oracle();
        let oracle = Released::open(&dir, None).unwrap().unwrap();
        assert_eq!(oracle.name(), "Activation Oracle");
        // Their layers 0, 1 and 2 are hidden_states[1], [2] and [3]; the output of layer 1 is the input of layer 2.
        assert_eq!(oracle.reads(4), [[1], [2], [3]]);
        assert_eq!(oracle.writes().unwrap().layer, 2);
        let lora = Lora::open(&dir).unwrap();
        let reader = built.model.with_lora(&lora).unwrap();
        let base = Options {
            span: tokens.len(),
            ..options(&built)
        };
        let question = reference["question"].as_str();
        let configured = |question| {
            let template = built.template();
            oracle.configure(base.clone(), &[layer], question, &built.tokenizer, template)
        };
        let options = configured(question).unwrap();
        let located = options.prompt.locate(&built.tokenizer).unwrap();
        assert_eq!(located.ids, ids(&case["prompt_ids"]), "{}", built.name);
        let positions: Vec<u32> = located.placeholders.iter().map(|&p| p as u32).collect();
        assert_eq!(positions, ids(&case["positions"]));
        let row = built.ask_oracle(&dir, &reader);
        assert_row(&row, case, &format!("oracle on {}", built.name));
        let row = built.ask_oracle(&dir, &built.model);
        assert_row(
            &row,
            &case["without"],
            &format!("without the LoRA on {}", built.name),
        );
        apart += usize::from(tells_layers_apart(case));

        let missing = configured(None).unwrap_err().to_string();
        assert!(missing.contains("--question"), "{missing}");
        let holds = configured(Some("Is it ?")).unwrap_err().to_string();
        assert!(holds.contains("\" ?\""), "{holds}");
    }
    assert!(apart > 0, "no case tells neighbouring layers apart");
}

/// The vectors go layer by layer, each to its own block: other layers, another order of the layers, and vectors token
/// by token give something else.
#[test]
fn an_oracle_reads_several_layers_at_once() {
    let reference = reference();
    let mut apart = 0;
    for built in Built::all(&reference) {
        let case = &built.case["oracle_of_layers"];
        let layers: Vec<usize> = ids(&case["layers"]).iter().map(|&l| l as usize).collect();
        let tokens = ids(&case["tokens"]);
        let theirs: Vec<usize> = layers.iter().map(|layer| layer - 1).collect();
        let dir = built.write_oracle_of("layers", serde_json::json!([theirs]));
        let oracle = Released::open(&dir, None).unwrap().unwrap();
        assert_eq!(oracle.reads(4), std::slice::from_ref(&layers));
        assert_eq!(oracle.layers_together(), [2]);
        let reader = built.model.with_lora(&Lora::open(&dir).unwrap()).unwrap();
        let question = reference["question"].as_str();
        let configured = |span, layers: &[usize]| {
            let base = Options {
                span,
                ..options(&built)
            };
            let template = built.template();
            oracle.configure(base, layers, question, &built.tokenizer, template)
        };
        let asked = configured(tokens.len(), &layers).unwrap();
        let located = asked.prompt.locate(&built.tokenizer).unwrap();
        assert_eq!(located.ids, ids(&case["prompt_ids"]), "{}", built.name);
        let positions: Vec<u32> = located.placeholders.iter().map(|&p| p as u32).collect();
        assert_eq!(positions, ids(&case["positions"]));
        let cell = (layers[1], tokens[tokens.len() - 1] as usize);
        let controlled = Options {
            controls: vec![selfie_interp::Control::Random],
            ..asked.clone()
        };
        let row = read(&built, &reader, cell, &controlled).remove(0);
        assert_row(&row, case, &format!("layers on {}", built.name));
        assert_eq!(row.layer, Some(layers[1]));
        apart += usize::from(tells_layers_apart(case));

        let one = configured(1, &[1]).unwrap_err().to_string();
        assert!(
            one.contains("[1] together, 1 at once") && one.contains("read 2 at once"),
            "{one}"
        );
        let input = configured(1, &[0, 1]).unwrap_err().to_string();
        assert!(input.contains("hidden_states[0]"), "{input}");
        for (own, together, says) in [
            (3, vec![], ["3 embeddings", "6 placeholders"]),
            (2, layers.clone(), ["[1, 3] together", "not 2"]),
            (3, vec![99, 3], ["layer 99", "out of range"]),
        ] {
            let options = Options {
                layers: together,
                ..asked.clone()
            };
            let cell = Cell {
                prompt: 0,
                layer: own,
                token: cell.1,
            };
            let prompts = [built.prompt.as_str()];
            let config = built.model.config();
            let checked =
                selfie_interp::check(config, &built.tokenizer, &prompts, &[cell], &options);
            let error = checked.unwrap_err().to_string();
            assert!(says.iter().all(|part| error.contains(part)), "{error}");
        }
    }
    assert!(apart > 0, "no case tells neighbouring layers apart");
}

#[test]
fn an_oracle_may_name_its_layers_in_percent() {
    let reference = reference();
    let built = Built::all(&reference).next().unwrap();
    let dir = built.write_lora("percent", false);
    for (config, want) in [
        (
            r#"{"layer_combinations": [[25, 50, 75], [30]]}"#,
            vec![vec![10, 19, 28], vec![11]],
        ),
        ("{}", vec![vec![10], vec![19], vec![28]]),
        (
            r#"{"layer_combinations": [[25]], "act_layer_combinations": [[21, 22]]}"#,
            vec![vec![22, 23]],
        ),
    ] {
        std::fs::write(dir.join("ao_config.json"), config).unwrap();
        let oracle = Released::open(&dir, None).unwrap().unwrap();
        assert_eq!(oracle.reads(36), want, "{config}");
    }
    std::fs::write(
        dir.join("ao_config.json"),
        r#"{"act_layer_combinations": [[1], []]}"#,
    )
    .unwrap();
    let error = Released::open(&dir, None).unwrap_err().to_string();
    assert!(
        error.contains("ao_config.json") && error.contains("empty"),
        "{error}"
    );
}

#[test]
fn verbalizers_of_easynla_add_the_vector_behind_layer_1() {
    let reference = reference();
    let mut apart = 0;
    for built in Built::all(&reference) {
        let case = &built.case["easynla"];
        let cell = (number(case, "layer"), number(case, "token"));
        let adapters = built.write_lora("easynla", false);
        let reader = built
            .model
            .with_lora(&Lora::open(&adapters).unwrap())
            .unwrap();
        let merged = adapters.with_file_name("easynla-merged");
        for (dir, lora, case) in [(&adapters, true, case), (&merged, false, &case["whole"])] {
            built.write_easynla(dir, &|meta| meta);
            let unnamed = Released::open(dir, None).unwrap_err().to_string();
            assert!(
                unnamed.contains("nla_dataset") && unnamed.contains("--reader-as easynla"),
                "{unnamed}"
            );
            let released = Released::open(dir, Some(ReaderKind::EasyNla))
                .unwrap()
                .unwrap();
            assert_eq!(released.is_lora(), lora);
            assert_eq!(released.reads(9), [[cell.0]], "their layer K is K + 1");
            let template = built.template();
            let options = released
                .configure(options(&built), &[cell.0], None, &built.tokenizer, template)
                .unwrap();
            let located = options.prompt.locate(&built.tokenizer).unwrap();
            assert_eq!(located.ids, ids(&case["prompt_ids"]), "{}", built.name);
            let reader = if lora { &reader } else { &built.model };
            let rows = read(&built, reader, cell, &options);
            assert_row(&rows[0], case, &format!("EasyNLA on {}", built.name));
        }
        apart += usize::from(tells_layers_apart(case));

        let no_file = Released::open(&built.model_dir(), Some(ReaderKind::EasyNla)).unwrap_err();
        assert!(no_file.to_string().contains("nla_meta.yaml"), "{no_file}");
    }
    assert!(apart > 0, "no case tells neighbouring layers apart");
}

#[test]
fn latentqa_reads_every_token_but_bos() {
    let reference = reference();
    let mut apart = 0;
    for built in Built::all(&reference) {
        let case = &built.case["latent"];
        let (layer, token) = (number(case, "layer"), number(case, "token"));
        let dir = built.write_lora("latent", true);
        assert_eq!(
            Released::open(&dir, None).unwrap(),
            None,
            "a LoRA does not say what it is"
        );
        let latent = Released::open(&dir, Some(ReaderKind::LatentQa))
            .unwrap()
            .unwrap();
        assert_eq!(
            (latent.reads(32), latent.writes().unwrap().layer),
            (vec![vec![16]], 1)
        );
        let reader = built.model.with_lora(&Lora::open(&dir).unwrap()).unwrap();
        let base = Options {
            span: token,
            ..options(&built)
        };
        let question = format!("{}?", reference["question"].as_str().unwrap());
        let template = built.template();
        let options = latent
            .configure(base, &[layer], Some(&question), &built.tokenizer, template)
            .unwrap();
        let located = options.prompt.locate(&built.tokenizer).unwrap();
        assert_eq!(located.ids, ids(&case["prompt_ids"]), "{}", built.name);
        let positions: Vec<u32> = located.placeholders.iter().map(|&p| p as u32).collect();
        assert_eq!(positions, ids(&case["positions"]));
        let rows = read(&built, &reader, (layer, token), &options);
        assert_row(&rows[0], case, &format!("LatentQA on {}", built.name));
        apart += usize::from(tells_layers_apart(case));
    }
    assert!(apart > 0, "no case tells neighbouring layers apart");
}

#[test]
fn verbalizers_write_over_the_marker_between_its_neighbours() {
    let reference = reference();
    let mut apart = 0;
    for built in Built::all(&reference) {
        let case = &built.case["verbalizer"];
        let cell = (number(case, "layer"), number(case, "token"));
        let configure = |role: &str, change: &dyn Fn(String) -> String| {
            let dir = built.write_sidecar(role, change);
            let released = Released::open(&dir, None)?.unwrap();
            assert_eq!(
                released.reads(9),
                [[number(case, "layer")]],
                "their layer K is K + 1"
            );
            let template = built.template();
            released.configure(options(&built), &[cell.0], None, &built.tokenizer, template)
        };
        for role in ["av", "actor", "verbalizer"] {
            let options = configure(role, &|meta| meta).unwrap();
            let located = options.prompt.locate(&built.tokenizer).unwrap();
            assert_eq!(located.ids, ids(&case["prompt_ids"]), "{}", built.name);
            let positions: Vec<u32> = located.placeholders.iter().map(|&p| p as u32).collect();
            assert_eq!(positions, ids(&case["positions"]));
            let rows = read(&built, &built.model, cell, &options);
            assert_row(&rows[0], case, &format!("verbalizer on {}", built.name));
        }
        apart += usize::from(tells_layers_apart(case));
        let raw = configure("av", &|meta| {
            meta.replace("injection_scale: 7.5", "injection_scale: null")
        });
        assert_eq!(raw.unwrap().injections[0].mode, InjectMode::Replace);
        let root = configure("av", &|meta| {
            meta.replace("injection_scale: 7.5", "injection_scale: sqrt_d_model")
        });
        let width = built.model.config().d_model as f32;
        assert_eq!(root.unwrap().injections[0].strength, width.sqrt());

        let ids = ids(&case["neighbor_ids"]);
        let left = format!("injection_left_neighbor_id: {}", ids[0]);
        let other = configure("av", &|meta| {
            meta.replace(&left, "injection_left_neighbor_id: 1")
        })
        .unwrap_err()
        .to_string();
        let found = format!("[{}, {}]", ids[0], ids[1]);
        assert!(
            other.contains("0 of the 2 markers") && other.contains(&found),
            "{other}"
        );
        let lost = configure("av", &|meta| {
            meta.replace("{injection_char}", "{other}")
                .replace("char ~", "char")
        })
        .unwrap_err();
        assert!(lost.to_string().contains("has neither \"~\""), "{lost}");
        let id = format!("injection_token_id: {}", case["marker_id"]);
        let drift = configure("av", &|meta| meta.replace(&id, "injection_token_id: 3"))
            .unwrap_err()
            .to_string();
        assert!(drift.contains("injection_token_id is 3"), "{drift}");
    }
    assert!(apart > 0, "no case tells neighbouring layers apart");
}

#[test]
fn reconstructors_give_a_vector_for_a_text() {
    let reference = reference();
    for built in Built::all(&reference) {
        let case = &built.case["reconstructor"];
        let (layer, token) = (number(case, "layer"), number(case, "token"));
        for role in ["ar", "critic", "reconstructor"] {
            let dir = built.write_reconstructor(role, layer);
            let Some(Released::Reconstructor(meta)) = Released::open(&dir, None).unwrap() else {
                panic!("{role}")
            };
            assert_eq!(meta.layer, Some(layer - 1));
            let open = |meta: Meta| Reconstructor::open(&dir, built.backbone(&dir), meta);
            let reconstructor = open(meta.clone()).unwrap();
            let text = [case["text"].as_str().unwrap()];
            let vectors = reconstructor.reconstruct(&built.tokenizer, &text).unwrap();
            assert_close(&built.name, &vectors[0][..8], &floats(&case["vector"]));
            let state = |layer| built.state(layer, token);
            let agreement = Agreement::of(&vectors[0], &state(layer));
            let cosine = case["cosine"].as_f64().unwrap() as f32;
            assert!(
                (agreement.cosine - cosine).abs() < 1e-4,
                "{}: {agreement:?}, {cosine}",
                built.name
            );
            assert!((agreement.mse - 2.0 * (1.0 - cosine)).abs() < 2e-4);
            let neighbor = Agreement::of(&vectors[0], &state(layer + 1)).cosine;
            assert!((neighbor - case["neighbor"].as_f64().unwrap() as f32).abs() < 1e-4);

            let other = Meta {
                suffix: vec![1, 2],
                ..meta.clone()
            };
            let error = open(other)
                .unwrap()
                .reconstruct(&built.tokenizer, &text)
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("[1, 2]") && error.contains("ends with"),
                "{error}"
            );
            let width = Meta { d_model: 3, ..meta };
            let error = open(width).err().unwrap().to_string();
            assert!(
                error.contains("d_model is 3") && error.contains("has "),
                "{error}"
            );
        }
    }
}

/// EasyNLA's reconstructor is trained without bos.
#[test]
fn reconstructors_of_easynla_are_known_by_their_files() {
    let reference = reference();
    let mut apart = 0;
    for built in Built::all(&reference) {
        let case = &built.case["reconstructor"];
        let (layer, token) = (number(case, "layer"), number(case, "token"));
        let dir = built.write_reconstructor("ar", layer);
        built.write_easynla(&dir, &|meta| meta);
        let open = || Released::open(&dir, Some(ReaderKind::EasyNla));
        let Some(Released::Reconstructor(meta)) = open().unwrap() else {
            panic!("not a reconstructor")
        };
        let reconstructor = Reconstructor::open(&dir, built.backbone(&dir), meta).unwrap();
        let text = [case["text"].as_str().unwrap()];
        let vectors = reconstructor.reconstruct(&built.tokenizer, &text).unwrap();
        let cosine = Agreement::of(&vectors[0], &built.state(layer, token)).cosine;
        let want = case["easynla"].as_f64().unwrap() as f32;
        assert!(
            (cosine - want).abs() < 1e-4,
            "{}: {cosine}, {want}",
            built.name
        );
        let with_bos = case["cosine"].as_f64().unwrap() as f32;
        apart += usize::from((want - with_bos).abs() > 1e-3);

        let kept = dir.join("ar_meta.json");
        std::fs::write(&kept, r#"{"final_norm_stripped": true}"#).unwrap();
        assert!(open().is_ok());
        for json in [r#"{"final_norm_stripped": false}"#, "{}"] {
            std::fs::write(&kept, json).unwrap();
            let error = open().unwrap_err().to_string();
            assert!(error.contains("final_norm_stripped"), "{error}");
        }
        std::fs::write(dir.join("ar_lora_value_head.safetensors"), "").unwrap();
        let error = open().unwrap_err().to_string();
        assert!(error.contains("merge_lora_to_hf.py"), "{error}");
    }
    assert!(apart > 0, "no case tells whether there is a bos");
}

#[test]
fn an_affine_map_is_for_its_layers_and_widths() {
    let reference = reference();
    let built = Built::all(&reference).next().unwrap();
    let d = built.model.config().d_model;
    let map = Map::open(&built.write_affine(d, d)).unwrap();
    assert_eq!(
        (map.layers(), map.writes_at()),
        (vec![(1, 2), (3, 2)], Some(2))
    );
    let options = |layer, map: &Map| Options {
        injections: vec![InjectAt {
            layer,
            mode: InjectMode::Replace,
            strength: 1.0,
        }],
        map: Some(map.clone()),
        prompt: InterpretationPrompt::template("repeat").unwrap(),
        ..options(&built)
    };
    let config = built.model.config();
    let check = |layer, options: &Options| {
        let cell = Cell {
            prompt: 0,
            layer,
            token: 1,
        };
        let prompts = [built.prompt.as_str()];
        selfie_interp::check(config, &built.tokenizer, &prompts, &[cell], options)
    };
    check(3, &options(2, &map)).unwrap();
    let error = check(2, &options(2, &map)).unwrap_err().to_string();
    assert!(
        error.contains("hidden_states[2] to layer 2")
            && error.contains("hidden_states[1] to layer 2"),
        "{error}"
    );
    let error = check(3, &options(1, &map)).unwrap_err().to_string();
    assert!(error.contains("hidden_states[3] to layer 1"), "{error}");
    let narrow = Map::open(&built.write_affine(d - 1, d)).unwrap();
    let error = check(3, &options(2, &narrow)).unwrap_err().to_string();
    let both = [format!("maps {} values", d - 1), format!("have {d} values")];
    assert!(both.iter().all(|part| error.contains(part)), "{error}");

    // W x + b by hand, for a given vector.
    let values = built.noise(5, d, 2.0);
    let vectors = selfie_interp::Embeddings::from_host(built.model.backend(), &values, d).unwrap();
    let mapped = map
        .apply(built.model.backend(), &vectors, &[Some(3)], 2)
        .unwrap();
    let (weight, bias) = (built.noise(32, d * d, 0.5), built.noise(33, d, 1.0));
    let want = weight.chunks_exact(d).zip(&bias).map(|(row, bias)| {
        let sum: f64 = row
            .iter()
            .zip(&values)
            .map(|(&w, &x)| f64::from(w) * f64::from(x))
            .sum();
        (sum + f64::from(*bias)) as f32
    });
    let got = mapped.to_host(built.model.backend()).unwrap();
    assert_close("W x + b", &got, &want.collect::<Vec<_>>());
    let vector = Vector {
        name: "v".to_owned(),
        index: 0,
        values,
    };
    let error =
        selfie_interp::check_vectors(config, &built.tokenizer, &[vector], &options(2, &map))
            .unwrap_err();
    assert!(
        error.to_string().contains("vectors without a layer"),
        "{error}"
    );
}

#[test]
fn a_template_is_needed_to_ask() {
    let special = Default::default();
    let template = ChatTemplate::parse("{{ messages[0].role }}", &special, "t".as_ref()).unwrap();
    let reference = reference();
    let built = Built::all(&reference).next().unwrap();
    let oracle = Released::Oracle(selfie_interp::released::Oracle::default());
    let lost = oracle
        .configure(options(&built), &[2], Some("x"), &built.tokenizer, template)
        .unwrap_err();
    assert!(lost.to_string().contains("\" ?\""), "{lost}");
}

/// The bits of a greedy continuation in a slot among others.
fn continued(model: &Llama<Cpu>, prompts: &[(&[u32], Option<usize>)]) -> Vec<Vec<(u32, u32)>> {
    let longest = prompts.iter().map(|(ids, _)| ids.len()).max().unwrap();
    let size = SessionSize::new(model, prompts.len(), longest + 6);
    let mut session = Session::new(model, &size).unwrap();
    let mut slots = Vec::new();
    for (_, adapter) in prompts {
        let slot = session.open().unwrap();
        session.set_adapter(slot, *adapter).unwrap();
        slots.push(slot);
    }
    let feeds: Vec<_> = slots
        .iter()
        .zip(prompts)
        .map(|(&slot, (ids, _))| (slot, *ids))
        .collect();
    let mut best = session.prefill(&feeds).unwrap();
    let mut texts = vec![Vec::new(); prompts.len()];
    for _ in 0..6 {
        let pairs = texts.iter_mut().zip(&best);
        pairs.for_each(|(text, best)| text.push((best.token, best.logprob.to_bits())));
        let next: Vec<_> = slots
            .iter()
            .zip(&best)
            .map(|(&slot, best)| (slot, best.token))
            .collect();
        best = session.step(&next).unwrap();
    }
    texts
}

#[test]
fn adapters_apply_per_row_and_leave_other_rows_unchanged() {
    let reference = reference();
    for built in Built::all(&reference) {
        let one = built
            .model
            .with_lora(&Lora::open(&built.write_oracle()).unwrap())
            .unwrap();
        let two = one
            .with_lora(&Lora::open(&built.write_other_lora()).unwrap())
            .unwrap();
        assert_eq!(two.loras().count(), 2);
        let ids = built.tokenizer.encode(&built.prompt).unwrap();
        let (long, short) = (&ids[..], &ids[..5]);
        let jobs = [
            (long, None),
            (short, Some(0)),
            (long, Some(1)),
            (short, None),
            (long, Some(0)),
        ];
        let together = continued(&two, &jobs);
        for (job, text) in jobs.iter().zip(&together) {
            assert_eq!(
                continued(&two, &[*job]),
                std::slice::from_ref(text),
                "{}, alone",
                built.name
            );
        }
        // Without an adapter, the slot runs the plain model; with the first adapter, the model that has only this one.
        assert_eq!(
            continued(&built.model, &[(long, None)])[0],
            together[0],
            "{}",
            built.name
        );
        assert_eq!(
            continued(&one, &[(long, Some(0))])[0],
            together[4],
            "{}",
            built.name
        );
        let distinct: std::collections::HashSet<_> =
            [0, 2, 4].map(|at| together[at].clone()).into();
        assert_eq!(distinct.len(), 3, "{}", built.name);

        let size = SessionSize::new(&two, 1, 8);
        let mut session = Session::new(&two, &size).unwrap();
        let slot = session.open().unwrap();
        let error = session.set_adapter(slot, Some(2)).unwrap_err().to_string();
        assert!(
            error.contains("adapter 2") && error.contains("has 2 adapter(s)"),
            "{error}"
        );
        let with_head = Lora::open(&built.write_lora("head", true)).unwrap();
        let with_head = built.model.with_lora(&with_head).unwrap();
        let mut session = Session::new(&with_head, &SessionSize::new(&with_head, 1, 8)).unwrap();
        let slot = session.open().unwrap();
        let error = session.set_adapter(slot, None).unwrap_err().to_string();
        assert!(
            error.contains("no adapter") && error.contains("in the head"),
            "{error}"
        );
    }
}

#[test]
fn unsupported_adapter_features_are_refused_by_name() {
    let reference = reference();
    let all: Vec<Built> = Built::all(&reference).collect();
    let built = &all[0];
    let dir = built.write_lora("refused", false);
    let config = dir.join("adapter_config.json");
    let plain: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    let open = |field: &str, value: Value| {
        let mut json = plain.clone();
        json[field] = value;
        std::fs::write(&config, json.to_string()).unwrap();
        Lora::open(&dir)
    };
    for (field, value) in [
        ("use_dora", serde_json::json!(true)),
        ("modules_to_save", serde_json::json!(["embed_tokens"])),
        ("bias", serde_json::json!("all")),
        ("lora_bias", serde_json::json!(true)),
        ("peft_type", serde_json::json!("ADALORA")),
        ("layer_replication", serde_json::json!([[0, 2]])),
        ("trainable_token_indices", serde_json::json!([1])),
        ("init_lora_weights", serde_json::json!("pissa")),
        ("alpha_pattern", serde_json::json!({"layers.[01].*": 3})),
    ] {
        let error = open(field, value).unwrap_err().to_string();
        assert!(
            error.contains(field) && error.contains("adapter_config.json"),
            "{error}"
        );
    }
    let rank = open("rank_pattern", serde_json::json!({}))
        .unwrap_err()
        .to_string();
    assert!(
        rank.contains("down_proj is 4, but its weights have rank 2"),
        "{rank}"
    );
    assert!(open("init_lora_weights", serde_json::json!(true)).is_ok());

    // An adapter of a model with other layers or other widths.
    let lora = Lora::open(&all[1].write_lora("deep", false)).unwrap();
    let error = built.model.with_lora(&lora).err().unwrap().to_string();
    let names = [lora.name(), "layers.4", "it has 4 layers"];
    assert!(names.iter().all(|part| error.contains(part)), "{error}");
    let lora = Lora::open(&all[2].write_lora("wide", false)).unwrap();
    let error = built.model.with_lora(&lora).err().unwrap().to_string();
    assert!(
        error.contains("128 x 128") && error.contains("128 x 64"),
        "{error}"
    );
}

#[test]
fn samples_share_a_prompt_pass_and_keep_their_bits() {
    let reference = reference();
    for built in Built::all(&reference) {
        let of = |samples, batch_size| Options {
            samples,
            batch_size: Some(batch_size),
            sampling: Some(Sampling {
                seed: 3,
                temperature: 1.5,
                ..Sampling::default()
            }),
            ..options(&built)
        };
        let rows = |options: &Options| read(&built, &built.model, (2, 3), options).remove(0);
        let many = rows(&of(5, 8));
        let samples = many.samples.clone().unwrap();
        assert_eq!(samples.samples.len(), 5);
        // Whatever decodes together, and whichever job runs the prompt.
        for batch_size in [1, 2, 5] {
            assert_eq!(
                rows(&of(5, batch_size)),
                many,
                "{}, batches of {batch_size}",
                built.name
            );
        }
        // The first sample is the text that comes without the others.
        assert_eq!(rows(&of(1, 1)).interpretation, samples.samples[0]);
        let distinct: std::collections::HashSet<_> = samples.samples.iter().collect();
        assert!(distinct.len() > 1, "{samples:?}");
        let votes = samples
            .samples
            .iter()
            .filter(|text| **text == many.interpretation)
            .count();
        assert!(samples.agreement >= votes as f32 / 5.0);
        let mean = many.logprobs.iter().sum::<f32>() / many.logprobs.len() as f32;
        assert!((samples.mean_logprob - mean).abs() < 1e-5);
    }
}

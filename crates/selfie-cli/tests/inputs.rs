//! Real-world files and prompts: bos, generation settings, placeholders, prompts from a file.

mod common;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Folder, PROMPT, copy, dir, fail, fails, golden, selfie, succeed, works};
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// Sets fields of a folder's JSON file.
fn set(folder: &Path, file: &str, fields: Value) {
    let path = folder.join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
    let mut object: Value = serde_json::from_str(&text).unwrap();
    for (name, value) in fields.as_object().unwrap() {
        object[name] = value.clone();
    }
    fs::write(&path, object.to_string()).unwrap();
}

/// A column of `selfie tokens`.
fn column(index: usize, lines: &str) -> Vec<&str> {
    lines
        .lines()
        .map(|line| line.split('\t').nth(index).unwrap_or(""))
        .collect()
}

fn ids(lines: &str) -> Vec<u32> {
    let ids = column(1, lines).into_iter();
    ids.map(|id| id.parse().unwrap()).collect()
}

fn tokens(model: &Path, args: &[&str]) -> Vec<u32> {
    ids(&succeed("tokens", model, args))
}

fn rows(stdout: &str) -> Vec<Value> {
    let lines = stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The logits of a prompt's last token, from `selfie trace`.
fn logits(model: &Path, prompt: &str) -> (Vec<u32>, Vec<f32>) {
    let folder = Folder::new();
    let out = folder.at("t.safetensors");
    let args = ["--dtype", "f32", "--prompt", prompt, "--out", &out];
    succeed("trace", model, &args);
    let bytes = fs::read(&out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let input = file.tensor("input_ids").unwrap();
    let size = input.data().len() / input.shape()[0];
    let id = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
    let ids = input.data().chunks(size).map(id).collect();
    let logits = file.tensor("logits").unwrap();
    let vocabulary = *logits.shape().last().unwrap();
    let values: Vec<f32> = logits
        .data()
        .chunks(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    (ids, values[values.len() - vocabulary..].to_vec())
}

fn new_ids(model: &Path, args: &[&str]) -> Value {
    let args = [&["--json", "--quiet", "--dtype", "f32"], args].concat();
    let answer: Value = serde_json::from_str(&succeed("generate", model, &args)).unwrap();
    answer["new_ids"].clone()
}

/// The ids come from `AutoTokenizer` (transformers 4.57.1) on the same folders.
#[test]
fn folders_are_tokenized_as_transformers_does() {
    let case = |files: &[(&str, Value)], prompt: &str, expected: &[u32]| {
        let model = copy("llama2-mha");
        for (file, fields) in files {
            set(model.path(), file, fields.clone());
        }
        assert_eq!(
            tokens(model.path(), &["--prompt", prompt]),
            expected,
            "{files:?}"
        );
    };
    let config = "tokenizer_config.json";
    // Llama's class adds bos without a template; DeepSeek's R1 distills ship this.
    let class = json!({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": true});
    case(
        &[
            ("tokenizer.json", json!({"post_processor": null})),
            (config, class),
        ],
        "Who are you?",
        &[1, 417, 306, 422, 419, 275],
    );
    let without = json!({"tokenizer_class": "LlamaTokenizer", "add_bos_token": false});
    case(&[(config, without)], "Hello", &[322, 281, 296, 369, 306]);
    let token = json!({"content": "<|im_start|>", "lstrip": false, "normalized": false, "rstrip": false,
        "single_word": false, "special": true});
    for named in [
        json!({"additional_special_tokens": ["<|im_start|>"]}),
        json!({"added_tokens_decoder": {"560": token}}),
        json!({"pad_token": "<|im_start|>"}),
        json!({"eos_token": "<|im_start|>"}),
    ] {
        let class = json!({"tokenizer_class": "LlamaTokenizer"});
        case(
            &[(config, class), (config, named)],
            "a<|im_start|>b",
            &[1, 330, 560, 322, 293],
        );
    }
}

#[test]
fn the_settings_decide_the_prefix_space() {
    let model = copy("llama3-gqa");
    let settings = json!({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true});
    set(model.path(), "tokenizer_config.json", settings);
    let split = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    set(
        model.path(),
        "tokenizer.json",
        json!({"pre_tokenizer": split}),
    );
    // From AutoTokenizer (transformers 4.57.1) on the same folder.
    let expected = [568, 220, 39, 68, 296, 78];
    assert_eq!(tokens(model.path(), &["--prompt", "Hello"]), expected);
}

/// Odd files that need no refusal, and advice that can be followed.
#[test]
fn small_differences_are_accepted() {
    for fields in [
        json!({"architectures": ["LLaMAForCausalLM"]}),
        json!({"bos_token_id": -1}),
        json!({"eos_token_id": -1}),
    ] {
        let model = copy("llama2-mha");
        set(model.path(), "config.json", fields);
        succeed("info", model.path(), &[]);
    }
    for (file, says) in [
        ("vocab.json", "tokenizer_class"),
        ("tekken.json", "convert"),
    ] {
        let model = copy("llama2-mha");
        fs::remove_file(model.path().join("tokenizer.json")).unwrap();
        fs::write(model.path().join(file), "").unwrap();
        fs::write(model.path().join("merges.txt"), "").unwrap();
        let said = fail(1, "info", model.path(), &[]);
        assert!(said.contains(file) && said.contains(says), "{said}");
    }
}

#[test]
fn the_error_for_overflowing_activations_names_the_cell() {
    let args = [
        "--prompt",
        "a type",
        "--layers",
        "1",
        "--max-new-tokens",
        "3",
    ];
    let write = [
        "--mode",
        "add",
        "--strength",
        "1e38,1",
        "--controls",
        "none",
    ];
    let outcome = selfie(
        "interpret",
        &dir("llama2-mha"),
        &[&args[..], &write].concat(),
    );
    assert_eq!(outcome.code, 1);
    // The other injection still gives its row.
    let found = rows(&outcome.stdout);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["strength"], json!(1.0));
    assert!(
        outcome.stderr.contains("layer 1, token"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn bos_can_be_asked_for_and_left_out() {
    let model = dir("llama2-mha");
    let case = &golden("llama2-mha")["forward"][0];
    let prompt = case["prompt"].as_str().unwrap();
    let with: Vec<u32> = serde_json::from_value(case["input_ids"].clone()).unwrap();
    let prompt_args = ["--prompt", prompt];
    let of = |bos: &str| tokens(&model, &[&prompt_args[..], &["--bos", bos]].concat());
    assert_eq!((of("auto"), of("always")), (with.clone(), with.clone()));
    assert_eq!(of("never"), with[1..]);

    // Where the files add no bos, it comes on request.
    let without = copy("llama2-mha");
    let fields = json!({"tokenizer_class": "LlamaTokenizer", "add_bos_token": false});
    set(without.path(), "tokenizer_config.json", fields);
    assert_eq!(tokens(without.path(), &prompt_args), with[1..]);
    let always = [&prompt_args[..], &["--bos", "always"]].concat();
    assert_eq!(tokens(without.path(), &always), with);

    // All commands that run a prompt count alike.
    let sweep = [
        "--quiet",
        "--max-new-tokens",
        "2",
        "--layers",
        "1",
        "--tokens",
        "all",
        "--bos",
        "never",
    ];
    let stdout = succeed("interpret", &model, &[&prompt_args[..], &sweep].concat());
    assert_eq!(rows(&stdout).len(), with.len() - 1);
    let folder = Folder::new();
    let out = folder.at("t.safetensors");
    let trace = [&prompt_args[..], &["--bos", "never", "--out", &out]].concat();
    succeed("trace", &model, &trace);
    let bytes = fs::read(&out).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("input_ids").unwrap().shape()[0], with.len() - 1);
    let generate = ["--max-new-tokens", "4"];
    let never = [&prompt_args[..], &generate, &["--bos", "never"]].concat();
    assert_eq!(
        new_ids(&model, &never),
        new_ids(without.path(), &[&prompt_args[..], &generate].concat())
    );

    // So does control: without bos, the prompt has no token 1.
    let control = [
        "--prompt",
        "a",
        "--source",
        "2:1",
        "--target-prompt",
        "a",
        "--target",
        "3:1",
    ];
    let control = [&control[..], &["--dry-run", "--quiet", "--bos"]].concat();
    let of = |bos| [&control[..], &[bos]].concat();
    let command = ["control", "supervised"];
    works(&command, &model, &of("always"));
    fails(2, &command, &model, &of("never"), &["tokens 0..1"]);
}

#[test]
fn a_second_bos_is_noted() {
    let model = dir("llama2-mha");
    let prompts = ["--prompt", "<s>a type", "--prompt", "a type"];
    let twice = "begins with <s>, and one more is put before it";
    let notes = |command: &str, args: &[&str]| {
        let outcome = selfie(command, &model, args);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let lines = outcome.stderr.lines().map(str::to_owned);
        lines
            .filter(|line| line.contains(twice))
            .collect::<Vec<_>>()
    };
    let short = ["--max-new-tokens", "2"];
    for command in ["tokens", "generate", "interpret"] {
        let more: &[&str] = if command == "tokens" { &[] } else { &short };
        let noted = notes(command, &[&prompts[..2], more].concat());
        assert_eq!(noted.len(), 1, "{command}");
        assert!(noted[0].starts_with("note: the prompt"), "{}", noted[0]);
        let quiet = [&prompts[..2], more, &["--quiet"]].concat();
        assert!(notes(command, &quiet).is_empty());
        assert!(notes(command, &[&prompts[2..], more].concat()).is_empty());
        let never = [&prompts[..2], more, &["--bos", "never"]].concat();
        assert!(notes(command, &never).is_empty());
    }
    let noted = notes("interpret", &[&prompts[..], &short].concat());
    assert_eq!(noted.len(), 1);
    assert!(noted[0].starts_with("note: prompt 0: "), "{}", noted[0]);
    let asked = r#"["<s>[INST]", 0, "[/INST] Sure:"]"#;
    let asked = ["--interpretation-prompt", asked];
    let noted = notes("interpret", &[&prompts[2..], &short, &asked].concat());
    assert_eq!(noted.len(), 1);
}

#[test]
fn special_tokens_are_shown_as_such() {
    let lines = succeed("tokens", &dir("llama2-mha"), &["--prompt", "a</s>b"]);
    let (pieces, special) = (column(2, &lines), column(3, &lines));
    for (piece, special) in pieces.iter().zip(special) {
        let expected = if ["<s>", "</s>"].contains(piece) {
            "special"
        } else {
            ""
        };
        assert_eq!(special, expected, "{piece}");
    }
    assert!(pieces.contains(&"</s>") && pieces.contains(&"<s>"));
}

#[test]
fn tokens_show_the_rows_that_are_written() {
    for name in common::GOLDEN {
        let model = dir(name);
        // Five placeholders, from the golden data and from the template's name.
        let lines = succeed("tokens", &model, &["--template", "summarize"]);
        let writes = column(4, &lines);
        let mut numbers: Vec<&str> = writes.iter().copied().filter(|w| !w.is_empty()).collect();
        assert!(numbers.is_sorted());
        numbers.dedup();
        assert_eq!(
            numbers,
            ["write 1", "write 2", "write 3", "write 4", "write 5"]
        );
    }
    // A list's rows are the tokens that "_ " adds to the text before it, as in the original package.
    let lists: [(&str, &[&str], &str); 3] = [
        (r#"["word", 0, "word"]"#, &["word"], "word_ word"),
        (r#"["Q: ", 0, "\nA:"]"#, &["Q: "], "Q: _ \nA:"),
        (
            r#"["[INST]", 0, " x ", 0, "[/INST]"]"#,
            &["[INST]", "[INST]_  x "],
            "[INST]_  x _ [/INST]",
        ),
    ];
    for name in common::GOLDEN {
        for (list, before, text) in lists {
            let model = dir(name);
            let of = |text: &str| tokens(&model, &["--prompt", text]);
            let args = ["--quiet", "--interpretation-prompt", list];
            let lines = succeed("tokens", &model, &args);
            assert_eq!(ids(&lines), of(text), "{name}: {list}");
            let mut expected = vec![String::new(); ids(&lines).len()];
            for (number, before) in (1..).zip(before) {
                let rows = of(before).len()..of(&format!("{before}_ ")).len();
                expected[rows].fill(format!("write {number}"));
            }
            assert_eq!(column(4, &lines), expected, "{name}: {list}");
        }
    }
    // Text after the placeholder merges with it: a note.
    let args = ["--interpretation-prompt", r#"["word", 0, "word"]"#];
    let outcome = selfie("tokens", &dir("llama2-mha"), &args);
    assert_eq!(outcome.code, 0);
    assert!(outcome.stdout.contains("write 1"), "{}", outcome.stdout);
    assert!(
        outcome
            .stderr
            .starts_with("note: interpretation prompt: placeholder 1 ")
    );
    let noted = selfie(
        "interpret",
        &dir("llama2-mha"),
        &[&args[..], &["--prompt", "a", "--max-new-tokens", "2"]].concat(),
    );
    assert!(
        noted.stderr.contains(outcome.stderr.trim_end()),
        "{}",
        noted.stderr
    );
    let both = ["--prompt", "a", "--template", "summarize"];
    fail(2, "tokens", &dir("llama2-mha"), &both);
    fail(2, "tokens", &dir("llama2-mha"), &[]);
}

#[test]
fn generation_settings_of_a_file_are_used_and_reported() {
    let model = copy("llama3-gqa");
    let prompt = ["--prompt", "The", "--max-new-tokens", "1"];
    let (_, logits) = logits(model.path(), "The");
    let plain = new_ids(model.path(), &prompt);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    assert_eq!(plain, json!([order[0]]));

    set(
        model.path(),
        "generation_config.json",
        json!({"do_sample": true, "temperature": 50.0, "no_repeat_ngram_size": 2}),
    );
    for seed in 0..16 {
        let seed = seed.to_string();
        let drawn = new_ids(model.path(), &[&prompt[..], &["--seed", &seed]].concat());
        let drawn = drawn[0].as_u64().unwrap() as usize;
        assert!(order[..50].contains(&drawn), "seed {seed}");
    }
    let outcome = selfie("generate", model.path(), &prompt);
    let said =
        "note: as the checkpoint says, tokens are drawn, temperature 50, top_k 50 by default\n";
    assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("no_repeat_ngram_size 2"),
        "{}",
        outcome.stderr
    );
    // Options take precedence, and interpretations ignore the file.
    let greedy = [&prompt[..], &["--temperature", "0"]].concat();
    assert_eq!(new_ids(model.path(), &greedy), plain);
    let sweep = ["--prompt", "The", "--layers", "1", "--max-new-tokens", "3"];
    let original = succeed("interpret", &dir("llama3-gqa"), &sweep);
    let interpreted = succeed("interpret", model.path(), &sweep);
    assert_eq!(
        rows(&original)[0]["new_ids"],
        rows(&interpreted)[0]["new_ids"]
    );
    // Only the likeliest token is as likely as the likeliest token.
    let min_p = ["--temperature", "50", "--top-k", "0", "--min-p", "1"];
    assert_eq!(
        new_ids(model.path(), &[&prompt[..], &min_p].concat()),
        plain
    );
    fail(
        2,
        "generate",
        model.path(),
        &[&prompt[..], &["--min-p", "2"]].concat(),
    );
    fail(
        2,
        "generate",
        model.path(),
        &[&prompt[..], &["--repetition-penalty", "0"]].concat(),
    );
}

#[test]
fn the_repetition_penalty_is_that_of_transformers() {
    let model = copy("llama2-mha");
    let (ids, mut logits) = logits(model.path(), PROMPT);
    let best = |logits: &[f32]| (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    // Like RepetitionPenaltyLogitsProcessor: a token counts once, however often it occurs.
    let penalty = 5.0;
    let mut seen = ids.clone();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        let logit = &mut logits[id as usize];
        *logit = if *logit < 0.0 {
            *logit * penalty
        } else {
            *logit / penalty
        };
    }
    let expected = json!([best(&logits).unwrap()]);
    let prompt = ["--prompt", PROMPT, "--max-new-tokens", "1"];
    let option = [&prompt[..], &["--repetition-penalty", "5"]].concat();
    assert_eq!(new_ids(model.path(), &option), expected);
    set(
        model.path(),
        "generation_config.json",
        json!({"repetition_penalty": 5.0}),
    );
    assert_eq!(new_ids(model.path(), &prompt), expected);
    let outcome = selfie("generate", model.path(), &prompt);
    let said = "note: as the checkpoint says, decoding is greedy, repetition_penalty 5\n";
    assert!(outcome.stderr.contains(said), "{}", outcome.stderr);
    let interpret = [
        "--prompt",
        PROMPT,
        "--layers",
        "1",
        "--repetition-penalty",
        "5",
    ];
    succeed("interpret", model.path(), &interpret);
}

#[test]
fn prompts_come_from_a_file_or_stdin() {
    let model = dir("llama2-mha");
    let folder = Folder::new();
    let text = "a type of drink\r\n\n  \n\"two\\nlines\"\n\"quoted\" words\na type of drink";
    let file = folder.write("prompts.txt", text);
    let expected = [
        "a type of drink",
        "two\nlines",
        "\"quoted\" words",
        "a type of drink",
    ];
    let sweep = [
        "--quiet",
        "--layers",
        "1",
        "--tokens",
        "-1",
        "--max-new-tokens",
        "2",
    ];
    let args = [&["--prompts", &file], &sweep[..]].concat();
    let from_file = succeed("interpret", &model, &args);
    let found = rows(&from_file);
    for (index, (row, prompt)) in found.iter().zip(expected).enumerate() {
        assert_eq!(
            (&row["prompt"], &row["prompt_index"]),
            (&json!(prompt), &json!(index))
        );
        assert_eq!(
            row["token"],
            json!(tokens(&model, &["--prompt", prompt]).len() - 1)
        );
    }
    assert_eq!(found.len(), expected.len());

    let mut child = Command::new(env!("CARGO_BIN_EXE_selfie"))
        .args([
            "interpret",
            "--model",
            model.to_str().unwrap(),
            "--prompts",
            "-",
        ])
        .args(sweep)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), from_file);

    let empty = folder.write("empty.txt", "\n\n");
    let none = folder.at("none.txt");
    let interpret = ["interpret"];
    fails(
        2,
        &interpret,
        &model,
        &["--prompts", &empty],
        &["--prompts", "empty.txt"],
    );
    fails(
        1,
        &interpret,
        &model,
        &["--prompts", &none],
        &["--prompts", "none.txt"],
    );
    fails(
        2,
        &interpret,
        &model,
        &["--prompts", &file, "--prompt", "a"],
        &["--prompts"],
    );
    fails(2, &interpret, &model, &[], &["--prompt"]);
}

#[test]
fn tokens_are_counted_from_the_end_of_each_prompt() {
    let model = dir("llama2-mha");
    let prompts = ["a type of drink", "a"];
    let len = prompts.map(|prompt| tokens(&model, &["--prompt", prompt]).len());
    let base = [
        "--prompt",
        prompts[0],
        "--prompt",
        prompts[1],
        "--quiet",
        "--max-new-tokens",
        "2",
    ];
    let cells = |args: &[&str]| -> Vec<(usize, usize, usize)> {
        let found = rows(&succeed("interpret", &model, &[&base[..], args].concat()));
        let number = |row: &Value, field: &str| row[field].as_u64().unwrap() as usize;
        let cell = |row: &Value| {
            (
                number(row, "prompt_index"),
                number(row, "layer"),
                number(row, "token"),
            )
        };
        found.iter().map(cell).collect()
    };
    let last = |back: usize| len.map(|len| len - back);
    let (one, two) = (last(1), last(2));
    let expected = [
        (0, 4, two[0]),
        (0, 4, one[0]),
        (1, 4, two[1]),
        (1, 4, one[1]),
    ];
    assert_eq!(cells(&["--layers", "4", "--tokens", "-2.."]), expected);
    assert_eq!(cells(&["--cells", "4:-2,4:-1"]), expected);
    let before = [(0, 4, two[0]), (1, 4, two[1])];
    assert_eq!(cells(&["--layers", "4", "--tokens", "-2..-1"]), before);
    for args in [
        ["--tokens", "-99.."],
        ["--tokens", "-0"],
        ["--cells", "1:-99"],
    ] {
        fails(
            2,
            &["interpret"],
            &model,
            &[&base[..], &args].concat(),
            &args,
        );
    }
    // Control counts alike.
    let control = |source: &str, target: &str| {
        let args = [
            "--prompt",
            prompts[0],
            "--target-prompt",
            prompts[0],
            "--steps",
            "1",
            "--dry-run",
        ];
        let cells = ["--source", source, "--target", target];
        works(
            &["control", "supervised"],
            &model,
            &[&args[..], &cells].concat(),
        )
    };
    let at = one[0];
    assert_eq!(
        control("2:-1", "3:-1"),
        control(&format!("2:{at}"), &format!("3:{at}"))
    );
}

#[test]
fn an_adapter_beside_the_weights_is_noted() {
    let model = copy("llama2-mha");
    set(
        model.path(),
        "adapter_config.json",
        json!({"base_model_name_or_path": "base", "peft_type": "LORA"}),
    );
    let weights = model.path().join("adapter_model.safetensors");
    fs::copy(model.path().join("model.safetensors"), &weights).unwrap();
    for (command, args) in [
        ("info", &[][..]),
        ("generate", &["--prompt", "a", "--max-new-tokens", "1"]),
    ] {
        let outcome = selfie(command, model.path(), args);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let notes = outcome
            .stderr
            .lines()
            .filter(|line| line.contains("adapter_config.json"));
        assert_eq!(notes.count(), 1, "{}", outcome.stderr);
    }
    fs::remove_file(model.path().join("model.safetensors")).unwrap();
    assert!(fail(1, "info", model.path(), &[]).contains("adapter"));
}

#[test]
fn a_folder_of_the_hubs_cache_is_a_model() {
    let (model, cache) = (copy("llama2-mha"), Folder::new());
    let folder = cache.path("models--org--name");
    fs::create_dir_all(folder.join("snapshots")).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), "abc").unwrap();
    let args = ["--prompt", PROMPT, "--layers", "1", "--max-new-tokens", "2"];
    let expected = rows(&succeed("interpret", model.path(), &args));
    fs::rename(model.path(), folder.join("snapshots/abc")).unwrap();
    let found = rows(&succeed("interpret", &folder, &args));
    assert_eq!(found[0]["new_ids"], expected[0]["new_ids"]);
    assert_eq!(found[0]["model"], json!(folder.to_str().unwrap()));
}

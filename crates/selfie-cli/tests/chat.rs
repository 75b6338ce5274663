//! Chat prompts, and models by their name in the hub's cache.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{copy, dir, fail, run, selfie, succeed};
use serde_json::Value;
use tempfile::TempDir;

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}<{{ m.role }}> {{ m.content | trim }}\n{% endfor %}\
                        {% if add_generation_prompt %}<assistant>{% endif %}";

/// A golden checkpoint with a chat template.
fn model() -> TempDir {
    let model = copy("llama2-mha");
    fs::write(model.path().join("chat_template.jinja"), TEMPLATE).unwrap();
    model
}

fn columns(lines: &str, at: usize) -> Vec<&str> {
    lines
        .lines()
        .map(|line| line.split('\t').nth(at).unwrap_or(""))
        .collect()
}

/// The pieces as text, with the bytes that are not a piece by themselves.
fn text(lines: &str) -> String {
    let text = columns(lines, 2).concat().replace('▁', " ");
    let bytes = [("<0x3C>", "<"), ("<0x3E>", ">"), ("<0x5F>", "_")];
    bytes
        .iter()
        .fold(text, |text, (byte, c)| text.replace(byte, c))
}

fn rows(jsonl: &str) -> Vec<Value> {
    jsonl
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn tokens_show_the_message_they_belong_to() {
    let model = model();
    let args = ["--chat", "--system", "a type", "--prompt", " of drink "];
    let lines = succeed("tokens", model.path(), &args);
    let text = "<system> a type\n<user> of drink\n<assistant>";
    // The same ids as for the plain text, which then has one bos too.
    let plain = succeed("tokens", &dir("llama2-mha"), &["--prompt", text]);
    assert_eq!(columns(&lines, 1), columns(&plain, 1));
    let roles = columns(&lines, 4);
    let of = |role: &str| -> String {
        let pieces = columns(&lines, 2).into_iter().zip(&roles);
        pieces
            .filter(|(_, own)| **own == role)
            .map(|(piece, _)| piece)
            .collect()
    };
    assert_eq!(of("0:system").replace('▁', " ").trim(), "a type");
    assert_eq!(of("1:user").replace('▁', " ").trim(), "of drink");
    assert!(of("").contains("system"), "{lines}");

    let messages = r#"[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"a"}]"#;
    let lines = succeed("tokens", model.path(), &["--chat", "--prompt", messages]);
    let mut roles = columns(&lines, 4);
    roles.retain(|role| !role.is_empty());
    roles.dedup();
    assert_eq!(roles, ["0:user", "1:assistant", "2:user"]);
}

#[test]
fn a_chat_is_the_templates_text() {
    let model = model();
    let text = "<user> a type of drink\n<assistant>";
    let chat = ["--chat", "--prompt", "a type of drink"];
    let as_text = ["--prompt", text];
    let same = [
        "--quiet",
        "--cells",
        "1:3,3:5",
        "--max-new-tokens",
        "4",
        "--dtype",
        "f32",
    ];
    let asked = [
        &same[..],
        &["--interpretation-prompt", r#"["[INST]",0,0,"[/INST] It"]"#],
    ]
    .concat();
    let chats = rows(&succeed(
        "interpret",
        model.path(),
        &[&chat[..], &asked].concat(),
    ));
    let texts = rows(&succeed(
        "interpret",
        model.path(),
        &[&as_text[..], &asked].concat(),
    ));
    assert_eq!(chats.len(), 2);
    for (chat, text_row) in chats.iter().zip(&texts) {
        assert_eq!(chat["prompt"], format!("<s>{text}"));
        for field in [
            "interpretation",
            "token_decoded",
            "new_ids",
            "relevancy_score",
        ] {
            assert_eq!(chat[field], text_row[field], "{field}");
        }
    }

    // A file has one message, or one list of messages, per line.
    let file = model.path().join("prompts.txt");
    let messages = r#"[{"role": "user", "content": "a type of drink"}]"#;
    fs::write(
        &file,
        format!("a type of drink\n{messages}\n\"a type of drink\"\n"),
    )
    .unwrap();
    let args = ["--chat", "--prompts", file.to_str().unwrap()];
    let three = rows(&succeed(
        "interpret",
        model.path(),
        &[&args[..], &asked].concat(),
    ));
    let prompts: Vec<&Value> = three.iter().map(|row| &row["prompt"]).collect();
    assert_eq!(prompts, vec![&chats[0]["prompt"]; 6]);

    let args = ["--max-new-tokens", "4", "--json", "--dtype", "f32"];
    let [chat, text_row] = [&chat[..], &as_text[..]].map(|prompt| {
        let json = succeed("generate", model.path(), &[prompt, &args[..]].concat());
        serde_json::from_str::<Value>(&json).unwrap()
    });
    assert_eq!(chat["prompt"], format!("<s>{text}"));
    assert_eq!(chat["new_ids"], text_row["new_ids"]);

    // A final assistant message is continued.
    let begun = r#"[{"role":"user","content":"a type"},{"role":"assistant","content":"of drink"}]"#;
    let [chat, text_row] = [
        &["--chat", "--prompt", begun],
        &["--prompt", "<user> a type\n<assistant> of drink"][..],
    ]
    .map(|prompt| succeed("tokens", model.path(), prompt));
    assert_eq!(columns(&chat, 1), columns(&text_row, 1));
}

#[test]
fn interpretation_prompts_are_written_by_the_readers_template() {
    let model = model();
    let lines = succeed("tokens", model.path(), &["--template", "repeat"]);
    let mut writes = columns(&lines, 4);
    writes.retain(|write| !write.is_empty());
    writes.dedup();
    assert_eq!(
        writes,
        ["write 1", "write 2", "write 3", "write 4", "write 5"]
    );
    let written = text(&lines);
    assert!(
        written.ends_with("<assistant> Sure, I will repeat the word:"),
        "{written}"
    );

    let json =
        r#"[{"role":"user","content":["Explain: ",0]},{"role":"assistant","content":"Sure,"}]"#;
    let lines = succeed("tokens", model.path(), &["--interpretation-prompt", json]);
    let written = text(&lines);
    assert!(
        written.contains("Explain: _") && written.ends_with("<assistant> Sure,"),
        "{written}"
    );
    let args = [
        "--prompt",
        "a",
        "--max-new-tokens",
        "2",
        "--layers",
        "1",
        "--interpretation-prompt",
        json,
    ];
    assert_eq!(rows(&succeed("interpret", model.path(), &args)).len(), 1);

    let lost = TEMPLATE.replace(
        "m.content | trim",
        "m.content[:3] if m.role == 'user' else m.content",
    );
    fs::write(model.path().join("chat_template.jinja"), lost).unwrap();
    let said = fail(2, "interpret", model.path(), &args);
    assert!(
        said.contains("placeholder 0") && said.contains("<user> Exp"),
        "{said}"
    );
}

#[test]
fn malformed_chats_are_refused() {
    let plain = copy("llama2-mha");
    let plain = plain.path();
    fs::remove_file(plain.join("chat_template.jinja")).unwrap();
    let said = fail(2, "generate", plain, &["--chat", "--prompt", "a"]);
    for part in [
        plain.to_str().unwrap(),
        "no chat template",
        "chat_template.jinja",
        "tokenizer_config.json",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let json = r#"[{"role":"user","content":[0]}]"#;
    let said = fail(
        2,
        "interpret",
        plain,
        &["--prompt", "a", "--interpretation-prompt", json],
    );
    assert!(said.contains("no chat template"), "{said}");
    fail(2, "generate", plain, &["--system", "a", "--prompt", "a"]);

    let model = model();
    let refused = |args: &[&str], part: &str| {
        let said = fail(2, "tokens", model.path(), &[&["--chat"], args].concat());
        assert!(said.contains(part), "{said}");
    };
    refused(&["--prompt", ""], "empty");
    refused(&["--prompt", "a", "--bos", "never"], "--bos");
    refused(&["--prompt", r#"[{"role":"user"}]"#], "content");
    let messages = r#"[{"role":"system","content":"a"}]"#;
    refused(&["--system", "a", "--prompt", messages], "--system");
    fs::write(
        model.path().join("chat_template.jinja"),
        "a\n{{ raise_exception('never') }}",
    )
    .unwrap();
    refused(&["--prompt", "a"], "chat_template.jinja, line 2: never");
    fs::write(model.path().join("chat_template.jinja"), "a\n{% if %}").unwrap();
    refused(&["--prompt", "a"], "chat_template.jinja, line 2: ");
    // Commands that need no template still work.
    succeed("tokens", model.path(), &["--prompt", "a"]);
    let list = [
        "--layers",
        "1",
        "--max-new-tokens",
        "2",
        "--interpretation-prompt",
        r#"["a ",0]"#,
    ];
    selfie(
        "interpret",
        model.path(),
        &[&["--quiet", "--prompt", "a"], &list[..]].concat(),
    );
}

#[test]
fn a_model_without_a_template_gets_the_same_prompt_and_a_note() {
    let plain = copy("llama2-mha");
    fs::remove_file(plain.path().join("chat_template.jinja")).unwrap();
    let args = ["--prompt", "a", "--layers", "1", "--max-new-tokens", "2"];
    let noted = selfie("interpret", plain.path(), &args);
    let said =
        "note: the model has no chat template: the interpretation prompt uses LLaMA 2's format";
    assert!(noted.stderr.starts_with(said), "{}", noted.stderr);
    let with = rows(&succeed("interpret", &dir("llama2-mha"), &args));
    let without = rows(&noted.stdout);
    assert_eq!((without.len(), &without[0]["key"]), (1, &with[0]["key"]));
    assert_eq!(without[0]["new_ids"], with[0]["new_ids"]);
    let json = [&args[..], &["--interpretation-prompt", r#"["a ",0]"#]].concat();
    assert!(
        !selfie("interpret", plain.path(), &json)
            .stderr
            .contains("template")
    );
}

#[test]
fn a_template_without_bos_is_noted() {
    let model = model();
    fs::write(
        model.path().join("chat_template.jinja"),
        "{{ messages[0].content }}",
    )
    .unwrap();
    let outcome = selfie("tokens", model.path(), &["--chat", "--prompt", "drink"]);
    assert_eq!(
        outcome.stderr,
        "note: the chat template writes no <s>; other prompts begin with it\n"
    );
}

#[test]
fn the_demo_has_the_template_it_was_trained_with() {
    let question = "What is the capital of the country of the Colosseum?";
    let text = format!("[INST] {question} [/INST]");
    let [chat, plain] =
        [&["--chat", "--prompt", question], &["--prompt", &*text][..]].map(|prompt| {
            let outcome = run(&[&["generate", "--quiet"], prompt].concat());
            assert_eq!((outcome.code, &*outcome.stderr), (0, ""));
            outcome.stdout
        });
    assert_eq!(chat, plain);
}

#[test]
fn models_are_found_in_the_hubs_cache() {
    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("models--org--tiny/snapshots/abc");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(cache.path().join("models--org--tiny/refs")).unwrap();
    fs::write(cache.path().join("models--org--tiny/refs/main"), "abc").unwrap();
    for file in fs::read_dir(dir("llama2-mha")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), snapshot.join(file.file_name())).unwrap();
    }
    let tokens = |variable: &str, value: &Path, model: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_selfie"))
            .args(["tokens", "--prompt", "drink", "--model", model])
            .env_remove("HF_HUB_CACHE")
            .env_remove("HUGGINGFACE_HUB_CACHE")
            .env_remove("HF_HOME")
            .env(variable, value)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let expected = succeed("tokens", &dir("llama2-mha"), &["--prompt", "drink"]);
    for model in ["org/tiny", "org/tiny@main", "org/tiny@abc"] {
        let got = tokens("HF_HUB_CACHE", cache.path(), model);
        assert_eq!(got, (Some(0), expected.clone(), String::new()), "{model}");
    }
    let home = tempfile::tempdir().unwrap();
    fs::rename(cache.path(), home.path().join("hub")).unwrap();
    assert_eq!(tokens("HF_HOME", home.path(), "org/tiny").1, expected);
    for (model, command) in [
        ("org/other", "`hf download org/other`"),
        ("org/tiny@v2", "`hf download org/tiny --revision v2`"),
    ] {
        let (code, stdout, stderr) = tokens("HF_HOME", home.path(), model);
        assert_eq!((code, &*stdout), (Some(1), ""));
        assert!(
            stderr.contains(command) && stderr.lines().count() == 1,
            "{stderr}"
        );
    }
}

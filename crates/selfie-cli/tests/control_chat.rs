//! `--bos` and `--chat` in `control` and `eval`, on the demo checkpoint. Its template writes `<s>[INST] .. [/INST]`, so
//! each command has to do the same with the messages as with these texts.

mod common;

use common::{Folder, run};
use serde_json::Value;

const ITALY: &str = "What is the capital of Italy?";
const PERU: &str = "What is the capital of Peru?";
const JAPAN: &str = "What is the capital of Japan?";

/// How prompts are given.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// As the texts that the template writes.
    Texts,
    /// As messages, with `--chat`.
    Chat,
    /// As texts that begin with bos themselves, with `--bos never`.
    OwnBos,
    /// As texts without bos.
    NoBos,
}

impl Form {
    fn prompt(self, message: &str) -> String {
        match self {
            Self::Texts | Self::NoBos => format!("[INST] {message} [/INST]"),
            Self::Chat => message.to_owned(),
            Self::OwnBos => format!("<s>[INST] {message} [/INST]"),
        }
    }

    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Texts => &[],
            Self::Chat => &["--chat"],
            Self::OwnBos | Self::NoBos => &["--bos", "never"],
        }
    }
}

/// What a command prints, with the options of a form.
#[track_caller]
fn works(form: Form, args: &[&str]) -> String {
    let outcome = run(&[args, form.options(), &["--quiet"]].concat());
    assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.stderr);
    outcome.stdout
}

/// The steps of a run, and what it prints.
fn control(form: Form, method: &[&str]) -> (Vec<Value>, String) {
    let folder = Folder::new();
    let own = |message: &str| form.prompt(message);
    let (prompt, held, probe) = (own(ITALY), own(JAPAN), own(PERU));
    let reference = folder.write("reference.txt", &(own(JAPAN) + "\n"));
    let (log, out) = (folder.at("log.jsonl"), folder.at("edit.safetensors"));
    let target = own(PERU);
    let mut args = vec!["control"];
    args.extend(method);
    args.extend(["--prompt", &prompt, "--held-out", &held, "--probe", &probe]);
    args.extend([
        "--reference",
        &reference,
        "--max-drift",
        "9",
        "--steps",
        "2",
    ]);
    args.extend(["--log", &log, "--out", &out, "--max-new-tokens", "8"]);
    if method[0] == "supervised" {
        args.extend(["--target-prompt", &target]);
    }
    let said = [&prompt, &held, &probe, &out].into_iter();
    let said = said.fold(works(form, &args), |said, given| {
        said.replace(given, "GIVEN")
    });
    (folder.jsonl("log.jsonl"), said)
}

#[test]
fn control_takes_messages_and_texts_without_bos() {
    let supervised = [
        "supervised",
        "--source",
        "4:-1",
        "--target",
        "4:-1",
        "--interpret",
    ];
    let reinforce = [
        ["reinforce", "--layer", "4", "--tokens", "last"].as_slice(),
        &["--reward-words", "Italy", "--answer-words", "Rome"],
    ]
    .concat();
    for method in [&supervised[..], &reinforce] {
        let (texts, said) = control(Form::Texts, method);
        assert!(texts.len() > 1 && said.contains("Tokyo"), "{said}");
        for form in [Form::Chat, Form::OwnBos] {
            let (log, same) = control(form, method);
            assert_eq!(log, texts, "{method:?}");
            assert_eq!(same, said, "{method:?}");
        }
        let (without, _) = control(Form::NoBos, method);
        assert_ne!(without, texts, "{method:?}");
    }
}

#[test]
fn a_scan_and_a_judge_take_messages() {
    let folder = Folder::new();
    let template = folder.write(
        "judge.txt",
        "[INST] Is this right? {interpretation} [/INST]",
    );
    let demo = folder.at("demo");
    selfie_demo::write(std::path::Path::new(&demo)).unwrap();
    let scan = |form: Form| {
        let prompt = form.prompt(ITALY);
        let args = [
            [
                "control",
                "scan",
                "--layers",
                "3..5",
                "--jobs",
                "1",
                "reinforce",
            ]
            .as_slice(),
            &["--tokens", "last", "--prompt", &prompt, "--steps", "1"],
            &[
                "--judge",
                &demo,
                "--judge-template",
                &template,
                "--max-new-tokens",
                "8",
            ],
        ]
        .concat();
        let said = works(form, &args);
        said.split("best:").next().unwrap().to_owned()
    };
    let texts = scan(Form::Texts);
    assert_eq!(texts.lines().count(), 3, "{texts}");
    assert_eq!(scan(Form::Chat), texts);
}

#[test]
fn evaluations_take_messages_and_texts_without_bos() {
    let folder = Folder::new();
    let edit = folder.at("lima.safetensors");
    let (italy, peru) = (Form::Texts.prompt(ITALY), Form::Texts.prompt(PERU));
    let line = [
        [
            "control",
            "supervised",
            "--prompt",
            &italy,
            "--source",
            "4:-1",
        ]
        .as_slice(),
        &["--target-prompt", &peru, "--target", "4:-1", "--out", &edit],
    ]
    .concat();
    works(Form::Texts, &line);
    let facts = |form: Form| {
        let line = |message: &str, answer: &str| format!("{},{answer}\n", form.prompt(message));
        let csv = format!(
            "prompt,attribute\n{}{}",
            line(ITALY, "Rome"),
            line(JAPAN, "Tokyo")
        );
        let data = folder.write("facts.csv", &csv);
        works(form, &["eval", "facts", "--data", &data, "--edit", &edit])
    };
    let drift = |form: Form| {
        let lines = [ITALY, PERU]
            .map(|message| form.prompt(message) + "\n")
            .concat();
        let data = folder.write("lines.txt", &lines);
        works(form, &["eval", "drift", "--data", &data, "--edit", &edit])
    };
    // The default template is what the chat template writes.
    let rewrites = |form: Form| {
        let csv = format!("prompt,target,paraphrases,neighbours\n{ITALY},Lima,{ITALY},{JAPAN}\n");
        let data = folder.write("rewrites.csv", &csv);
        works(
            form,
            &["eval", "rewrites", "--data", &data, "--edit", &edit],
        )
    };
    let choices = |form: Form| {
        let csv = "prompt,question,answer\nWhat is the capital,of Italy?,Rome\n";
        let data = folder.write("choices.csv", csv);
        works(
            form,
            &[
                "eval", "choices", "--data", &data, "--edit", &edit, "--words", "Lima",
            ],
        )
    };
    let behaviours = |form: Form| {
        let data = folder.write("behaviours.txt", &format!("{ITALY}\n{JAPAN}\n"));
        let said = works(
            form,
            &[
                "eval",
                "behaviours",
                "--data",
                &data,
                "--edit",
                &edit,
                "--words",
                "Rome",
            ],
        );
        said.replace("[INST] {} [/INST]", "{}")
    };
    for (name, of, texts_say) in [
        ("facts", &facts as &dyn Fn(Form) -> String, "100.0%"),
        ("drift", &drift, "nats"),
        ("rewrites", &rewrites, "100.0%"),
        ("choices", &choices, "100.0%"),
        ("behaviours", &behaviours, "50.0%"),
    ] {
        let texts = of(Form::Texts);
        assert!(texts.contains(texts_say), "{name}: {texts}");
        assert_eq!(of(Form::Chat), texts, "{name}");
        if ["facts", "drift"].contains(&name) {
            assert_eq!(of(Form::OwnBos), texts, "{name}");
        }
    }
    assert_ne!(drift(Form::NoBos), drift(Form::Texts));
}

#[test]
fn what_a_template_does_not_take_is_one_line() {
    let folder = Folder::new();
    let data = folder.write("facts.csv", "prompt,attribute\nWhat?,Rome\n");
    let facts = ["eval", "facts", "--data", &data, "--quiet"];
    let reinforce = [
        [
            "control",
            "reinforce",
            "--prompt",
            ITALY,
            "--layer",
            "2",
            "--quiet",
        ]
        .as_slice(),
        &["--reward-words", "Rome", "--out", "unwritten"],
    ]
    .concat();
    for command in [&facts[..], &reinforce] {
        for (more, says) in [
            (
                &["--chat", "--system", "Be brief"][..],
                "knows only messages of user and assistant",
            ),
            (&["--chat", "--bos", "never"], "leave --bos out with --chat"),
        ] {
            let outcome = run(&[command, more].concat());
            assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
            assert!(
                outcome.code != 0 && outcome.stderr.contains(says),
                "{}",
                outcome.stderr
            );
        }
    }
}

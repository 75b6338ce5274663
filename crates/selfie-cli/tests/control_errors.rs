//! What `selfie control` and `selfie eval` say about wrong input.

mod common;

use std::path::Path;

use common::{Folder, PROMPT, REINFORCE, dir, fails};

#[test]
fn wrong_input_is_one_line() {
    let folder = Folder::new();
    let model = dir("llama2-mha");
    let out = folder.at("edit.safetensors");
    let base = [
        "--prompt",
        PROMPT,
        "--target-prompt",
        "a type of drink",
        "--out",
        &out,
    ];
    let says = |args: &[&str], parts: &[&str]| {
        let args = [&base[..], args].concat();
        fails(2, &["control", "supervised"], &model, &args, parts);
    };
    says(
        &["--source", "0:7", "--target", "3:3"],
        &["layer 0", "1..4"],
    );
    says(
        &["--source", "4:7", "--target", "3:3"],
        &["layer 4", "1..4"],
    );
    says(
        &["--source", "2:99", "--target", "3:3"],
        &["token 99", "0.."],
    );
    says(
        &["--source", "2:7", "--target", "9:3"],
        &["layer 9", "0..=4"],
    );
    says(&["--source", "2:7", "--target", "3:33"], &["token 33"]);
    says(
        &["--source", "2:7,3:7", "--target", "3:3"],
        &["2 and 3", "one layer"],
    );
    says(
        &["--source", "2", "--target", "3:3"],
        &["--source", "LAYER:TOKEN"],
    );
    says(&["--source", "2:7"], &["--target"]);
    let cell = ["--source", "2:7", "--target", "3:3"];
    let with = |args: &[&str], parts: &[&str]| says(&[&cell[..], args].concat(), parts);
    with(&["--lr", "nan"], &["lr", "NaN", "finite"]);
    with(&["--lr", "-1"], &["lr", "-1"]);
    with(&["--lr", "fast"], &["fast"]);
    with(&["--steps", "0"], &["steps", "at least 1"]);
    with(&["--betas", "0.9"], &["betas", "two numbers"]);
    with(&["--betas", "0.9,1"], &["betas", "below 1"]);
    with(&["--beta", "3"], &["--reference"]);
    with(&["--max-drift", "3"], &["--reference"]);
    with(&["--probe", ""], &["probe", "empty"]);
    with(&["--interpret", "--inject-layer", "4"], &["inject layer 4"]);
    let empty = folder.write("empty.txt", "\n\n");
    with(&["--reference", &empty], &["empty.txt", "no line"]);
    let texts = folder.write("texts.txt", "a\n");
    with(&["--reference", &texts, "--beta", "inf"], &["beta", "inf"]);
    with(
        &["--reference", &texts, "--max-drift", "-1"],
        &["max_drift", "-1"],
    );
    let args = [&base[..], &cell, &["--reference", "none.txt"]].concat();
    fails(1, &["control", "supervised"], &model, &args, &["none.txt"]);
    let args = [&base[..4], &cell].concat();
    fails(2, &["control", "supervised"], &model, &args, &["--out"]);
    let args = [&base[..4], &cell, &["--out", "no/such/edit.safetensors"]].concat();
    fails(1, &["control", "supervised"], &model, &args, &["no/such"]);
    // A target of another width.
    let vectors = dir("llama3-gqa").join("golden.safetensors");
    let vectors = vectors.to_str().unwrap();
    let args = [
        "--prompt",
        PROMPT,
        "--source",
        "2:7",
        "--target-vector",
        vectors,
        "--tensor",
        "supervised.0.target",
        "--out",
        &out,
    ];
    fails(2, &["control", "supervised"], &model, &args, &["128", "64"]);

    let says = |code, args: &[&str], parts: &[&str]| {
        let args = [&REINFORCE[..], &["--out", &out], args].concat();
        fails(code, &["control", "reinforce"], &model, &args, parts);
    };
    says(2, &[], &["--reward-words", "--judge", "--reward-command"]);
    says(2, &["--reward-words", "a,,b"], &["reward word"]);
    says(
        2,
        &["--reward-words", "a", "--reward-command", "cat"],
        &["cannot be used with"],
    );
    says(
        2,
        &["--reward-command", "no-such-program -x"],
        &["no-such-program"],
    );
    says(2, &["--reward-command", ""], &["empty"]);
    says(2, &["--judge", "x"], &["--judge-template"]);
    let template = folder.write("template.txt", "is it bad?\n");
    let here = model.to_str().unwrap();
    says(
        2,
        &["--judge", here, "--judge-template", &template],
        &["{interpretation}", "is it bad?"],
    );
    says(
        1,
        &["--judge", "no/folder", "--judge-template", &template],
        &["no/folder"],
    );
    says(
        1,
        &["--judge", here, "--judge-template", "none.txt"],
        &["none.txt"],
    );
    says(2, &["--reward-words", "a", "--tokens", "9"], &["9", "0..6"]);
    says(
        2,
        &["--reward-words", "a", "--inject-layer", "9"],
        &["inject layer 9"],
    );
    for layer in ["0", "4"] {
        let args = [
            "--prompt",
            "a",
            "--layer",
            layer,
            "--reward-words",
            "a",
            "--out",
            &out,
        ];
        fails(
            2,
            &["control", "reinforce"],
            &model,
            &args,
            &["layer", "1..4"],
        );
    }

    let eval = |kind: &str, code, args: &[&str], parts: &[&str]| {
        fails(code, &["eval", kind], &model, args, parts);
    };
    eval("facts", 1, &["--data", "none.csv"], &["none.csv"]);
    let data = folder.write("data.csv", "prompt,answer\na,b\n");
    eval(
        "facts",
        2,
        &["--data", &data],
        &["data.csv", "attribute", "prompt, answer"],
    );
    let data = folder.write("data.csv", "prompt,attribute\n");
    eval("facts", 2, &["--data", &data], &["data.csv", "no rows"]);
    let data = folder.write("data.csv", "prompt,attribute\na,\n");
    eval("facts", 2, &["--data", &data], &["line 2", "attribute"]);
    let data = folder.write("data.csv", "prompt,question,answer\na,b,c\n");
    eval(
        "choices",
        2,
        &["--data", &data, "--template", "{prompt}"],
        &["{question}"],
    );
    eval(
        "behaviours",
        2,
        &["--data", &texts, "--words", "a,", "--template", "{}"],
        &["--words"],
    );
    eval(
        "behaviours",
        2,
        &["--data", &texts, "--words", "a", "--template", "x"],
        &["{}"],
    );
    assert!(!Path::new(&out).exists());
}

//! What happens to output files: complete ones take their place, and failed runs keep older ones.
#![cfg(target_os = "linux")]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use common::{Folder, copy, dir, run, strs};
use tempfile::TempDir;

/// A checkpoint whose last weight is NaN: it opens, but does not load.
fn broken() -> TempDir {
    let model = copy("llama2-mha");
    let weights = model.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    model
}

/// Every command that writes a file, with its arguments up to the name of that file.
fn commands(folder: &Folder, edit: &str, model: &Path) -> Vec<(Vec<String>, &'static str)> {
    let model = model.to_str().unwrap();
    let lines = folder.at("lines.txt");
    let facts = folder.at("facts.csv");
    fs::write(&lines, "a type of drink\n").unwrap();
    fs::write(&facts, "prompt,attribute\na type,drink\n").unwrap();
    let golden = dir("llama2-mha").join("golden.safetensors");
    let golden = golden.to_str().unwrap();
    let interpret = [
        "interpret",
        "--quiet",
        "--prompt",
        "a",
        "--max-new-tokens",
        "2",
    ];
    let vectors = [
        "interpret-vectors",
        "--quiet",
        "--vectors",
        golden,
        "--tensor",
    ];
    let vectors = [
        &vectors[..],
        &["forward.0.hidden_states", "--max-new-tokens", "2"],
    ]
    .concat();
    let supervised = [
        "control",
        "supervised",
        "--prompt",
        "a b",
        "--source",
        "2:1",
        "--steps",
        "1",
    ];
    let supervised = [
        &supervised[..],
        &["--target-prompt", "a type", "--target", "3:2"],
    ]
    .concat();
    let reinforce = [
        "control",
        "reinforce",
        "--prompt",
        "a b",
        "--layer",
        "2",
        "--steps",
        "1",
    ];
    let reinforce = [
        &reinforce[..],
        &["--max-new-tokens", "2", "--reward-words", "e"],
    ]
    .concat();
    let new_edit = folder.at("new.safetensors");
    let facts = ["eval", "facts", "--data", &facts, "--max-new-tokens", "2"];
    let log = [&reinforce[..], &["--out", &new_edit, "--log"]].concat();
    let commands: [(Vec<&str>, &str); 8] = [
        ([&interpret[..], &["--out"]].concat(), "rows.parquet"),
        ([&vectors[..], &["--out"]].concat(), "rows.html"),
        (vec!["trace", "--prompt", "a", "--out"], "trace.safetensors"),
        ([&supervised[..], &["--out"]].concat(), "edit.safetensors"),
        ([&reinforce[..], &["--out"]].concat(), "edit.safetensors"),
        (log, "log.jsonl"),
        ([&facts[..], &["--out"]].concat(), "out.csv"),
        (
            vec!["eval", "drift", "--data", &lines, "--edit", edit, "--out"],
            "out.csv",
        ),
    ];
    let with_model = |(mut args, name): (Vec<&str>, &'static str)| {
        let at = args.iter().position(|arg| arg.starts_with("--")).unwrap();
        args.splice(at..at, ["--model", model]);
        (args.into_iter().map(str::to_owned).collect(), name)
    };
    commands.into_iter().map(with_model).collect()
}

/// An edit of llama2-mha.
fn an_edit(folder: &Folder) -> String {
    let edit = folder.at("an-edit.safetensors");
    let mut supervised = commands(folder, "", &dir("llama2-mha")).swap_remove(3).0;
    supervised.push(edit.clone());
    assert_eq!(run(&strs(&supervised)).code, 0);
    edit
}

fn with<'a>(args: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    [&strs(args)[..], more].concat()
}

#[test]
fn a_failing_run_leaves_an_older_result() {
    let (folder, model) = (Folder::new(), broken());
    let edit = an_edit(&folder);
    for (args, name) in commands(&folder, &edit, model.path()) {
        let older = folder.at(name);
        fs::write(&older, "results of yesterday").unwrap();
        let before = folder.names();
        let outcome = run(&with(&args, &[&older]));
        assert_eq!(outcome.code, 1, "{args:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("NaN"), "{}", outcome.stderr);
        assert_eq!(fs::read_to_string(&older).unwrap(), "results of yesterday");
        assert_eq!(folder.names(), before, "{args:?}");
        fs::remove_file(&older).unwrap();
    }
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded() {
    let (folder, model) = (Folder::new(), broken());
    let edit = an_edit(&folder);
    for (args, name) in commands(&folder, &edit, model.path()) {
        let before = folder.names();
        let nowhere = format!("no/such/folder/{name}");
        // Not even root can create anything there.
        let system = format!("/sys/kernel/{name}");
        let folder_of_that_name = folder.path(name);
        fs::create_dir(&folder_of_that_name).unwrap();
        let taken = folder_of_that_name.to_str().unwrap();
        for (out, reason) in [
            (nowhere.as_str(), "No such file"),
            (&system, "cannot create a file in its folder"),
            (taken, "is a directory"),
        ] {
            let outcome = run(&with(&args, &[out]));
            assert_eq!(outcome.code, 1, "{args:?}: {}", outcome.stderr);
            for part in [out, reason] {
                assert!(
                    outcome.stderr.contains(part),
                    "{args:?}: {}",
                    outcome.stderr
                );
            }
        }
        fs::remove_dir(&folder_of_that_name).unwrap();
        assert_eq!(folder.names(), before, "{args:?}");
    }
    let (interpret, _) = &commands(&folder, &edit, model.path())[0];
    let outcome = run(&with(interpret, &["rows.xlsx"]));
    assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("rows.xlsx"), "{}", outcome.stderr);
}

#[test]
fn links_stay_devices_are_written_to_and_files_are_as_the_umask_says() {
    let folder = Folder::new();
    let edit = an_edit(&folder);
    let plain = folder.path("plain");
    File::create(&plain).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    fs::create_dir(folder.path("big")).unwrap();
    for (args, name) in commands(&folder, &edit, &dir("llama2-mha")) {
        let (link, target) = (folder.path(name), folder.path("big").join(name));
        symlink(&target, &link).unwrap();
        // First a link to a file that does not exist, then one to an older file.
        for _ in 0..2 {
            let outcome = run(&with(&args, &[link.to_str().unwrap()]));
            assert_eq!((outcome.code, &*outcome.stderr), (0, ""), "{args:?}");
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(mode(&target), mode(&plain), "{args:?}");
            assert!(fs::metadata(&target).unwrap().len() > 20);
        }
        let format: &[&str] = match name {
            "rows.parquet" | "rows.html" => &["/dev/null", "--format", "parquet"],
            _ => &["/dev/null"],
        };
        let outcome = run(&with(&args, format));
        assert_eq!((outcome.code, &*outcome.stderr), (0, ""), "{args:?}");
        let null = fs::symlink_metadata("/dev/null").unwrap().file_type();
        assert!(null.is_char_device());
        fs::remove_file(&link).unwrap();
    }
    assert!(folder.names().iter().all(|name| !name.contains("partial")));
}

#[test]
fn a_fifo_and_stdout_get_every_byte() {
    let folder = Folder::new();
    let fifo = folder.at("rows.fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let args = [
        "interpret",
        "--quiet",
        "--prompt",
        "a type",
        "--cells",
        "1:1,2:1",
    ];
    let want = run(&args).stdout;
    assert_eq!(want.lines().count(), 2);
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::read_to_string(fifo).unwrap()
    });
    let to = |out: &str| run(&[&args[..], &["--format", "jsonl", "--out", out]].concat());
    assert_eq!(to(&fifo).code, 0);
    assert_eq!(reader.join().unwrap(), want);
    assert_eq!(to("/dev/stdout").stdout, want);
    // Redirected to a file that is not empty.
    let log = folder.at("log");
    fs::write(&log, "first\n").unwrap();
    let appended = File::options().append(true).open(&log).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_selfie"))
        .args([&args[..], &["--format", "jsonl", "--out", "/dev/stdout"]].concat())
        .stdout(appended)
        .status();
    assert!(status.unwrap().success());
    assert_eq!(fs::read_to_string(&log).unwrap(), format!("first\n{want}"));
    assert_eq!(folder.names(), ["log", "rows.fifo"]);
}

#[test]
fn a_name_need_not_be_text() {
    let folder = Folder::new();
    let name = OsStr::from_bytes(b"r\xffws.csv");
    let outcome = Command::new(env!("CARGO_BIN_EXE_selfie"))
        .args([
            "interpret",
            "--quiet",
            "--prompt",
            "a",
            "--cells",
            "1:1",
            "--out",
        ])
        .arg(folder.0.path().join(name))
        .output()
        .unwrap();
    assert!(outcome.status.success(), "{outcome:?}");
    assert!(fs::metadata(folder.0.path().join(name)).unwrap().len() > 20);
}

#[test]
fn folders_appear_when_they_are_complete() {
    let (folder, model) = (Folder::new(), copy("llama2-mha"));
    let edit = an_edit(&folder);
    let model = model.path().to_str().unwrap();
    let random = [
        "random-checkpoint",
        "--shape",
        "tinyllama-1.1b",
        "--tokenizer",
        "none",
    ];
    let export = ["edit", "export", "--model", model, &edit];
    let file = folder.at("file");
    fs::write(&file, "x").unwrap();
    let full = folder.at("full");
    fs::create_dir(&full).unwrap();
    fs::write(folder.path("full/precious"), "x").unwrap();
    let before = folder.names();
    for args in [&random[..], &export] {
        for (out, code) in [(&file, 2), (&full, 2), (&format!("{file}/model"), 1)] {
            let outcome = run(&[args, &["--out", out]].concat());
            assert_eq!(outcome.code, code, "{args:?} {out}: {}", outcome.stderr);
            assert!(outcome.stderr.contains(out.as_str()), "{}", outcome.stderr);
            assert_eq!(folder.names(), before);
        }
    }
    let out = folder.at("exported");
    assert_eq!(run(&[&export[..], &["--out", &out]].concat()).code, 0);
    assert!(folder.path("exported/config.json").is_file());
    let again = run(&[&export[..], &["--out", &out]].concat());
    assert_eq!(again.code, 2);
    assert!(again.stderr.contains("exists"), "{}", again.stderr);
}

//! What becomes of files: complete ones take their place, a run that fails leaves older ones as they were, and rows that are
//! done can be read.
#![cfg(unix)]

mod common;

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{copy, dir, run};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

/// A folder for results.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let files = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = files
            .map(|file| file.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

/// A checkpoint whose last weight is NaN: it opens, and does not load.
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
    let interpret = ["interpret", "--prompt", "a", "--max-new-tokens", "2"];
    let vectors = ["interpret-vectors", "--vectors", golden, "--tensor"];
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

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
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
        // Nothing can be made there, not even by root.
        let system = format!("/sys/kernel/{name}");
        let folder_of_that_name = folder.path(name);
        fs::create_dir(&folder_of_that_name).unwrap();
        let taken = folder_of_that_name.to_str().unwrap();
        for (out, reason) in [
            (nowhere.as_str(), "No such file"),
            (&system, "nothing can be made in its folder"),
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
        // A link to nothing yet, then one to an older file.
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
    // Redirected to a file that has something in it.
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
    let name = std::ffi::OsStr::from_bytes(b"r\xffws.csv");
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

/// A sweep of the demo that takes long: 7 layers x 16 tokens x 6 inject layers x 20 strengths, one by one.
fn long_sweep(out: &Path) -> Command {
    let strengths: Vec<String> = (1..=20)
        .map(|i| (0.05 * f64::from(i)).to_string())
        .collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_selfie"));
    command
        .args([
            "interpret",
            "--quiet",
            "--batch-size",
            "1",
            "--threads",
            "1",
        ])
        .args([
            "--prompt",
            "[INST] What is the capital of the country of the Colosseum? [/INST]",
        ])
        .args([
            "--layers",
            "all",
            "--tokens",
            "all",
            "--inject-layer",
            "0,1,2,3,4,5",
        ])
        .args(["--strength", &strengths.join(","), "--out"])
        .arg(out);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const LONG_SWEEP: usize = 7 * 16 * 6 * 20;

fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &id]).status();
    assert!(sent.unwrap().success());
}

#[track_caller]
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "never: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Starts a long sweep to `out`, and sends a signal when its rows are coming.
fn interrupted(out: &Path, partial: &Path, name: &str) -> Output {
    // Parquet keeps rows in memory: whether one was done is seen afterwards.
    for patience in [100, 400, 1600, 6400] {
        let child = long_sweep(out).spawn().unwrap();
        wait_until("rows come", || partial.exists());
        sleep(Duration::from_millis(patience));
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        if !String::from_utf8_lossy(&output.stderr).contains(": 0 of ") {
            return output;
        }
    }
    panic!("no row was done in seconds");
}

fn rows_of_parquet(path: &Path) -> usize {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    reader
        .get_row_iter(None)
        .unwrap()
        .map(|row| row.unwrap())
        .count()
}

#[test]
fn a_signal_keeps_the_rows_that_are_done() {
    for name in ["TERM", "INT", "HUP"] {
        let folder = Folder::new();
        let (out, partial) = (
            folder.path("rows.parquet"),
            folder.path("rows.partial.parquet"),
        );
        let output = interrupted(&out, &partial, name);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(folder.names(), ["rows.parquet"]);
        let done = rows_of_parquet(&out);
        assert!(done > 0 && done < LONG_SWEEP);
        let message = format!(
            "error: interrupted: {done} of {LONG_SWEEP} rows are written to {}\n",
            out.display()
        );
        assert_eq!(String::from_utf8(output.stderr).unwrap(), message);

        // The older result is complete, for all that the program knows.
        let older = fs::read(&out).unwrap();
        let output = interrupted(&out, &partial, name);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(folder.names(), ["rows.parquet", "rows.partial.parquet"]);
        assert!(fs::read(&out).unwrap() == older);
        let done = rows_of_parquet(&partial);
        assert!(done > 0 && done < LONG_SWEEP);
        let message = format!(
            "error: interrupted: {done} of {LONG_SWEEP} rows are written to {}, beside the older {}\n",
            partial.display(),
            out.display()
        );
        assert_eq!(String::from_utf8(output.stderr).unwrap(), message);
    }
}

#[test]
fn rows_that_are_done_can_be_read_while_it_runs_and_after_a_kill() {
    let folder = Folder::new();
    let (out, partial) = (folder.path("rows.jsonl"), folder.path("rows.partial.jsonl"));
    let lines = || fs::read_to_string(&partial).map_or(0, |text| text.lines().count());
    let mut child = long_sweep(&out).spawn().unwrap();
    wait_until("three rows come", || lines() >= 3);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(folder.names(), ["rows.partial.jsonl"]);
    let text = fs::read_to_string(&partial).unwrap();
    let (done, _) = text.rsplit_once('\n').unwrap();
    for line in done.lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
}

/// As nohup does.
#[test]
fn a_signal_that_is_ignored_ends_nothing() {
    let folder = Folder::new();
    let (out, partial) = (folder.path("rows.csv"), folder.path("rows.partial.csv"));
    let sweep = long_sweep(&out);
    let program = sweep.get_program().to_owned();
    let args: Vec<_> = sweep.get_args().map(ToOwned::to_owned).collect();
    let child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .arg(program)
        .args(args)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let size = || fs::metadata(&partial).map_or(0, |file| file.len());
    wait_until("rows come", || size() > 0);
    signal(&child, "HUP");
    let before = size();
    wait_until("more rows come", || size() > before + 10_000);
    signal(&child, "TERM");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    assert_eq!(folder.names(), ["rows.csv"]);
}

#[test]
fn an_interrupted_control_keeps_the_edit_and_the_log() {
    let folder = Folder::new();
    let (edit, log) = (folder.at("edit.safetensors"), folder.at("log.jsonl"));
    let control = || {
        let mut child = Command::new(env!("CARGO_BIN_EXE_selfie"))
            .args([
                "control",
                "reinforce",
                "--quiet",
                "--steps",
                "100000",
                "--lr",
                "1e-9",
            ])
            .args([
                "--prompt",
                "[INST] What? [/INST]",
                "--layer",
                "2",
                "--reward-words",
                "e",
            ])
            .args(["--max-new-tokens", "4", "--out", &edit, "--log", &log])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Steps are told on stdout; an update comes between two of them.
        let mut out = child.stdout.take().unwrap();
        let mut text = String::new();
        while text.matches("step ").count() < 3 {
            let mut some = [0; 512];
            let n = std::io::Read::read(&mut out, &mut some).unwrap();
            assert!(n > 0, "it ended: {text}");
            text += &String::from_utf8_lossy(&some[..n]);
        }
        signal(&child, "TERM");
        std::io::Read::read_to_string(&mut out, &mut text).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("interrupted after"), "{error}");
        text
    };
    let first = control();
    assert_eq!(folder.names(), ["edit.safetensors", "log.jsonl"]);
    assert!(
        first.ends_with(&format!("updates is in {edit}\n")),
        "{first}"
    );
    assert_eq!(run(&["generate", "--prompt", "a", "--edit", &edit]).code, 0);
    let older = (fs::read(&edit).unwrap(), fs::read(&log).unwrap());

    let second = control();
    let partial = ["edit.partial.safetensors", "log.partial.jsonl"].map(|name| folder.at(name));
    for path in &partial {
        assert!(second.contains(path), "{second}");
    }
    assert!((fs::read(&edit).unwrap(), fs::read(&log).unwrap()) == older);
    assert_eq!(
        run(&["generate", "--prompt", "a", "--edit", &partial[0]]).code,
        0
    );
    let log = fs::read_to_string(&partial[1]).unwrap();
    assert!(log.lines().count() >= 3);
}

/// With `--threads 3000` a sweep went on forever.
#[test]
fn any_number_of_threads_comes_to_an_end() {
    let args = [
        "interpret",
        "--prompt",
        "a type",
        "--cells",
        "2:1",
        "--device",
        "cpu",
    ];
    let want = run(&args);
    let outcome = run(&[&args[..], &["--threads", "3000"]].concat());
    assert_eq!((outcome.code, &outcome.stdout), (0, &want.stdout));
    let cores = std::thread::available_parallelism().unwrap();
    let said = format!("not 3000 (--threads): this process may use {cores} cores");
    assert!(outcome.stderr.contains(&said), "{}", outcome.stderr);
    let quiet = run(&[&args[..], &["--threads", "3000", "--quiet"]].concat());
    assert_eq!((quiet.code, &*quiet.stderr), (0, ""));
}

#[test]
fn what_cannot_be_seen_is_shown_in_tables_pages_and_tokens() {
    let prompt = "a\u{202e}b\u{200b}c\u{2028}d שלום e\u{301}";
    let escaped = r"a\u{202e}b\u{200b}c\u{2028}d שלום é".replace('é', "e\u{301}");
    let args = ["interpret", "--quiet", "--prompt", prompt, "--cells", "1:1"];
    let table = run(&[&args[..], &["--format", "table"]].concat()).stdout;
    assert_eq!(table.lines().next().unwrap(), escaped);
    let page = run(&[&args[..], &["--format", "html"]].concat()).stdout;
    assert!(page.contains(&format!("<h2>{escaped}</h2>")), "{page}");
    // Data stays as it is.
    let row: Value = serde_json::from_str(&run(&args).stdout).unwrap();
    assert_eq!(row["prompt"], prompt);

    // A tokenizer with a token of such a character.
    let model = copy("llama2-mha");
    let path = model.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    added.push(
        json!({"id": 9000, "content": "x\u{202e}y\u{301}", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": false}),
    );
    fs::write(&path, tokenizer.to_string()).unwrap();
    let model = model.path().to_str().unwrap();
    let tokens = run(&["tokens", "--model", model, "--prompt", "x\u{202e}y\u{301}"]);
    let last = tokens.stdout.lines().last().unwrap().to_owned();
    let want = "\tx\\u{202e}y\u{301}".to_owned();
    assert!(last.ends_with(&want), "{last}");
}

#[test]
fn the_environment_is_checked() {
    for (name, value, says) in [
        ("SELFIE_CUDA_GRAPHS", "maybe", "on or off"),
        ("SELFIE_CPU_PATH", "sse9", "there is no such path"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_selfie"))
            .args(["info", "--quiet"])
            .env(name, value)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(value) && error.contains(says), "{error}");
    }
}

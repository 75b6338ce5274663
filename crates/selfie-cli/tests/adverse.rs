//! Every command where something is in its way: too little memory, a reader that has gone, a full disk, files that
//! cannot be read, a signal at any time. It ends with one line, by no signal, and what was complete stays so.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use common::{Folder, run};

/// A command that ends by itself.
struct Case {
    args: Vec<String>,
    /// What it writes, beside stdout.
    out: Option<String>,
}

/// Every command, on the demo checkpoint. `score`, which needs a second model, has its own tests.
fn every_command(folder: &Folder) -> Vec<Case> {
    let prompt = "[INST] What is the capital of the country of the Colosseum? [/INST]";
    let text: String = (0..12)
        .map(|n| format!("[INST] What is {n} of Rome? [/INST]\n"))
        .collect();
    let lines = folder.write("lines.txt", &text);
    let facts = folder.write("facts.csv", "prompt,attribute\nRome is in,Italy\n");
    let choices = folder.write("choices.csv", "prompt,question,answer\nRome,where,Italy\n");
    let rewrites = folder.write(
        "rewrites.csv",
        "prompt,target,paraphrases,neighbours\nRome is in,Italy,Rome lies in,Paris is in\n",
    );
    let at = |name: &str| folder.at(name);
    let of_prompt = ["--prompt", prompt];
    let short = ["--max-new-tokens", "4"];
    let cells = ["--layers", "1,3", "--tokens", "-2.."];
    let control = [
        "--layer",
        "2",
        "--steps",
        "2",
        "--reward-words",
        "e",
        "--push",
        "always",
    ];
    let supervised = [
        "--prompt",
        "a b",
        "--source",
        "2:1",
        "--target-prompt",
        "a c",
        "--target",
        "2:1",
        "--steps",
        "2",
        "--write",
        "last",
    ];

    // What other commands read.
    let (trace, rows, swept) = (at("trace.safetensors"), at("rows.jsonl"), at("swept"));
    let (edit, map) = (at("edit.safetensors"), at("map.safetensors"));
    let fit = ["--from", "3", "--to", "1", "--prompts", &lines];
    let made: [(&str, &[&[&str]]); 5] = [
        ("trace --out", &[&[&trace], &of_prompt]),
        ("interpret --out", &[&[&rows], &of_prompt, &short, &cells]),
        (
            "sweep --out",
            &[&[&swept, "--prompts", &lines], &short, &cells],
        ),
        ("control supervised --out", &[&[&edit], &supervised]),
        ("map fit --out", &[&[&map], &fit]),
    ];
    for (words, args) in made {
        let words: Vec<&str> = words.split(' ').collect();
        let args = [&words[..], &args.concat(), &["--quiet"]].concat();
        let outcome = run(&args);
        assert_eq!(outcome.code, 0, "{args:?}: {}", outcome.stderr);
    }

    let mut cases = Vec::new();
    let mut add = |words: &str, args: &[&[&str]], out: Option<&str>| {
        let mut args = [&words.split(' ').collect::<Vec<_>>()[..], &args.concat()].concat();
        let out = out.map(at);
        if let Some(out) = &out {
            args.extend(["--out", out]);
        }
        let args = args.into_iter().map(str::to_owned).collect();
        cases.push(Case { args, out });
    };
    add("info --quiet", &[], None);
    add("tokens --quiet", &[&of_prompt], None);
    add("generate --quiet", &[&of_prompt, &short], None);
    add(
        "trace --quiet",
        &[&of_prompt],
        Some("new-trace.safetensors"),
    );
    add("interpret --quiet", &[&of_prompt, &short, &cells], None);
    for end in ["jsonl", "csv", "parquet", "html", "svg", "txt"] {
        add(
            "interpret --quiet",
            &[&of_prompt, &short, &cells],
            Some(&format!("new.{end}")),
        );
    }
    let vectors = ["--vectors", &trace, "--tensor", "hidden_states"];
    add("interpret-vectors --quiet", &[&vectors, &short], None);
    add(
        "sweep --quiet --prompts",
        &[&[&lines], &short, &cells],
        Some("new-sweep"),
    );
    add("merge --quiet", &[&[&swept]], None);
    add("merge --quiet", &[&[&swept]], Some("merged.parquet"));
    add("report", &[&[&rows]], Some("report.html"));
    add(
        "control supervised --quiet",
        &[&supervised],
        Some("new-edit.safetensors"),
    );
    add(
        "control reinforce --quiet",
        &[&of_prompt, &control, &short],
        Some("new-edit-2.safetensors"),
    );
    let scan = [
        "--layers",
        "1..=2",
        "--table",
        &at("table.jsonl"),
        "supervised",
        "--quiet",
    ];
    add("control scan", &[&scan, &supervised], None);
    add("edit show", &[&[&edit]], None);
    add("edit export --quiet", &[&[&edit]], Some("exported"));
    add(
        "eval facts --quiet --data",
        &[&[&facts], &short],
        Some("facts-out.csv"),
    );
    add("eval choices --quiet --data", &[&[&choices], &short], None);
    add(
        "eval behaviours --quiet --words e --data",
        &[&[&lines], &short],
        None,
    );
    add(
        "eval rewrites --quiet --data",
        &[&[&rewrites], &short],
        None,
    );
    add(
        "eval drift --quiet --data",
        &[&[&lines], &["--edit", &edit]],
        Some("drift.csv"),
    );
    add("reader show", &[&[&map]], None);
    add(
        "map fit --quiet --from 3 --to 1 --prompts",
        &[&[&lines]],
        Some("new-map.safetensors"),
    );
    cases
}

/// `sh -c 'SETTING; exec selfie ARGS'`
fn under(setting: &str, args: &[String]) -> Command {
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("{setting}; exec \"$@\""))
        .args(["sh", env!("CARGO_BIN_EXE_selfie")])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Ended by itself, with nothing but one line of an error, if it failed. Returns that line.
#[track_caller]
fn said(output: &Output, what: &str) -> Option<String> {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.signal(), None, "{what}: {error}");
    if output.status.success() {
        return None;
    }
    let lines: Vec<&str> = error.lines().collect();
    assert!(
        lines.len() == 1 && lines[0].starts_with("error: "),
        "{what}: {error:?}"
    );
    assert!(!error.contains("internal error"), "{what}: {error}");
    Some(lines[0].to_owned())
}

fn remove(path: &str) {
    let path = Path::new(path);
    let _ = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
}

#[test]
fn too_little_memory_is_told_in_a_line() {
    let folder = Folder::new();
    let (mut refused, mut done) = (0, 0);
    for Case { args, out } in every_command(&folder) {
        // From less than the program's own code to more than it needs.
        for megabytes in [48, 64, 80, 100, 130, 170, 220, 300, 500] {
            let output = under(&format!("ulimit -v {}", megabytes * 1024), &args)
                .output()
                .unwrap();
            match said(&output, &format!("{megabytes} MB: {args:?}")) {
                Some(_) => refused += 1,
                None => done += 1,
            }
            let names = folder.names();
            assert!(
                names.iter().all(|name| !name.contains("partial")),
                "{args:?}: {names:?}"
            );
            out.iter().for_each(|out| remove(out));
        }
    }
    assert!(
        refused > 50 && done > 50,
        "{refused} are refused, {done} are done"
    );
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let folder = Folder::new();
    for Case { args, out } in every_command(&folder) {
        let mut child = under(":", &args).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(said(&output, &format!("{args:?}")), None, "{args:?}");
        out.iter().for_each(|out| remove(out));
    }
}

#[test]
fn a_full_disk_is_told_in_a_line() {
    let folder = Folder::new();
    let mut full = 0;
    for Case { args, out } in every_command(&folder) {
        let output = under("exec >/dev/full", &args).output().unwrap();
        match said(&output, &format!("{args:?}")) {
            Some(error) => {
                assert!(error.contains("No space left"), "{args:?}: {error}");
                full += 1;
            }
            None => assert!(
                out.is_some(),
                "{args:?}: what was printed is lost, and nothing says so"
            ),
        }
        let Some(out) = out else {
            continue;
        };
        remove(&out);
        // No file may grow beyond 512 bytes: the disk is full in the middle of a write.
        let output = under("trap '' XFSZ; ulimit -f 1", &args).output().unwrap();
        if let Some(error) = said(&output, &format!("{args:?}")) {
            assert!(error.contains("File too large"), "{args:?}: {error}");
            let is_there = Path::new(&out).is_file();
            assert!(!is_there, "{args:?}: {out} is there, and cannot be whole");
            full += 1;
        }
        remove(&out);
        for left in folder
            .names()
            .iter()
            .filter(|name| name.contains("partial"))
        {
            remove(&folder.at(left));
        }
    }
    assert!(full > 20, "{full}");
}

/// A file that is not there, one that is a folder, and one whose bytes cannot be read.
#[test]
fn inputs_that_cannot_be_read_are_named() {
    let folder = Folder::new();
    let (missing, directory) = (folder.at("missing"), folder.at("swept/.."));
    for Case { args, out } in every_command(&folder) {
        let inputs = args
            .iter()
            .enumerate()
            .filter(|(_, arg)| Path::new(arg).is_file() && Some(*arg) != out.as_ref());
        for (at, _) in inputs {
            for bad in [missing.as_str(), directory.as_str(), "/proc/self/mem"] {
                let mut args = args.clone();
                bad.clone_into(&mut args[at]);
                let output = under(":", &args).output().unwrap();
                let error = said(&output, &format!("{args:?}"));
                let error = error.unwrap_or_else(|| panic!("{args:?}: it succeeds"));
                assert!(error.contains(bad), "{args:?}: {error}");
                assert!(output.stdout.is_empty(), "{args:?}");
                out.iter()
                    .for_each(|out| assert!(!Path::new(out).exists(), "{args:?}"));
            }
        }
    }
}

/// A file or folder that has its own name is whole.
#[track_caller]
fn assert_whole(path: &str, what: &str) {
    let whole = match path.rsplit_once('.').map(|(_, end)| end) {
        Some("safetensors") => {
            let bytes = fs::read(path).unwrap();
            safetensors::SafeTensors::deserialize(&bytes).is_ok()
        }
        Some("jsonl" | "parquet") => {
            let page = format!("{path}.html");
            let rows = run(&["report", path, "--out", &page]);
            remove(&page);
            // The rows that were done may be none.
            rows.code == 0
                || rows.stderr.contains("no rows")
                || fs::metadata(path).unwrap().len() == 0
        }
        Some("html") => fs::read_to_string(path)
            .unwrap()
            .trim_end()
            .ends_with("</html>"),
        Some("svg") => fs::read_to_string(path)
            .unwrap()
            .trim_end()
            .ends_with("</svg>"),
        Some("csv" | "txt") => {
            let text = fs::read_to_string(path).unwrap();
            text.is_empty() || text.ends_with('\n')
        }
        _ if path.ends_with("sweep") => {
            let merged = run(&["merge", path]);
            merged.code == 0 || merged.stderr.contains("rows are missing")
        }
        _ => run(&["info", "--quiet", "--model", path]).code == 0,
    };
    assert!(whole, "{what}: {path} is not whole");
}

#[test]
fn a_signal_at_any_time_leaves_nothing_half_done() {
    let folder = Folder::new();
    let mut random = fastrand::Rng::with_seed(7);
    let mut cases = every_command(&folder);
    cases.retain(|case| case.out.is_some());
    let checkpoint = folder.at("checkpoint");
    let tokenizer = common::dir("llama2-mha");
    let words = [
        "random-checkpoint",
        "--shape",
        "smollm2-135m",
        "--tokenizer",
    ];
    let args = [
        &words[..],
        &[tokenizer.to_str().unwrap(), "--out", &checkpoint],
    ]
    .concat();
    cases.push(Case {
        args: args.into_iter().map(str::to_owned).collect(),
        out: Some(checkpoint),
    });
    for Case { args, out } in cases {
        let out = out.unwrap();
        let (mut stopped, mut latest) = (0, 400);
        for name in ["INT", "TERM"].into_iter().cycle() {
            let mut child = Command::new("env")
                .args(["--default-signal=INT,TERM", env!("CARGO_BIN_EXE_selfie")])
                .args(&args)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            sleep(Duration::from_millis(random.u64(0..=latest)));
            let id = child.id().to_string();
            let _ = Command::new("kill")
                .args(["-s", name, &id])
                .stderr(Stdio::null())
                .status();
            let mut error = String::new();
            child
                .stderr
                .take()
                .unwrap()
                .read_to_string(&mut error)
                .unwrap();
            let status = child.wait().unwrap();
            let what = format!("{name}: {args:?}: {status}: {error}");
            match (status.signal(), status.code()) {
                // Before it listens, or where there is nothing to keep.
                (Some(_), _) => assert_eq!(error, "", "{what}"),
                (None, Some(0)) => {}
                (None, _) => {
                    assert!(
                        error.starts_with("error: ") && error.lines().count() == 1,
                        "{what}"
                    );
                    assert!(error.contains("interrupted"), "{what}");
                }
            }
            if Path::new(&out).exists() {
                assert_whole(&out, &what);
            }
            for name in folder.names() {
                if folder.path(&name) == Path::new(&out) || name.contains("partial") {
                    remove(&folder.at(&name));
                }
            }
            if status.success() {
                // It ended before the signal came. How long a command takes differs from machine to machine.
                latest /= 2;
            } else {
                stopped += 1;
            }
            if stopped == 4 {
                break;
            }
        }
    }
}

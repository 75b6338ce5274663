//! `selfie serve`: its rows are those of `selfie interpret`, and the examples in its documentation run.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::run;
use serde_json::Value;

const PROMPT: &str = "[INST] What is the capital of the country of the Colosseum? [/INST]";

/// The program, serving on its own port.
struct Served {
    child: Child,
    at: String,
}

impl Served {
    fn new(args: &[&str]) -> Self {
        // The test runner may have been started to ignore signals.
        let mut child = Command::new("env")
            .args([
                "--default-signal=INT,HUP,TERM",
                env!("CARGO_BIN_EXE_selfie"),
            ])
            .args(["serve", "--quiet", "--port", "0"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.strip_prefix("http://").unwrap();
        let at = address.split('/').next().unwrap().to_owned();
        Self { child, at }
    }

    fn signal(&mut self, name: &str) -> i32 {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
        self.child.wait().unwrap().code().unwrap()
    }

    /// The answer to a request, with a JSON body if there is one.
    fn curl(&self, path: &str, body: Option<&Value>) -> String {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--no-buffer",
        ]);
        if let Some(body) = body {
            curl.args([
                "-H",
                "content-type: application/json",
                "-d",
                &body.to_string(),
            ]);
        }
        let output = curl
            .arg(format!("http://{}{path}", self.at))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{path}: {text}");
        text
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rows(events: &str) -> Vec<String> {
    let rows = events
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("event: row\ndata: "));
    rows.map(str::to_owned).collect()
}

#[test]
fn rows_are_those_of_the_program() {
    let served = Served::new(&[]);
    let tokens = served.curl("/tokenize", Some(&serde_json::json!({"prompt": PROMPT})));
    let prompt = serde_json::from_str::<Value>(&tokens).unwrap()["prompt"].clone();
    let cases: [(&[&str], Value); 3] = [
        (&["--tokens", "all"], serde_json::json!({})),
        (
            &[
                "--tokens",
                "all",
                "--controls",
                "none,random,shuffled",
                "--temperature",
                "0.8",
                "--seed",
                "5",
            ],
            serde_json::json!({"controls": ["none", "random", "shuffled"], "temperature": 0.8, "seed": 5}),
        ),
        (
            &[
                "--tokens",
                "8",
                "--template",
                "meaning",
                "--mode",
                "add",
                "--strength",
                "0.3",
                "--max-new-tokens",
                "9",
            ],
            serde_json::json!({"tokens": [8], "template": "meaning", "mode": "add", "strength": 0.3,
                               "max_new_tokens": 9}),
        ),
    ];
    // All clients at once.
    let got: Vec<String> = std::thread::scope(|scope| {
        let asking = cases.iter().map(|(_, body)| {
            let mut body = body.clone();
            body["prompt"] = prompt.clone();
            let served = &served;
            scope.spawn(move || served.curl("/interpret", Some(&body)))
        });
        let asking: Vec<_> = asking.collect();
        asking.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for ((args, _), got) in cases.iter().zip(got) {
        let base = [
            "interpret",
            "--quiet",
            "--prompt",
            PROMPT,
            "--format",
            "jsonl",
        ];
        let outcome = run(&[&base[..], args].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let want: Vec<&str> = outcome.stdout.lines().collect();
        assert_eq!(rows(&got), want, "{args:?}");
    }
}

#[test]
fn signals_end_it_cleanly() {
    for name in ["INT", "TERM"] {
        assert_eq!(Served::new(&[]).signal(name), 0, "{name}");
    }
}

#[test]
fn a_taken_port_is_reported() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let outcome = run(&["serve", "--quiet", "--port", &port]);
    assert_eq!(outcome.code, 2);
    assert!(
        outcome
            .stderr
            .contains(&format!("cannot listen on 127.0.0.1:{port}")),
        "{}",
        outcome.stderr
    );
    assert!(TcpStream::connect(("127.0.0.1", taken.local_addr().unwrap().port())).is_ok());
}

/// Runs the examples of docs/src/serve.md as they stand, in order, against this server's port.
#[test]
fn the_examples_of_the_documentation_run() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/serve.md");
    let text = fs::read_to_string(Path::new(&path)).unwrap();
    let served = Served::new(&[]);
    let blocks = text.split("```sh,server\n").skip(1);
    let examples: Vec<&str> = blocks
        .map(|block| block.split("```").next().unwrap())
        .collect();
    assert_eq!(examples.len(), 7);
    for example in examples {
        let script = example
            .replace("localhost:7979", &served.at)
            .replace("curl ", "curl --fail-with-body ");
        let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{example}{said}");
        assert!(!said.contains("event: error"), "{example}{said}");
    }
}

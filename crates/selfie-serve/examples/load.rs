//! A load test: `load SELFIE [SECONDS] [CLIENTS]` starts `SELFIE serve` with the demo checkpoint, and lets many clients
//! query it at once. Every requested row must arrive. The results are those of the server.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, PROMPT, events, rows};
use serde_json::json;

/// Totals over all clients.
#[derive(Default)]
struct Counts {
    requests: AtomicUsize,
    rows: AtomicUsize,
    refused: AtomicUsize,
}

fn main() {
    let mut args = std::env::args().skip(1);
    let selfie = args.next().expect("load SELFIE [SECONDS] [CLIENTS]");
    let mut number = |otherwise: usize| {
        args.next()
            .map_or(otherwise, |n| n.parse().expect("a number"))
    };
    let (seconds, clients) = (number(30), number(200));
    let mut server = Command::new(selfie)
        .args(["serve", "--quiet", "--port", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut line = String::new();
    let stdout = server.stdout.take().expect("a pipe");
    BufReader::new(stdout)
        .read_line(&mut line)
        .expect("its address");
    let at = line
        .trim_start_matches("http://")
        .split('/')
        .next()
        .expect("its address");
    let client = Client {
        at: at.parse().expect("its address"),
    };

    let counts = Counts::default();
    // Warm up, so that one-time allocations do not count.
    ask_for(&client, clients, Duration::from_secs(3), &Counts::default());
    let before = resident(&server);
    let began = Instant::now();
    ask_for(
        &client,
        clients,
        Duration::from_secs(seconds as u64),
        &counts,
    );
    let took = began.elapsed().as_secs_f64();
    client.wait_until_idle(Duration::from_secs(5));
    let after = resident(&server);
    let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    println!(
        "{clients} clients, {took:.1} s: {} requests, {} rows, {:.1} rows/s, {} told to come back; \
         resident {before:.1} MB at first, {after:.1} MB at the end",
        of(&counts.requests),
        of(&counts.rows),
        of(&counts.rows) as f64 / took,
        of(&counts.refused),
    );
    server.kill().expect("the server was there to the end");
    let _ = server.wait();
}

fn ask_for(client: &Client, clients: usize, time: Duration, counts: &Counts) {
    let until = Instant::now() + time;
    thread::scope(|scope| {
        for number in 0..clients {
            scope.spawn(move || {
                let prompt = client.tokenize(PROMPT);
                for turn in number.. {
                    if Instant::now() >= until {
                        return;
                    }
                    let (layer, templates) = (turn % 7, ["summarize", "repeat", "meaning"]);
                    let body = json!({
                        "prompt": prompt, "layers": [layer], "tokens": [1, 8, 15], "template": templates[turn % 3],
                        "seed": turn, "temperature": 0.7, "max_new_tokens": 12, "controls": ["random"],
                    });
                    let (status, text) = client.post_text("/interpret", &body.to_string());
                    if status == 503 {
                        counts.refused.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_secs(1));
                        continue;
                    }
                    assert_eq!(status, 200, "{text}");
                    let rows = rows(&events(&text));
                    assert_eq!(rows.len(), 3, "{text}");
                    counts.requests.fetch_add(1, Ordering::Relaxed);
                    counts.rows.fetch_add(rows.len(), Ordering::Relaxed);
                }
            });
        }
    });
}

/// The memory of a process, in MB.
fn resident(process: &Child) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).expect("Linux");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("a process");
    let kilobytes: f64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    kilobytes / 1024.0
}

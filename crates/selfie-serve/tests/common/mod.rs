//! A server on the demo checkpoint, and a client.
#![allow(dead_code, unreachable_pub)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use selfie::{Device, DeviceOptions, Model, OpenOptions, Opened, Source};
use selfie_serve::{Address, Limits, Server};
use serde_json::{Value, json};

pub const PROMPT: &str = "[INST] What is the capital of the country of the Colosseum? [/INST]";

pub fn options(edits: &[PathBuf]) -> OpenOptions {
    OpenOptions {
        device: DeviceOptions {
            device: Device::Cpu,
            ..DeviceOptions::default()
        },
        edits: edits.to_vec(),
        ..OpenOptions::default()
    }
}

pub fn model(edits: &[PathBuf]) -> Model {
    let opened = Opened::new(Source::Demo, options(edits)).unwrap();
    opened.load_unedited(&mut ()).unwrap()
}

/// A client of a server.
pub struct Client {
    pub at: SocketAddr,
}

/// A server that stops when dropped.
pub struct Served {
    client: Client,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    pub fn new(limits: Limits) -> Self {
        Self::with(model(&[]), limits)
    }

    pub fn with(model: Model, limits: Limits) -> Self {
        let address = Address {
            port: 0,
            ..Address::default()
        };
        let command = vec!["selfie".to_owned(), "interpret".to_owned()];
        let server = Server::bind(model, &address, limits, command).unwrap();
        let at = server.address();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let run = move || server.run(|| asked.load(Ordering::Relaxed)).unwrap();
        Self {
            client: Client { at },
            stop,
            thread: Some(thread::spawn(run)),
        }
    }
}

impl Deref for Served {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Client {
    /// The status and JSON of an answer.
    pub fn get(&self, path: &str) -> (u16, Value) {
        let (status, text) = self.raw(&format!("GET {path} HTTP/1.1\r\nhost: localhost"), "");
        (status, serde_json::from_str(&text).unwrap())
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.post_text(path, &body.to_string());
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub fn post_text(&self, path: &str, body: &str) -> (u16, String) {
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json");
        self.raw(&head, body)
    }

    /// Sends an incomplete head, and a body; returns the status and text of the answer.
    pub fn raw(&self, head: &str, body: &str) -> (u16, String) {
        let mut stream = self.send(head, body);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        (
            status,
            if chunked {
                unchunk(text)
            } else {
                text.to_owned()
            },
        )
    }

    pub fn send(&self, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.at).unwrap();
        let length = body.len();
        let rest = format!("\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
        stream
            .write_all(format!("{head}{rest}").as_bytes())
            .unwrap();
        stream
    }

    pub fn tokenize(&self, text: &str) -> String {
        let (status, tokens) = self.post("/tokenize", &json!({"prompt": text}));
        assert_eq!(status, 200, "{tokens}");
        tokens["prompt"].as_str().unwrap().to_owned()
    }

    /// The events of an answer: their names and raw data.
    pub fn events(&self, path: &str, body: &Value) -> Vec<(String, String)> {
        let (status, text) = self.post_text(path, &body.to_string());
        assert_eq!(status, 200, "{text}");
        events(&text)
    }

    /// The first lines of a stream that stays open.
    pub fn open_stream(&self, path: &str, body: &Value) -> BufReader<TcpStream> {
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json");
        let mut reader = BufReader::new(self.send(&head, &body.to_string()));
        let mut line = String::new();
        while !line.starts_with("data: ") {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "no event comes");
        }
        reader
    }

    /// Waits until no requests are left.
    pub fn wait_until_idle(&self, most: Duration) {
        let began = Instant::now();
        loop {
            let (_, health) = self.get("/healthz");
            if health["requests"] == 0 {
                return;
            }
            assert!(began.elapsed() < most, "{health}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

fn unchunk(text: &str) -> String {
    let (mut whole, mut left) = (Vec::new(), text.as_bytes());
    loop {
        let end = left.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = std::str::from_utf8(&left[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return String::from_utf8(whole).unwrap();
        }
        whole.extend_from_slice(&left[end + 2..end + 2 + size]);
        left = &left[end + 4 + size..];
    }
}

pub fn events(text: &str) -> Vec<(String, String)> {
    let event = |part: &str| {
        let name = part.lines().find_map(|line| line.strip_prefix("event: "))?;
        let data: Vec<&str> = part
            .lines()
            .filter_map(|l| l.strip_prefix("data: "))
            .collect();
        Some((name.to_owned(), data.join("\n")))
    };
    text.split("\n\n").filter_map(event).collect()
}

/// The rows among the events, which must end with `done`.
pub fn rows(events: &[(String, String)]) -> Vec<String> {
    let (last, rows) = events.split_last().unwrap();
    assert_eq!(last.0, "done", "{last:?}");
    assert!(rows.iter().all(|(name, _)| name == "row"));
    rows.iter().map(|(_, row)| row.clone()).collect()
}

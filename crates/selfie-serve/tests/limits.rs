//! What the server refuses, and what it drops.

mod common;

use std::io::Read;
use std::time::{Duration, Instant};

use common::{PROMPT, Served};
use selfie_serve::Limits;
use serde_json::{Value, json};

fn message(problem: &Value, status: u16) -> &str {
    assert_eq!(problem["error"]["status"], status, "{problem}");
    problem["error"]["message"].as_str().unwrap()
}

/// A long request: batches of one text, twenty samples of 112 cells.
fn long(prompt: &str) -> Value {
    json!({"prompt": prompt, "temperature": 1.0, "samples": 20, "max_new_tokens": 60})
}

fn slow() -> Limits {
    Limits {
        batch_size: Some(1),
        ..Limits::default()
    }
}

#[test]
fn pages_from_other_sites_are_refused() {
    let served = Served::new(Limits::default());
    let json = "content-type: application/json";
    let body = r#"{"prompt": "Rome"}"#;
    for (head, want) in [
        (
            format!(
                "POST /tokenize HTTP/1.1\r\nhost: localhost:7979\r\n{json}\r\norigin: http://localhost:7979"
            ),
            200,
        ),
        (
            format!(
                "POST /tokenize HTTP/1.1\r\nhost: localhost:7979\r\n{json}\r\norigin: http://evil.example"
            ),
            403,
        ),
        (
            format!("POST /tokenize HTTP/1.1\r\nhost: localhost:7979\r\n{json}\r\norigin: null"),
            403,
        ),
        (
            format!("POST /tokenize HTTP/1.1\r\nhost: evil.example\r\n{json}"),
            403,
        ),
        (format!("POST /tokenize HTTP/1.1\r\n{json}"), 400),
        // A form on another site can send this without asking.
        (
            "POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain".to_owned(),
            415,
        ),
        ("POST /tokenize HTTP/1.1\r\nhost: localhost".to_owned(), 415),
        ("GET / HTTP/1.1\r\nhost: evil.example".to_owned(), 403),
        (
            "GET /nothing HTTP/1.1\r\nhost: evil.example".to_owned(),
            403,
        ),
        (
            "GET /settings HTTP/1.1\r\nhost: localhost\r\nsec-fetch-site: cross-site".to_owned(),
            403,
        ),
    ] {
        let body = if head.starts_with("POST") { body } else { "" };
        let (status, text) = served.raw(&head, body);
        assert_eq!(status, want, "{head}: {text}");
    }
}

#[test]
fn problems_are_reported() {
    let served = Served::new(Limits {
        prompt_tokens: 40,
        rows: 200,
        ..Limits::default()
    });
    let prompt = served.tokenize(PROMPT);
    for (path, body, status, said) in [
        ("/tokenize", json!({}), 400, "either prompt or chat"),
        (
            "/tokenize",
            json!({"prompt": ""}),
            400,
            "the prompt is empty",
        ),
        (
            "/tokenize",
            json!({"prompt": "Rome ".repeat(50)}),
            413,
            "this server accepts at most 40",
        ),
        ("/tokenize", json!({"chat": []}), 400, "message"),
        (
            "/tokenize",
            json!({"prompt": "a", "path": "/etc/passwd"}),
            400,
            "path",
        ),
        ("/interpret", json!({"prompt": "p0"}), 404, "/tokenize"),
        (
            "/interpret",
            json!({"prompt": prompt, "cells": [[9, 0]]}),
            400,
            "layer 9 is out of range",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "cells": [[1, 16]]}),
            400,
            "token 16 is out of range",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "cells": []}),
            400,
            "no cells",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "cells": [[1, 1]], "layers": [1]}),
            400,
            "not both",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "template": "nothing"}),
            400,
            "nothing",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "mode": "nothing"}),
            400,
            "nothing",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "controls": ["nothing"]}),
            400,
            "nothing",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "inject_layer": 6}),
            400,
            "inject layer 6 is out of range",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "temperature": -1.0}),
            400,
            "temperature",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "cells": [[1, 1]], "samples": 2}),
            400,
            "temperature",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "samples": 2, "temperature": 1.0}),
            413,
            "200",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "max_new_tokens": 0}),
            400,
            "max_new_tokens",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "max_new_tokens": 129}),
            400,
            "has room for",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "interpretation_prompt": ["no placeholder"]}),
            400,
            "placeholder",
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "strength": "much"}),
            400,
            "much",
        ),
        (
            "/score",
            json!({"prompt": prompt, "text": ""}),
            400,
            "0 tokens",
        ),
        (
            "/generate",
            json!({"prompt": prompt, "max_new_tokens": 0}),
            400,
            "max_new_tokens",
        ),
        (
            "/generate",
            json!({"prompt": prompt, "steer": [{"layer": 7, "token": 0}]}),
            400,
            "layers 0..=6",
        ),
        (
            "/generate",
            json!({"prompt": prompt, "steer": [{"layer": 1, "token": 16}]}),
            400,
            "token 16",
        ),
    ] {
        let (got, problem) = served.post(path, &body);
        assert_eq!(got, status, "{path} {body}: {problem}");
        assert!(
            message(&problem, status).contains(said),
            "{path} {body}: {problem}"
        );
    }
    let (status, text) = served.post_text("/tokenize", "{");
    assert_eq!(status, 400);
    assert!(text.contains("the body"), "{text}");
    let (status, text) = served.post_text(
        "/tokenize",
        &json!({"prompt": "a".repeat(300 << 10)}).to_string(),
    );
    assert_eq!(status, 413, "{text}");
    served.wait_until_idle(Duration::from_secs(60));
}

#[test]
fn a_departed_clients_work_stops() {
    let served = Served::new(slow());
    let prompt = served.tokenize(PROMPT);
    let streams: Vec<_> = (0..3)
        .map(|_| served.open_stream("/interpret", &long(&prompt)))
        .collect();
    assert_eq!(served.get("/healthz").1["requests"], 3);
    // A client that stays gets its rows in between.
    let stays = json!({"prompt": prompt, "cells": [[3, 8]]});
    let alone = served.events("/interpret", &stays);
    assert_eq!(alone.len(), 2, "{alone:?}");
    drop(streams);
    served.wait_until_idle(Duration::from_secs(60));
    // Afterwards the reader works as before.
    assert_eq!(served.events("/interpret", &stays), alone);
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let served = Served::new(Limits {
        requests: 2,
        ..slow()
    });
    let prompt = served.tokenize(PROMPT);
    let streams: Vec<_> = (0..2)
        .map(|_| served.open_stream("/interpret", &long(&prompt)))
        .collect();
    let body = json!({"prompt": prompt, "cells": [[1, 1]]}).to_string();
    let head = "POST /interpret HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
    let mut answer = String::new();
    served
        .send(head, &body)
        .read_to_string(&mut answer)
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.to_lowercase().contains("\r\nretry-after: 1\r\n"),
        "{answer}"
    );
    // Requests that do not need the model are still answered.
    served.tokenize("Rome");
    drop(streams);
    served.wait_until_idle(Duration::from_secs(60));
    assert_eq!(served.post_text("/interpret", &body).0, 200);
}

#[test]
fn a_request_ends_at_its_time_limit() {
    let served = Served::new(Limits {
        seconds: 1,
        ..slow()
    });
    let prompt = served.tokenize(PROMPT);
    let events = served.events("/interpret", &long(&prompt));
    let (name, data) = events.last().unwrap();
    assert_eq!(name, "error", "{data}");
    let problem: Value = serde_json::from_str(data).unwrap();
    assert!(message(&problem, 504).contains("1 s"), "{problem}");
    served.wait_until_idle(Duration::from_secs(60));
}

#[test]
fn least_recently_used_prompts_are_forgotten() {
    let served = Served::new(Limits {
        prompts: 2,
        ..Limits::default()
    });
    let [first, second] = ["Rome", "Paris"].map(|text| served.tokenize(text));
    assert_eq!(served.tokenize("Rome"), first);
    served.tokenize("Berlin");
    let status = |prompt: &str| {
        served
            .post_text(
                "/states",
                &json!({"prompt": prompt, "cells": [[0, 0]]}).to_string(),
            )
            .0
    };
    assert_eq!((status(&first), status(&second)), (200, 404));
}

/// More interpretation prompts than the reader has room for, one after the other.
#[test]
fn interpretation_prompts_make_room_for_others() {
    let served = Served::new(Limits::default());
    let prompt = served.tokenize(PROMPT);
    for number in 0..20 {
        let parts = json!(["[INST]", 0, format!("[/INST] number {number}:")]);
        let body = json!({"prompt": prompt, "cells": [[2, 2]], "interpretation_prompt": parts, "max_new_tokens": 3});
        assert_eq!(served.events("/interpret", &body).len(), 2);
    }
}

#[test]
fn a_server_that_stops_tells_its_clients() {
    let served = Served::new(slow());
    let prompt = served.tokenize(PROMPT);
    let mut stream = served.open_stream("/interpret", &long(&prompt));
    let began = Instant::now();
    drop(served);
    assert!(began.elapsed() < Duration::from_secs(30));
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("the server is stopping"), "{rest}");
}

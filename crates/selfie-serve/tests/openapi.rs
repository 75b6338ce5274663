//! openapi.json describes exactly what the server does.

mod common;

use std::collections::BTreeSet;

use common::{PROMPT, Served};
use selfie_serve::{Limits, OPENAPI, paths};
use serde_json::{Value, json};

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(name) => document.pointer(name.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    }
}

/// Checks a value against a schema of the document: types, and exactly the described fields.
fn agree(document: &Value, schema: &Value, value: &Value, place: &str) {
    let schema = resolve(document, schema);
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().map(|one| one.as_str().unwrap()).collect(),
        other => panic!("{place}: no type: {other}"),
    };
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = types.contains(&found) || (found == "integer" && types.contains(&"number"));
    assert!(fits, "{place}: {found} is not in {types:?}: {value}");
    if let Value::Array(items) = value {
        for (at, item) in items.iter().enumerate() {
            agree(document, &schema["items"], item, &format!("{place}[{at}]"));
        }
    }
    if let (Value::Object(object), Some(properties)) = (value, schema["properties"].as_object()) {
        let there: BTreeSet<&str> = object.keys().map(String::as_str).collect();
        let said: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
        let missing: Vec<_> = said.difference(&there).collect();
        assert!(missing.is_empty(), "{place}: {missing:?} are not there");
        let more: Vec<_> = there.difference(&said).collect();
        assert!(
            more.is_empty() || schema["additionalProperties"] == true,
            "{place}: {more:?} are not described"
        );
        for (name, field) in properties {
            agree(document, field, &object[name], &format!("{place}.{name}"));
        }
    }
}

#[test]
fn every_path_and_verb_is_described_and_there() {
    let document = document();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, verbs)| {
            verbs
                .as_object()
                .unwrap()
                .keys()
                .map(move |verb| (path.clone(), verb.clone()))
        })
        .collect();
    let there = paths()
        .into_iter()
        .map(|(path, verb)| (path.to_owned(), verb.to_owned()));
    assert_eq!(described, there.collect());
    let served = Served::new(Limits::default());
    for (path, verb) in paths() {
        for other in ["get", "post", "put", "delete", "patch", "options"] {
            let head = format!(
                "{} {path} HTTP/1.1\r\nhost: localhost",
                other.to_uppercase()
            );
            let (status, text) = served.raw(&head, "");
            if other == verb {
                // Posts without a body are not JSON.
                assert_eq!(
                    status,
                    if verb == "get" { 200 } else { 415 },
                    "{verb} {path}: {text}"
                );
            } else {
                assert_eq!(status, 405, "{other} {path}: {text}");
                agree(
                    &document,
                    &json!({"$ref": "#/components/schemas/Problem"}),
                    &serde_json::from_str(&text).unwrap(),
                    path,
                );
            }
        }
    }
    let (status, problem) = served.get("/elsewhere");
    assert_eq!(status, 404);
    agree(
        &document,
        &json!({"$ref": "#/components/schemas/Problem"}),
        &problem,
        "/elsewhere",
    );
}

#[test]
fn answers_have_the_fields_that_are_described() {
    let document = document();
    let served = Served::new(Limits::default());
    let schema = |path: &str, verb: &str, kind: &str| {
        let answer = &document["paths"][path][verb]["responses"]["200"]["content"][kind]["schema"];
        resolve(&document, answer).clone()
    };
    for path in ["/healthz", "/settings"] {
        let (status, value) = served.get(path);
        assert_eq!(status, 200);
        agree(
            &document,
            &schema(path, "get", "application/json"),
            &value,
            path,
        );
    }
    assert_eq!(served.get("/openapi.json").1, document);
    let prompt = served.tokenize(PROMPT);
    for (path, body) in [
        ("/tokenize", json!({"prompt": PROMPT})),
        (
            "/tokenize",
            json!({"chat": [{"role": "user", "content": "Where is Rome?"}]}),
        ),
        (
            "/score",
            json!({"prompt": prompt, "layers": [2, 3], "tokens": [8], "text": " Italy"}),
        ),
        ("/states", json!({"prompt": prompt, "cells": [[1, 1]]})),
    ] {
        let (status, value) = served.post(path, &body);
        assert_eq!(status, 200, "{value}");
        agree(
            &document,
            &schema(path, "post", "application/json"),
            &value,
            path,
        );
    }
    let cell = json!([[3, 8]]);
    for (path, body, names) in [
        (
            "/interpret",
            json!({"prompt": prompt, "cells": cell}),
            ["row", "done"],
        ),
        (
            "/interpret",
            json!({"prompt": prompt, "cells": cell, "format": "explorer"}),
            ["cells", "done"],
        ),
        (
            "/generate",
            json!({"prompt": prompt, "max_new_tokens": 1}),
            ["token", "done"],
        ),
    ] {
        let events = served.events(path, &body);
        let schema = schema(path, "post", "text/event-stream");
        let got: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(got, names);
        for (name, data) in &events {
            let data: Value = serde_json::from_str(data).unwrap();
            agree(
                &document,
                &schema["properties"][name],
                &data,
                &format!("{path} {name}"),
            );
        }
    }
}

/// Requests accept the described fields and no others.
#[test]
fn requests_have_the_fields_that_are_described() {
    let document = document();
    let served = Served::new(Limits::default());
    let prompt = served.tokenize(PROMPT);
    let value = |name: &str| match name {
        "prompt" => json!(prompt),
        "cells" => json!([[1, 1]]),
        "layers" | "tokens" => json!([1]),
        "template" => json!("repeat"),
        "interpretation_prompt" => json!(["a", 0, "b"]),
        "mode" => json!("add"),
        "temperature" => json!(0.5),
        "top_p" | "strength" | "repetition_penalty" => json!(1.0),
        "min_p" => json!(0.0),
        "relevancy" | "edits" => json!(true),
        "controls" => json!(["none"]),
        "format" => json!("rows"),
        "text" => json!(" Rome"),
        "steer" => json!([{"layer": 1, "token": 1}]),
        _ => json!(1),
    };
    for path in ["/interpret", "/score", "/generate", "/states"] {
        let request = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
            ["schema"];
        let request = resolve(&document, request);
        let base = || {
            let mut body = json!({"prompt": prompt});
            for required in request["required"].as_array().unwrap() {
                let required = required.as_str().unwrap();
                body[required] = value(required);
            }
            if path != "/generate" {
                body["cells"] = json!([[1, 1]]);
            }
            body
        };
        for field in request["properties"].as_object().unwrap().keys() {
            let mut body = base();
            if field == "layers" || field == "tokens" {
                body.as_object_mut().unwrap().remove("cells");
                body["layers"] = json!([1]);
                body["tokens"] = json!([1]);
            }
            body[field] = value(field);
            let (status, text) = served.post_text(path, &body.to_string());
            assert_eq!(status, 200, "{path} {body}: {text}");
            assert!(!text.contains("event: error"), "{path} {body}: {text}");
        }
        let mut body = base();
        body["temperatur"] = json!(1);
        let (status, problem) = served.post(path, &body);
        assert_eq!(status, 400, "{path}: {problem}");
        assert!(
            problem["error"]["message"]
                .as_str()
                .unwrap()
                .contains("temperatur"),
            "{problem}"
        );
    }
}

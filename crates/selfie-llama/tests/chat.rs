//! Compares chat templates with transformers' renderings; see `chat/reference.py`.

use std::fs;
use std::path::{Path, PathBuf};

use chrono::Local;
use selfie_llama::{Bos, ChatEnd, ChatMessage, ChatTemplate, LlamaError, Tokenizer};
use serde_json::{Map, Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chat")
}

fn reference() -> Value {
    serde_json::from_str(&fs::read_to_string(folder().join("reference.json")).unwrap()).unwrap()
}

fn special(reference: &Value) -> Map<String, Value> {
    reference["special_tokens"].as_object().unwrap().clone()
}

/// Replaces the reference's date formats with today's date.
fn dated(text: &str) -> String {
    let mut dated = text.to_owned();
    for format in ["%d %b %Y", "%d %B %Y", "%B %d, %Y"] {
        let today = Local::now().format(format).to_string();
        dated = dated.replace(&format!("{{{{{format}}}}}"), &today);
    }
    dated
}

#[test]
fn texts_are_those_of_transformers() {
    let reference = reference();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for case in reference["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let source = fs::read_to_string(folder().join(name)).unwrap();
        let template = ChatTemplate::parse(&source, &special(&reference), name.as_ref()).unwrap();
        let messages: Vec<ChatMessage> = serde_json::from_value(case["messages"].clone()).unwrap();
        let end = match case["end"].as_str().unwrap() {
            "closed" => ChatEnd::Closed,
            "reply" => ChatEnd::Reply,
            _ => ChatEnd::Continue,
        };
        let got = template.render(&messages, end);
        let agrees = match (&got, case.get("error")) {
            (Ok(text), None) => *text == dated(case["text"].as_str().unwrap()),
            (Err(LlamaError::ChatTemplate { path, line, reason }), Some(error)) => {
                path.as_os_str() == name && line.is_some() && error == reason
            }
            (Err(LlamaError::ChatNotContinued { .. }), Some(error)) => error
                .as_str()
                .unwrap()
                .contains("does not appear in the chat"),
            _ => false,
        };
        if !agrees {
            wrong.push(format!("{case}\n  got {got:?}\n"));
        }
        checked += 1;
    }
    assert!(
        wrong.is_empty(),
        "{} of {checked}:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(6)].join("\n")
    );
    assert_eq!(
        checked,
        30 * fs::read_dir(folder())
            .unwrap()
            .filter(|file| {
                file.as_ref()
                    .unwrap()
                    .path()
                    .extension()
                    .is_some_and(|name| name == "jinja")
            })
            .count()
    );
}

fn parse(text: &str) -> Result<ChatTemplate, LlamaError> {
    ChatTemplate::parse(text, &Map::new(), "a.jinja".as_ref())
}

#[test]
fn contents_are_found_in_the_text() {
    let reference = reference();
    let mut found = 0;
    for case in reference["cases"].as_array().unwrap() {
        let (name, end) = (
            case["template"].as_str().unwrap(),
            case["end"].as_str().unwrap(),
        );
        // features.jinja writes messages as JSON, and the marks do not survive JSON escapes.
        if case.get("error").is_some() || name == "features.jinja" {
            continue;
        }
        let source = fs::read_to_string(folder().join(name)).unwrap();
        let template = ChatTemplate::parse(&source, &special(&reference), name.as_ref()).unwrap();
        let messages: Vec<ChatMessage> = serde_json::from_value(case["messages"].clone()).unwrap();
        let end = match end {
            "closed" => ChatEnd::Closed,
            "reply" => ChatEnd::Reply,
            _ => ChatEnd::Continue,
        };
        let rendered = template.render_spans(&messages, end).unwrap();
        assert_eq!(rendered.text, template.render(&messages, end).unwrap());
        let mut after = 0;
        for (message, content) in messages.iter().zip(rendered.contents) {
            let Some(content) = content else { continue };
            assert_eq!(
                rendered.text[content.clone()],
                *message.content.trim(),
                "{name}"
            );
            // Mistral's template puts the system message before the last user message.
            assert!(content.start >= after || name == "mistral.jinja", "{name}");
            after = content.end;
            found += 1;
        }
    }
    assert!(found > 500, "{found}");

    // Content that the template rewrites has no position.
    let messages = [
        ChatMessage::new("user", "Hello"),
        ChatMessage::new("user", "You"),
    ];
    let template = parse("{{ messages[1].content }} {{ messages[0].content | length }}").unwrap();
    let rendered = template.render_spans(&messages, ChatEnd::Closed).unwrap();
    assert_eq!(
        (&*rendered.text, rendered.contents),
        ("You 5", vec![None, None])
    );
    let template = parse("-{{ messages[1].content }}").unwrap();
    let rendered = template.render_spans(&messages, ChatEnd::Closed).unwrap();
    assert_eq!(
        (&*rendered.text, rendered.contents),
        ("-You", vec![None, Some(1..4)])
    );
}

#[test]
fn errors_name_the_file_and_the_line() {
    let user = [ChatMessage::new("user", "Hello")];
    let says = |result: Result<String, LlamaError>, words: &[&str]| {
        let error = result.unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{error}: {word}");
        }
    };
    let syntax = parse("a\n{% if true %}\n{{ 1 +\n }}").map(|_| String::new());
    says(syntax, &["the chat template in a.jinja, line 4: "]);
    let render = |text: &str| parse(text).unwrap().render(&user, ChatEnd::Reply);
    says(
        render("\n\n{{ raise_exception('no\\n' + messages[0].role) }}"),
        &["the chat template in a.jinja, line 3: no user"],
    );
    says(
        render("\n{{ messages[0].content.nothing() }}"),
        &["line 2: ", "nothing"],
    );
    says(render("{{ strftime_now('%Q') }}"), &["line 1: ", "%Q"]);
    let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
    says(render(endless), &["line 1: ", "fuel"]);
    // A few characters that ask for gigabytes.
    let doubled = "{% set n = namespace(x='ab') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}";
    says(render(doubled), &["line 1: ", "fuel"]);
    says(
        render("{{ messages | tojson(indent=1000000000000) }}"),
        &["indent is larger than 1000"],
    );
    let long = [
        "{{ [0] * 100000000 }}",
        "{{ [[0] * 100000000] * 100000000 }}",
        "{{ ([0] * 100000000) | tojson }}",
        "{{ {'a': [0] * 100000000} | tojson(indent=2) }}",
        "{{ ','.join([0] * 100000000) }}",
        "{{ '{}'.format([0] * 100000000) }}",
    ];
    for list in long {
        says(render(list), &["line 1: ", "fuel"]);
    }
    let nested = "{% set n = namespace(x=0) %}{% for i in range(30000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}";
    says(render(nested), &["line 1: ", "nested more than 100 deep"]);
    for wide in [
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
    ] {
        says(render(wide), &["str.format", "width"]);
    }
    assert_eq!(
        render("{{ '{:>3}'.format(1) }}{{ '{0}'.format('{') }}").unwrap(),
        "  1{"
    );
    says(
        parse("").unwrap().render(&[], ChatEnd::Reply),
        &["no message"],
    );
    says(
        parse("").unwrap().render(&user, ChatEnd::Continue),
        &["a.jinja", "last message"],
    );
    for json in [
        "{}",
        r#"[{"role": "user"}]"#,
        r#"[{"role": "user", "content": "a", "name": "b"}]"#,
    ] {
        says(
            ChatMessage::list_from_json(json).map(|_| String::new()),
            &["JSON list", "line 1"],
        );
    }
}

#[test]
fn templates_are_found_where_transformers_finds_them() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama2-mha");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(golden.join(name), path(name)).unwrap();
    }
    let config = fs::read_to_string(path("tokenizer_config.json")).unwrap();
    let config: Map<String, Value> = serde_json::from_str(&config).unwrap();
    let tokenizer = Tokenizer::open(dir.path()).unwrap();
    let rendered = || -> Result<Option<String>, LlamaError> {
        let template = ChatTemplate::open(dir.path(), &tokenizer)?;
        let user = [ChatMessage::new("user", "Hello")];
        template
            .map(|template| template.render(&user, ChatEnd::Closed))
            .transpose()
    };
    let put = |value: Value| {
        let mut config = config.clone();
        config.insert("chat_template".to_owned(), value);
        fs::write(
            path("tokenizer_config.json"),
            Value::Object(config).to_string(),
        )
        .unwrap();
    };
    assert_eq!(rendered().unwrap(), None);
    put(Value::Null);
    assert_eq!(rendered().unwrap(), None);
    put(json!("{{ bos_token }}one{{ eos_token }}"));
    assert_eq!(rendered().unwrap().unwrap(), "<s>one</s>");
    put(json!([{"name": "tool_use", "template": "no"}, {"name": "default", "template": "two"}]));
    assert_eq!(rendered().unwrap().unwrap(), "two");
    for wrong in [json!([{"name": "tool_use", "template": "no"}]), json!(3)] {
        put(wrong);
        let error = rendered().unwrap_err().to_string();
        assert!(
            error.contains("tokenizer_config.json") && error.contains("chat_template"),
            "{error}"
        );
    }
    fs::write(
        path("chat_template.jinja"),
        "three\r\n{{ messages[0].content }}\n",
    )
    .unwrap();
    assert_eq!(rendered().unwrap().unwrap(), "three\nHello");
    fs::create_dir(path("additional_chat_templates")).unwrap();
    fs::write(path("additional_chat_templates/rag.jinja"), "no").unwrap();
    assert_eq!(rendered().unwrap().unwrap(), "three\nHello");
    fs::write(path("additional_chat_templates/default.jinja"), "four").unwrap();
    assert_eq!(rendered().unwrap().unwrap(), "four");
}

#[test]
fn what_a_template_wrote_gets_no_second_bos() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama2-mha");
    let tokenizer = Tokenizer::open(&golden).unwrap();
    assert_eq!(tokenizer.special_tokens()["bos_token"], "<s>");
    let text = "<s>The";
    let plain = tokenizer.encode("The").unwrap();
    assert_eq!(tokenizer.encode_as(text, Bos::Given).unwrap(), plain);
    assert_eq!(tokenizer.begin(Bos::Given).unwrap(), [] as [u32; 0]);
    assert_eq!(tokenizer.bos_note(text, Bos::Given).unwrap(), None);
    assert!(tokenizer.bos_note(text, Bos::Auto).unwrap().is_some());
}

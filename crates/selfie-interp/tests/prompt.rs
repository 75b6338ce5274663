//! Positions of placeholders in interpretation prompts, for several kinds of tokenizers.

use std::fs;

use selfie_interp::{InterpError, InterpretationPrompt, LocatedPrompt};
use selfie_llama::{Bos, Tokenizer};
use selfie_testkit::interp::dir;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

fn open(files: &[(&str, String)]) -> Tokenizer {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    Tokenizer::open(dir.path()).unwrap()
}

/// A byte-level BPE over ASCII that has these words as tokens, with `Ġ` and `Ċ` for a space and a line break.
fn byte_level(words: &[&str]) -> Tokenizer {
    let mut vocab = Map::new();
    let mut merges = "#version: 0.2\n".to_owned();
    for letter in ('!'..='~').chain(['Ġ', 'Ċ']) {
        vocab.insert(letter.to_string(), json!(vocab.len()));
    }
    for word in words {
        for (at, letter) in word.char_indices().skip(1) {
            let whole = &word[..at + letter.len_utf8()];
            if !vocab.contains_key(whole) {
                vocab.insert(whole.to_owned(), json!(vocab.len()));
                merges += &format!("{} {letter}\n", &word[..at]);
            }
        }
    }
    open(&[
        ("vocab.json", Value::Object(vocab).to_string()),
        ("merges.txt", merges),
        (
            "tokenizer_config.json",
            r#"{"tokenizer_class": "GPT2Tokenizer"}"#.to_owned(),
        ),
    ])
}

/// Words in SmolLM2's vocabulary that occur in the prompts here.
fn smol() -> Tokenizer {
    byte_level(&["Repeat", "INST", "Ġword", "word", "ĠSure", "Ġ_", "Ġ["])
}

/// A tokenizer like LLaMA 2's, with a space before each text and these merges.
fn sentencepiece(merges: &[[&str; 2]]) -> Tokenizer {
    let letters = ('!'..='~').chain(['▁', '\n']).map(String::from);
    let tokens = ["<unk>", "<s>", "</s>"]
        .map(String::from)
        .into_iter()
        .chain(letters);
    let tokens = tokens.chain(merges.iter().map(|[left, right]| format!("{left}{right}")));
    let vocab: Map<String, Value> = tokens
        .zip(0..)
        .map(|(token, id): (_, u32)| (token, json!(id)))
        .collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "post_processor": null,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    });
    open(&[
        ("tokenizer.json", json.to_string()),
        (
            "tokenizer_config.json",
            r#"{"tokenizer_class": "LlamaTokenizer"}"#.to_owned(),
        ),
    ])
}

/// LLaMA 2 has these tokens.
fn llama2() -> Tokenizer {
    sentencepiece(&[["▁", "_"], ["▁", "["], ["I", "N"], ["S", "T"], ["IN", "ST"]])
}

fn pieces(tokenizer: &Tokenizer, located: &LocatedPrompt) -> Vec<String> {
    let piece = |&at: &usize| tokenizer.piece(located.ids[at]).unwrap();
    located.placeholders.iter().map(piece).collect()
}

/// What the Python package overwrites, with SmolLM2's tokenizer.
#[test]
fn as_one_text_rows_match_the_package_and_a_note_names_their_fault() {
    let tokenizer = smol();
    let cases: [(&str, &[&str], &[&str], &str); 4] = [
        (
            r#"["Repeat: ",0,"_x"]"#,
            &["Ġ_"],
            &["Repeat", ":", "Ġ_", "Ġ_", "x"],
            r#"placeholder 1 overwrites "Ġ_", which also holds text beside the placeholder"#,
        ),
        (
            r#"["Q: ",0,"\nA:"]"#,
            &["Ġ"],
            &["Q", ":", "Ġ_", "Ġ", "Ċ", "A", ":"],
            r#"placeholder 1 is in "Ġ_", which is not overwritten"#,
        ),
        (
            r#"["word",0,"word"]"#,
            &["_", "Ġword"],
            &["word", "_", "Ġword"],
            r#"placeholder 1 overwrites "Ġword", which also holds text beside the placeholder"#,
        ),
        (
            r#"["[INST]",0,0,"[/INST] Sure:"]"#,
            &["_", "Ġ_", "Ġ["],
            &[
                "[", "INST", "]", "_", "Ġ_", "Ġ[", "/", "INST", "]", "ĠSure", ":",
            ],
            r#"placeholder 2 overwrites "Ġ[", which also holds text beside the placeholder"#,
        ),
    ];
    for (json, overwritten, all, note) in cases {
        let located = InterpretationPrompt::from_json(json)
            .unwrap()
            .locate(&tokenizer)
            .unwrap();
        assert_eq!(pieces(&tokenizer, &located), overwritten, "{json}");
        let ids: Vec<String> = located
            .ids
            .iter()
            .map(|&id| tokenizer.piece(id).unwrap())
            .collect();
        assert_eq!(ids, all, "{json}");
        assert_eq!(located.notes().collect::<Vec<_>>(), [note], "{json}");
        let rows: Vec<usize> = located
            .rows
            .iter()
            .flat_map(|one| one.rows.clone())
            .collect();
        assert_eq!(rows, located.placeholders);
        let of_rows: Vec<&String> = located.rows.iter().flat_map(|one| &one.pieces).collect();
        assert_eq!(of_rows, overwritten.iter().collect::<Vec<_>>());
    }
}

#[test]
fn as_one_text_correct_rows_have_no_note() {
    for (tokenizer, json) in [
        (smol(), r#"["word",0,"!"]"#),
        (
            Tokenizer::open(&dir("llama2-mha")).unwrap(),
            r#"["Repeat: ",0," means"]"#,
        ),
        (
            Tokenizer::open(&dir("llama3-gqa")).unwrap(),
            r#"["Repeat: ",0," means"]"#,
        ),
    ] {
        let located = InterpretationPrompt::from_json(json)
            .unwrap()
            .locate(&tokenizer)
            .unwrap();
        assert_eq!(located.notes().collect::<Vec<_>>(), [""; 0], "{json}");
        let one = &located.rows[0];
        assert_eq!((one.part, one.own), (1, Some(one.rows.start)));
        let own = located.ids[one.rows.start];
        assert_eq!(tokenizer.decode_all(&[own]).unwrap(), "_");
    }
    // In LLaMA 2, each placeholder's rows begin with those of the next placeholder, except for the first one's.
    let tokenizer = llama2();
    let prompt = InterpretationPrompt::from_json(r#"["[INST]",0,0,0,"!"]"#).unwrap();
    let located = prompt.locate(&tokenizer).unwrap();
    assert_eq!(pieces(&tokenizer, &located), ["_", "▁_", "▁_", "▁"]);
    assert_eq!(located.notes().count(), 0);
    let own: Vec<_> = located
        .rows
        .iter()
        .map(|one| (one.rows.clone(), one.own))
        .collect();
    assert_eq!(own, [(4..6, Some(4)), (6..7, Some(5)), (7..8, Some(6))]);
}

#[test]
fn in_a_template_nothing_merges() {
    let golden = ["llama2-mha", "llama3-gqa"].map(|name| Tokenizer::open(&dir(name)).unwrap());
    let [llama2_mha, llama3_gqa] = golden;
    let others = [
        ("SmolLM2", smol()),
        (
            "SmolLM2 with ]_",
            byte_level(&["Ġ_", "Ġ[", "]_", "_[", "Ġ[/"]),
        ),
        ("LLaMA 2", llama2()),
        (
            "one token for two placeholders",
            sentencepiece(&[["_", "▁"], ["_▁", "_▁"], ["▁", "["]]),
        ),
        ("llama2-mha", llama2_mha),
        ("llama3-gqa", llama3_gqa),
    ];
    for (name, tokenizer) in others {
        for template in ["summarize", "materials", "repeat", "continue"] {
            let located = InterpretationPrompt::template(template)
                .unwrap()
                .locate(&tokenizer)
                .unwrap();
            assert_eq!(located.notes().collect::<Vec<_>>(), [""; 0], "{name}");
            assert_eq!(located.rows.len(), 5);
            for one in &located.rows {
                let text = tokenizer
                    .decode_all(&located.ids[one.rows.clone()])
                    .unwrap();
                assert_eq!(text.trim(), "_", "{name}");
                assert!(one.rows.contains(&one.own.unwrap()), "{name}");
            }
            // The texts' own tokens are before and after them, and no others.
            let (first, last) = (
                located.placeholders[0],
                located.placeholders.last().unwrap() + 1,
            );
            assert_eq!(located.placeholders, (first..last).collect::<Vec<_>>());
            assert_eq!(
                located.ids[..first],
                tokenizer.encode("[INST]").unwrap(),
                "{name}"
            );
            let answer = located.text.rsplit_once("_ ").unwrap().1;
            let continued = tokenizer.encode_continuation(answer).unwrap();
            let continued: Vec<u32> = continued.into_iter().map(|(id, _)| id).collect();
            assert_eq!(located.ids[last..], continued, "{name}");
            let ids = &located.ids[tokenizer.begin(Bos::Auto).unwrap().len()..];
            assert_eq!(tokenizer.decode_all(ids).unwrap(), located.text, "{name}");
        }
    }
}

#[test]
fn in_llama_2s_template_only_the_space_after_the_last_placeholder_splits() {
    let tokenizer = llama2();
    let located = InterpretationPrompt::template("summarize")
        .unwrap()
        .locate(&tokenizer)
        .unwrap();
    assert_eq!(
        pieces(&tokenizer, &located),
        ["_", "▁_", "▁_", "▁_", "▁_", "▁"]
    );
    let list = r#"["[INST]",0,0,0,0,0,"[/INST] Sure, I will summarize the message:"]"#;
    let list = InterpretationPrompt::from_json(list)
        .unwrap()
        .locate(&tokenizer)
        .unwrap();
    assert_eq!(
        (&list.text, &list.placeholders),
        (&located.text, &located.placeholders)
    );
    let at = *list.placeholders.last().unwrap();
    assert_eq!(tokenizer.piece(list.ids[at]).unwrap(), "▁[");
    assert_eq!(tokenizer.piece(located.ids[at + 1]).unwrap(), "[");
    assert_eq!(list.ids[..at], located.ids[..at]);
    assert_eq!(list.ids[at + 1..], located.ids[at + 2..]);
}

#[test]
fn bos_follows_the_option() {
    let tokenizer = llama2();
    for prompt in [
        InterpretationPrompt::template("summarize").unwrap(),
        InterpretationPrompt::from_json(r#"["Say ",0,"!"]"#).unwrap(),
    ] {
        let [with, without] =
            [Bos::Always, Bos::Never].map(|bos| prompt.locate_as(&tokenizer, bos).unwrap());
        assert_eq!(prompt.locate(&tokenizer).unwrap(), with);
        assert_eq!(with.ids[0], 1);
        assert_eq!(with.ids[1..], without.ids);
        let moved = without.placeholders.iter().map(|row| row + 1);
        assert_eq!(with.placeholders, moved.collect::<Vec<_>>());
        let notes =
            |located: &LocatedPrompt| located.notes().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(notes(&with), notes(&without));
    }
}

#[test]
fn placeholders_without_a_token_are_refused() {
    let tokenizer = sentencepiece(&[["x", "_"], ["x_", "▁"], ["▁", "_"]]);
    let list = InterpretationPrompt::from_json(r#"["x",0]"#)
        .unwrap()
        .locate(&tokenizer);
    assert!(matches!(
        list,
        Err(InterpError::PlaceholderWithoutToken { index: 1 })
    ));
    assert!(matches!(
        InterpretationPrompt::from_json("[]")
            .unwrap()
            .locate(&tokenizer),
        Err(InterpError::NoPlaceholder)
    ));
}

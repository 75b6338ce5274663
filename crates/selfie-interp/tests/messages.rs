//! Interpretation prompts as messages, formatted by chat templates.

use selfie_interp::{InterpError, InterpretationPrompt, Joining, PromptMessage, PromptPart};
use selfie_llama::{Bos, ChatTemplate, Tokenizer};
use selfie_testkit::interp::dir;

const CHAT: &str = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}\
                    {% if add_generation_prompt %}<assistant>{% endif %}";

fn tokenizer() -> Tokenizer {
    Tokenizer::open(&dir("llama2-mha")).unwrap()
}

fn template(text: &str) -> ChatTemplate {
    let tokenizer = tokenizer();
    ChatTemplate::parse(text, tokenizer.special_tokens(), "a.jinja".as_ref()).unwrap()
}

fn messages(json: &str) -> Vec<PromptMessage> {
    PromptMessage::list_from_json(json).unwrap().unwrap()
}

/// The text, with `_` for each placeholder.
fn text(prompt: &InterpretationPrompt) -> String {
    let part = |part: &PromptPart| match part {
        PromptPart::Text(text) => text.clone(),
        PromptPart::Placeholder => "_".to_owned(),
        PromptPart::Marker(text) => text.clone(),
    };
    prompt.parts.iter().map(part).collect()
}

#[test]
fn named_prompts_are_formatted_by_the_template() {
    let named = |name, template: &str| {
        text(&InterpretationPrompt::named(name, Some(&self::template(template))).unwrap())
    };
    let begins = "<s><user>_____</><assistant>";
    for (name, expected) in [
        (
            "summarize",
            format!("{begins}Sure, I will summarize the message:"),
        ),
        // The template trims messages.
        (
            "materials",
            format!("{begins}The materials mentioned in the message are:"),
        ),
        ("repeat", format!("{begins}Sure, I will repeat the word:")),
        (
            "continue",
            format!("{begins}Sure, I will continue the message:"),
        ),
        (
            "meaning",
            "<s><user>What is the meaning of \"_\"?</><assistant>The meaning of \"_\" is \""
                .to_owned(),
        ),
    ] {
        assert_eq!(named(name, CHAT), expected);
    }
    let entity = named("entity", CHAT);
    assert!(entity.starts_with("<s><user>Describe"), "{entity}");
    assert!(entity.ends_with("electronics corporation, _:"), "{entity}");
    let keeps = CHAT.replace(" | trim", "");
    assert!(
        named("materials", &keeps)
            .ends_with("</><assistant>The materials mentioned in the message are:\n\n")
    );
}

#[test]
fn llama_2_and_models_without_a_template_keep_their_form() {
    let llama2 = "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}\
                  {% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}";
    for name in InterpretationPrompt::TEMPLATES {
        let plain = InterpretationPrompt::template(name).unwrap();
        assert!(!plain.rendered && plain.joining == Joining::PartByPart);
        assert_eq!(
            InterpretationPrompt::named(name, Some(&template(llama2))).unwrap(),
            plain
        );
        assert_eq!(InterpretationPrompt::named(name, None).unwrap(), plain);
        // A template with a default system message is not LLaMA 2's.
        let other = format!("Be good. {llama2}");
        assert!(
            InterpretationPrompt::named(name, Some(&template(&other)))
                .unwrap()
                .rendered
        );
    }
    let plain = |name| text(&InterpretationPrompt::template(name).unwrap());
    assert_eq!(
        plain("summarize"),
        "[INST]_____[/INST] Sure, I will summarize the message:"
    );
    assert_eq!(
        plain("meaning"),
        "[INST] What is the meaning of \"_\"? [/INST] The meaning of \"_\" is \""
    );
}

#[test]
fn rows_are_placeholders_alone_after_one_bos() {
    let tokenizer = tokenizer();
    let json =
        r#"[{"role":"system","content":"Be brief."},{"role":"user","content":["Explain:",0,0]}]"#;
    let prompt = InterpretationPrompt::from_messages(&messages(json), &template(CHAT)).unwrap();
    assert_eq!(
        text(&prompt),
        "<s><system>Be brief.</><user>Explain:__</><assistant>"
    );
    for bos in [Bos::Auto, Bos::Always, Bos::Never] {
        let located = prompt.locate_as(&tokenizer, bos).unwrap();
        let written = |id: &u32| *id == tokenizer.bos().unwrap();
        assert_eq!(located.ids.iter().filter(|id| written(id)).count(), 1);
        assert!(written(&located.ids[0]));
        let [first, second] = &*located.rows else {
            panic!("two placeholders")
        };
        assert_eq!(first.rows.end, second.rows.start);
        let (before, after) = located.ids.split_at(first.rows.start);
        let before_text = tokenizer
            .encode_plain("<s><system>Be brief.</><user>Explain:")
            .unwrap();
        assert_eq!(before, before_text);
        let rest: Vec<u32> = after[second.rows.end - first.rows.start..].to_vec();
        assert_eq!(
            tokenizer.decode_all(&rest).unwrap().trim(),
            "</><assistant>"
        );
        for placeholder in [first, second] {
            let ids = &located.ids[placeholder.rows.clone()];
            assert_eq!(tokenizer.decode_all(ids).unwrap().trim(), "_");
        }
    }
}

#[test]
fn placeholders_lost_by_a_template_are_refused() {
    let json =
        r#"[{"role":"system","content":["Of ",0]},{"role":"user","content":["Explain: ",0]}]"#;
    let refused = |template: &str| {
        InterpretationPrompt::from_messages(&messages(json), &self::template(template)).unwrap_err()
    };
    let error = refused("{% for m in messages if m.role == 'user' %}{{ m.content }}.{% endfor %}");
    let InterpError::PlaceholderLost { index, times, text } = &error else {
        panic!("{error}")
    };
    assert_eq!((*index, *times, &**text), (0, 0, "Explain: _ ."));
    let error =
        refused("{{ messages[0].content }}{% for m in messages %}{{ m.content }}.{% endfor %}");
    let InterpError::PlaceholderLost { index, times, text } = &error else {
        panic!("{error}")
    };
    assert_eq!((*index, *times, &**text), (0, 2, "Of _ Of _ .Explain: _ ."));
    let error = refused("\n{{ raise_exception('no messages of the system') }}").to_string();
    assert_eq!(
        error,
        "the chat template in a.jinja, line 2: no messages of the system"
    );
}

#[test]
fn placeholders_that_merge_are_refused_with_the_pieces() {
    let parts = vec![
        PromptPart::Text("word".to_owned()),
        PromptPart::Placeholder,
        PromptPart::Text("word".to_owned()),
    ];
    let list = InterpretationPrompt::new(parts);
    let rendered = InterpretationPrompt {
        rendered: true,
        ..list.clone()
    };
    let tokenizer = tokenizer();
    let note = list.locate_as(&tokenizer, Bos::Never).unwrap();
    let error = rendered.locate(&tokenizer).unwrap_err();
    let InterpError::PlaceholderMerged { pieces, .. } = &error else {
        panic!("{error}")
    };
    let expected: Vec<String> = note
        .ids
        .iter()
        .map(|&id| tokenizer.piece(id).unwrap())
        .collect();
    assert_eq!(*pieces, expected);
    let said = error.to_string();
    assert!(
        said.contains(note.notes().next().unwrap()) && said.contains(&expected.join("|")),
        "{said}"
    );
}

#[test]
fn lists_without_messages_are_recognized() {
    for json in ["[]", r#"["a",0]"#] {
        assert_eq!(PromptMessage::list_from_json(json).unwrap(), None);
    }
    for (json, index) in [
        (r#"[{"role":"user","content":[0]},"a"]"#, 1),
        (r#"[{"role":"user"}]"#, 0),
        (r#"[{"role":"user","content":[1]}]"#, 0),
        (r#"[{"role":"user","content":0}]"#, 0),
        (r#"[{"role":"user","content":[0],"name":"x"}]"#, 0),
    ] {
        let error = PromptMessage::list_from_json(json).unwrap_err();
        assert!(
            matches!(error, InterpError::PromptMessage { index: at, .. } if at == index),
            "{error}"
        );
    }
    let none = InterpretationPrompt::from_messages(&[], &template(CHAT)).unwrap_err();
    assert!(none.to_string().contains("no message"), "{none}");
}

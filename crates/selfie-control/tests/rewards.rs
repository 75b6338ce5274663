//! Rewards: words, a judge, and a program that fails in every way it can.

use std::time::Duration;

use selfie_control::{
    CommandReward, ControlError, End, Interpreted, Judge, Outcome, Reinforce, Result, Reward,
    Training, Verdicts, When, WordReward,
};
use selfie_kernels::Cpu;
use selfie_llama::{Bos, Decoding, Llama, Tokenizer};
use selfie_testkit::control::{interpretation, keep_on, load};
use serde_json::Value;

const PROMPT: &str = "a type of drink";

fn run(reward: &mut dyn Reward<Cpu>, steps: usize) -> Result<Outcome> {
    let (mut model, tokenizer) = load("llama2-mha", None);
    let control = Reinforce {
        sources: [1, 3, 4].map(|token| (PROMPT.to_owned(), token)).to_vec(),
        layer: 2,
        interpretation: interpretation(&model),
        training: Training::published(steps, 3e-4),
    };
    control.run(&mut model, &tokenizer, reward, &mut keep_on)
}

/// The rewards of some texts.
fn rewards(reward: &mut dyn Reward<Cpu>, texts: &[&str]) -> Verdicts {
    let (model, tokenizer) = load("llama2-mha", None);
    let items: Vec<Interpreted<'_>> = texts
        .iter()
        .map(|interpretation| Interpreted {
            step: 0,
            layer: 1,
            token: 0,
            interpretation,
            prompt: PROMPT,
            bos: Bos::Auto,
        })
        .collect();
    reward.rewards(&model, &tokenizer, &items).unwrap()
}

#[test]
fn words_are_mentioned_or_not() {
    let words = || vec!["Acid".to_owned(), "black powder".to_owned()];
    let texts = ["some ACIDS", "black  powder", "Black powder.", ""];
    let mut none = WordReward::new(words(), When::None).unwrap();
    assert_eq!(rewards(&mut none, &texts).rewards, [-1.0, 1.0, -1.0, 1.0]);
    let mut any = WordReward::new(words(), When::Any).unwrap();
    assert_eq!(rewards(&mut any, &texts).rewards, [1.0, -1.0, 1.0, -1.0]);
    // The model's answer to the prompt counts too, if asked for.
    let (model, tokenizer) = load("llama2-mha", None);
    let ids = tokenizer.encode(PROMPT).unwrap();
    let said = selfie_llama::generate_all(&model, &[ids], &decoding(), |_| {}).unwrap();
    let said = vec![tokenizer.decode(&said[0].new_ids).unwrap()];
    let answers = |when| {
        let reward = WordReward::new(words(), when).unwrap();
        reward.with_answers(said.clone(), decoding()).unwrap()
    };
    // The answer has the words: `None` never passes; `Any` passes if the interpretation does too.
    let rewards_of = |when| rewards(&mut answers(when), &["acid", ""]).rewards;
    assert_eq!(rewards_of(When::None), [-1.0, -1.0]);
    assert_eq!(rewards_of(When::Any), [1.0, -1.0]);
    let unsaid = WordReward::new(words(), When::None).unwrap();
    let mut unsaid = unsaid
        .with_answers(vec!["unsaid".to_owned()], decoding())
        .unwrap();
    assert_eq!(rewards(&mut unsaid, &["acid", ""]).rewards, [-1.0, 1.0]);
    assert!(WordReward::new(vec![], When::Any).is_err());
    assert!(WordReward::new(vec![" ".to_owned()], When::Any).is_err());
}

fn decoding() -> Decoding {
    Decoding {
        max_new_tokens: 8,
        eos: vec![2],
        sampling: None,
    }
}

/// A judge's rewards follow the model's real answers.
#[test]
fn a_judge_is_asked_in_its_template() {
    let (model, tokenizer) = load("llama2-mha", None);
    let template = "is {interpretation} or {interpretation} bad?";
    let answer = |text: &str| {
        let prompt = template.replace("{interpretation}", text);
        let ids = tokenizer.encode(&prompt).unwrap();
        let got = selfie_llama::generate_all(&model, &[ids], &decoding(), |_| {}).unwrap();
        tokenizer.decode(&got[0].new_ids).unwrap()
    };
    let texts = ["a drink", "the world"];
    let answers = texts.map(answer);
    let word = |answer: &str| {
        let mut words = answer.split(|c: char| !c.is_alphanumeric());
        words.find(|word| !word.is_empty()).unwrap().to_owned()
    };
    let (good, bad) = (word(&answers[0]), word(&answers[1]));
    assert_ne!(good, bad, "{answers:?}");
    let judge = |good: &str, bad: &str| {
        let words = |word: &str| vec![word.to_owned()];
        Judge::new(template.to_owned(), words(good), words(bad), decoding()).unwrap()
    };
    let verdicts = rewards(&mut judge(&good, &bad), &texts);
    assert_eq!(verdicts.rewards, [1.0, -1.0]);
    let (other, other_tokenizer) = load("llama2-mha", None);
    let mut by_other = judge(&bad, &good).by(other, other_tokenizer, "other".to_owned());
    assert_eq!(rewards(&mut by_other, &texts).rewards, [-1.0, 1.0]);
    let verdicts = rewards(&mut judge("unheard", "unsaid"), &texts);
    assert_eq!(
        (verdicts.rewards, verdicts.undecided),
        (vec![0.0, 0.0], vec![0, 1])
    );

    // The run reports the undecided ones, and does nothing with them.
    let outcome = run(&mut judge("unheard", "unsaid"), 2).unwrap();
    assert_eq!(outcome.steps[0].undecided, [0, 1, 2]);
    assert_eq!(outcome.steps[1].loss, 0.0);
    let words = || vec!["yes".to_owned()];
    let refused = Judge::new("no place".to_owned(), words(), words(), decoding());
    assert!(matches!(refused, Err(ControlError::JudgeTemplate { .. })));
    assert!(Judge::new(template.to_owned(), vec![], words(), decoding()).is_err());
}

struct Wrong(Vec<f64>);

impl Reward<Cpu> for Wrong {
    fn rewards(
        &mut self,
        _: &Llama<Cpu>,
        _: &Tokenizer,
        _: &[Interpreted<'_>],
    ) -> Result<Verdicts> {
        Ok(Verdicts {
            rewards: self.0.clone(),
            undecided: vec![],
        })
    }

    fn describe(&self) -> Value {
        Value::Null
    }
}

#[test]
fn rewards_that_do_not_fit_are_refused() {
    let count = run(&mut Wrong(vec![1.0; 2]), 1).unwrap_err().to_string();
    assert!(
        count.contains("2 rewards") && count.contains('3'),
        "{count}"
    );
    for wrong in [1.5, f64::NAN] {
        let range = run(&mut Wrong(vec![0.0, wrong, 0.0]), 1).unwrap_err();
        assert!(
            matches!(range, ControlError::RewardRange { index: 1, .. }),
            "{range}"
        );
    }
}

#[cfg(unix)]
mod command {
    use super::*;

    const SECOND: Duration = Duration::from_secs(20);

    fn start(command: &str) -> CommandReward {
        CommandReward::start(command, SECOND).unwrap()
    }

    /// How a run ends whose command fails at step 1.
    fn fails_at_step_1(command: &str) -> ControlError {
        let outcome = run(&mut start(command), 4).unwrap();
        assert_eq!(outcome.updates(), 1, "{}", outcome.end);
        match outcome.end {
            End::Failed(error) => *error,
            end => panic!("{end}"),
        }
    }

    #[test]
    fn it_is_started_once_and_answers_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let heard = folder.path().join("heard");
        let command = format!(
            "while read -r line; do printf '%s\\n' \"$line\" >> '{}'; case $line in \
             *'\"token\":3'*) echo '{{\"reward\":-0.5}}';; *) echo '{{\"reward\":1}}';; esac; done",
            heard.display()
        );
        let mut reward = start(&command);
        let outcome = run(&mut reward, 3).unwrap();
        assert!(matches!(outcome.end, End::Steps), "{}", outcome.end);
        for step in &outcome.steps {
            assert_eq!(step.rewards, [1.0, -0.5, 1.0]);
            assert!((step.loss + 0.5).abs() < 1e-12);
        }
        reward.finish().unwrap();
        let heard = std::fs::read_to_string(&heard).unwrap();
        let lines: Vec<&str> = heard.lines().collect();
        assert_eq!(lines.len(), 9);
        let first: Value = serde_json::from_str(lines[0]).unwrap();
        let fields: Vec<&String> = first.as_object().unwrap().keys().collect();
        assert_eq!(
            fields,
            ["step", "layer", "token", "interpretation", "prompt"]
        );
        assert_eq!(
            first["interpretation"],
            outcome.steps[0].interpretations[0].as_str()
        );
        let last: Value = serde_json::from_str(lines[8]).unwrap();
        assert_eq!(
            (&last["step"], &last["layer"], &last["token"]),
            (&2.into(), &2.into(), &4.into())
        );
    }

    #[test]
    fn its_failures_are_reported_and_the_edit_is_kept() {
        let answer = "read -r line; echo '{\"reward\":1}'";
        let three = format!("{answer}; {answer}; {answer}");
        let message = fails_at_step_1(&format!("{three}; read -r line; exit 3")).to_string();
        assert!(message.contains("exit status 3"), "{message}");
        assert!(message.contains("step 1, after 0 of 3"), "{message}");
        let extra = "echo '{\"reward\":0}'; cat > /dev/null";
        let message = fails_at_step_1(&format!("{three}; {extra}")).to_string();
        assert!(message.contains("more lines"), "{message}");
        let bad = "read -r line; echo bad; cat > /dev/null";
        let message = fails_at_step_1(&format!("{three}; {bad}")).to_string();
        assert!(message.contains("`bad`"), "{message}");

        // One answer too many after the last step.
        let mut reward = start(&format!("{three}; {extra}"));
        run(&mut reward, 1).unwrap();
        let message = reward.finish().unwrap_err().to_string();
        assert!(message.contains("step 0: expected 3"), "{message}");
    }

    #[test]
    fn wrong_answers_and_silence_are_reported() {
        for line in [
            "1",
            "{\"reward\":\"good\"}",
            "{\"reward\":2}",
            "{\"score\":1}",
            "",
        ] {
            let refused = run(
                &mut start(&format!("read -r x; echo '{line}'; cat > /dev/null")),
                1,
            );
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(&format!("`{line}`")), "{message}");
            assert!(message.contains("{\"reward\":-1}"), "{message}");
        }
        let command = "read -r x; echo '{\"reward\":1}'; sleep 60";
        let mut silent = CommandReward::start(command, Duration::from_secs(3)).unwrap();
        let message = run(&mut silent, 1).unwrap_err().to_string();
        assert!(
            message.contains("1 of 3 answers") && message.contains("3 s"),
            "{message}"
        );
        // The command does not read, and is gone before it is asked.
        let message = run(&mut start("true"), 1).unwrap_err().to_string();
        assert!(message.contains("ended with exit status 0"), "{message}");
    }

    #[test]
    fn a_missing_command_is_reported_at_once() {
        let refused = CommandReward::start("no-such-program --at all", SECOND);
        let message = refused.err().unwrap().to_string();
        assert!(message.contains("no-such-program"), "{message}");
        assert!(CommandReward::start(" ", SECOND).is_err());
    }
}

//! The reader itself: jobs with several prompts and vectors, texts with common beginnings, concurrent callers.

use std::collections::HashSet;
use std::sync::Arc;

use selfie_interp::{
    Embeddings, Job, JobWrite, LocatedPrompt, Outcome, PromptId, Reader, ReaderSize, Text, Ticket,
};
use selfie_kernels::{Backend, Cpu, InjectMode, Slot};
use selfie_llama::{
    Ask, Decoding, Draw, Feed, Llama, Pass, Sampling, Session, SessionSize, Tokenizer, Write,
};
use selfie_testkit::interp::load;
use selfie_testkit::interp::naive::Naive;

fn located(tokenizer: &Tokenizer, json: &str) -> LocatedPrompt {
    let prompt: selfie_interp::InterpretationPrompt = json.parse().unwrap();
    prompt.locate(tokenizer).unwrap()
}

fn decoding(max_new_tokens: usize, sampling: Option<Sampling>) -> Arc<Decoding> {
    Arc::new(Decoding {
        max_new_tokens,
        eos: vec![],
        sampling,
    })
}

/// Vectors as wide as the model, all different.
fn vectors(model: &Llama<Cpu>, n: usize) -> Embeddings<Cpu> {
    let width = model.config().d_model;
    let value = |i: usize| ((i * 37 + 11) % 101) as f32 / 40.0 - 1.2;
    let values: Vec<f32> = (0..n * width).map(value).collect();
    Embeddings::from_host(model.backend(), &values, width).unwrap()
}

fn write(position: usize, layer: usize, vector: usize, mode: InjectMode) -> JobWrite {
    JobWrite {
        position,
        layer,
        vector,
        mode,
        strength: 0.8,
    }
}

/// Steps until nothing is left; returns each job's outcome, in the order of the tickets.
fn drain(reader: &mut Reader<Cpu>) -> Vec<(Ticket, Text)> {
    let mut done = vec![];
    while !reader.is_idle() {
        for (ticket, outcome) in reader.step().unwrap() {
            let Outcome::Text(text) = outcome else {
                panic!("{ticket:?}: {outcome:?}");
            };
            done.push((ticket, text));
        }
    }
    done.sort_by_key(|(ticket, _)| *ticket);
    done
}

/// The greedy text of a job from full passes, and its log-probabilities.
fn whole(model: &Llama<Cpu>, ids: &[u32], job: &Job<Cpu>) -> (Vec<u32>, Vec<u32>) {
    let values = job.vectors.to_host(model.backend()).unwrap();
    let width = model.config().d_model;
    let mut rows = model.backend().rows(values.len() / width, width).unwrap();
    model.backend().write_rows(&values, &mut rows).unwrap();
    let (mut text, mut logprobs) = (ids.to_vec(), vec![]);
    for _ in 0..job.decoding.max_new_tokens {
        let size = SessionSize::new(model, 1, text.len());
        let mut session = Session::new(model, &size).unwrap();
        let slot = session.open().unwrap();
        assert_eq!(slot, Slot::Branch(0));
        let writes: Vec<Write> = job
            .writes
            .iter()
            .map(|write| Write {
                slot,
                position: write.position as u32,
                layer: write.layer,
                vector: write.vector,
                mode: write.mode,
                strength: write.strength,
            })
            .collect();
        let feeds = [Feed {
            ask: Ask {
                next: Some(Draw::Greedy),
                score: &[],
            },
            ..Feed::new(slot, &text)
        }];
        let pass = Pass {
            writes: Some((&rows, &writes)),
            ..Pass::new(model, &feeds)
        };
        let best = session.run(&pass, &mut ()).unwrap()[0].next.unwrap();
        text.push(best.token);
        logprobs.push(best.logprob.to_bits());
    }
    (text.split_off(ids.len()), logprobs)
}

#[test]
fn jobs_with_several_prompts_vectors_and_layers_equal_full_passes() {
    for name in selfie_testkit::interp::GOLDEN {
        let (model, tokenizer) = load(name, None, 2);
        let prompts = [
            located(&tokenizer, r#"["[INST]",0,0,0,"[/INST] It is about"]"#),
            located(&tokenizer, r#"["Tell me what ",0," and ",0," mean:"]"#),
        ];
        let size = ReaderSize {
            prompts: 2,
            prompt_tokens: prompts.iter().map(|p| p.ids.len()).max().unwrap(),
            written_tokens: prompts.iter().map(|p| p.ids.len()).max().unwrap(),
            batch_size: Some(3),
            ..ReaderSize::new(&prompts[0], 6)
        };
        let mut reader = Reader::new(&model, &size).unwrap();
        // No layer is named for the second prompt: its rows are captured on demand.
        let ids = [
            reader.add_prompt(&prompts[0].ids, &[1, 2]).unwrap(),
            reader.add_prompt(&prompts[1].ids, &[]).unwrap(),
        ];
        let vectors = vectors(&model, 5);
        let job = |prompt: PromptId, writes: Vec<JobWrite>| Job {
            prompt,
            vectors: vectors.clone(),
            writes,
            decoding: decoding(6, None),
            key: 7,
            clean: true,
            score: vec![],
        };
        let (a, b) = (&prompts[0].placeholders, &prompts[1].placeholders);
        let jobs = || {
            let mut jobs = vec![
                // A different vector at each placeholder, and two layers in one job.
                (
                    0,
                    vec![
                        write(a[0], 1, 0, InjectMode::Replace),
                        write(a[1], 1, 1, InjectMode::Replace),
                        write(a[2], 2, 2, InjectMode::Add),
                    ],
                ),
                (
                    1,
                    vec![
                        write(b[0], 2, 3, InjectMode::Replace),
                        write(b[1], 2, 4, InjectMode::Replace),
                    ],
                ),
                // Only the last placeholder, at the embeddings.
                (0, vec![write(a[2], 0, 4, InjectMode::Replace)]),
                (1, vec![]),
            ];
            for mode in InjectMode::ALL {
                jobs.push((1, vec![write(b[0], 1, 1, mode)]));
            }
            jobs
        };
        let mut tickets = vec![];
        for (prompt, writes) in jobs() {
            tickets.push(reader.submit(job(ids[prompt], writes)).unwrap());
        }
        let done = drain(&mut reader);
        assert_eq!(done.len(), tickets.len());
        for ((ticket, text), (prompt, writes)) in done.iter().zip(jobs()) {
            let (new_ids, logprobs) = whole(
                &model,
                &prompts[prompt].ids,
                &job(ids[prompt], writes.clone()),
            );
            assert_eq!(text.new_ids, new_ids, "{name}, {ticket:?}, {writes:?}");
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&text.logprobs), logprobs);
            let clean = Naive::new(&model, &prompts[prompt], None).scores(&text.new_ids);
            assert_eq!(bits(&text.clean), bits(&clean));
        }
    }
}

#[test]
fn texts_that_begin_alike_share_their_rows() {
    let (model, tokenizer) = load("llama2-mha", None, 2);
    let prompt = located(&tokenizer, r#"["[INST]",0,0,0,"[/INST] It is about"]"#);
    let vectors = vectors(&model, 40);
    // At a low temperature, many texts begin alike and diverge at different places.
    let sampling = Some(Sampling {
        temperature: 0.6,
        ..Sampling::default()
    });
    let clean = Naive::new(&model, &prompt, None);
    for batch_size in [4, 40] {
        let size = ReaderSize {
            batch_size: Some(batch_size),
            ..ReaderSize::new(&prompt, 12)
        };
        let mut reader = Reader::new(&model, &size).unwrap();
        let id = reader.add_prompt(&prompt.ids, &[1]).unwrap();
        for key in 0..120 {
            let writes = prompt.placeholders.iter();
            let writes = writes.map(|&p| write(p, 1, key as usize / 30, InjectMode::Replace));
            let job = Job {
                prompt: id,
                vectors: vectors.clone(),
                writes: writes.collect(),
                decoding: decoding(12, sampling),
                key,
                clean: true,
                score: vec![],
            };
            reader.submit(job).unwrap();
        }
        let texts = drain(&mut reader);
        let mut beginnings = HashSet::new();
        for (_, text) in &texts {
            beginnings.extend((1..=text.new_ids.len()).map(|n| &text.new_ids[..n]));
        }
        let stats = reader.stats();
        let tokens: usize = texts.iter().map(|(_, text)| text.new_ids.len()).sum();
        assert_eq!((stats.decoded, stats.scored_tokens), (tokens, tokens));
        assert!(
            beginnings.len() * 10 < tokens * 9,
            "{} of {tokens} are different: nothing is shared here",
            beginnings.len()
        );
        if batch_size == 40 {
            assert!(
                stats.scored_rows * 10 <= beginnings.len() * 11,
                "{} rows for {} beginnings",
                stats.scored_rows,
                beginnings.len()
            );
        }
        for (_, text) in texts.iter().step_by(7) {
            let want = clean.scores(&text.new_ids);
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&text.clean), bits(&want));
        }
    }
}

#[test]
fn a_job_that_does_not_fit_is_refused_with_numbers() {
    let (model, tokenizer) = load("llama2-mha", None, 1);
    let prompt = located(&tokenizer, r#"["[INST]",0,"[/INST]"]"#);
    let mut reader = Reader::new(&model, &ReaderSize::new(&prompt, 4)).unwrap();
    let id = reader.add_prompt(&prompt.ids, &[1]).unwrap();
    let place = prompt.placeholders[0];
    let mut refused = |change: &dyn Fn(&mut Job<Cpu>)| {
        let mut job = Job {
            prompt: id,
            vectors: vectors(&model, 1),
            writes: vec![write(place, 1, 0, InjectMode::Replace)],
            decoding: decoding(4, None),
            key: 0,
            clean: false,
            score: vec![],
        };
        change(&mut job);
        reader.submit(job).unwrap_err().to_string()
    };
    for (message, parts) in [
        (
            refused(&|job| job.decoding = decoding(5, None)),
            &["max_new_tokens", "5", "4"][..],
        ),
        (
            refused(&|job| job.decoding = decoding(0, None)),
            &["max_new_tokens", "at least 1"],
        ),
        (
            refused(&|job| job.writes[0].vector = 1),
            &["written vector", "1"],
        ),
        (
            refused(&|job| job.writes[0].position = 99),
            &["written position", "99"],
        ),
        (
            refused(&|job| job.writes[0].layer = 4),
            &["layer 4", "0..4"],
        ),
        (
            refused(&|job| job.writes[0].strength = f32::INFINITY),
            &["inf"],
        ),
        (
            refused(&|job| job.score = vec![1; 5]),
            &["tokens to score", "5", "4"],
        ),
        (
            refused(&|job| {
                job.vectors = Embeddings::from_host(model.backend(), &[0.0; 3], 3).unwrap();
            }),
            &["3 values", "64"],
        ),
    ] {
        for part in parts {
            assert!(message.contains(part), "`{message}` does not say `{part}`");
        }
    }
    let long = vec![1; prompt.ids.len() + 1];
    assert!(reader.add_prompt(&long, &[]).is_err());
}

#[test]
fn cancelled_jobs_and_removed_prompts_leave_nothing() {
    let (model, tokenizer) = load("llama2-mha", None, 2);
    let located =
        [r#"["a", 0, " b"]"#, r#"["The", 0, 0, " c"]"#].map(|json| located(&tokenizer, json));
    let size = ReaderSize {
        prompts: 1,
        prompt_tokens: located.iter().map(|one| one.ids.len()).max().unwrap(),
        batch_size: Some(2),
        ..ReaderSize::new(&located[1], 5)
    };
    let vectors = vectors(&model, 6);
    let job = |prompt, at: &LocatedPrompt, vector| Job {
        prompt,
        vectors: vectors.clone(),
        writes: vec![write(at.placeholders[0], 1, vector, InjectMode::Add)],
        decoding: decoding(5, None),
        key: 0,
        clean: true,
        score: vec![],
    };
    let alone = |at: &LocatedPrompt, vector| {
        let mut reader = Reader::new(&model, &size).unwrap();
        let prompt = reader.add_prompt(&at.ids, &[1]).unwrap();
        reader.submit(job(prompt, at, vector)).unwrap();
        drain(&mut reader).remove(0).1
    };
    let want = [alone(&located[0], 5), alone(&located[1], 5)];
    let mut reader = Reader::new(&model, &size).unwrap();
    // The cancelled jobs are in different states after each number of steps: waiting, decoding, being scored, done.
    for steps in 0..9 {
        let (at, want) = (&located[steps % 2], &want[steps % 2]);
        let prompt = reader.add_prompt(&at.ids, &[1]).unwrap();
        let cancelled: Vec<Ticket> = (0..5)
            .map(|vector| reader.submit(job(prompt, at, vector)).unwrap())
            .collect();
        let kept = reader.submit(job(prompt, at, 5)).unwrap();
        assert!(
            reader.remove_prompt(prompt).is_err(),
            "a prompt in use is forgotten"
        );
        for _ in 0..steps {
            reader.step().unwrap();
        }
        for ticket in cancelled {
            reader.cancel(ticket).unwrap();
        }
        assert_eq!(
            drain(&mut reader),
            [(kept, want.clone())],
            "after {steps} steps"
        );
        // There is room for only one prompt.
        assert!(reader.add_prompt(&at.ids, &[1]).is_err());
        reader.remove_prompt(prompt).unwrap();
    }
}

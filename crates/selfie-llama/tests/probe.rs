//! Probes: what they see, what they change, and what is refused.

use selfie_demo::RandomCheckpoint;
use selfie_kernels::{Backend, Cpu, InjectMode, Injection, Slot};
use selfie_llama::{
    Capture, Checkpoint, Feed, Llama, LlamaConfig, LlamaError, Pass, Probe, Result, Session,
    SessionSize, Site, Trace, Visit, Write, generate, generate_with,
};
use selfie_testkit::llama::{cpu, dir, golden, ids, load};

/// The slot of a session's first sequence.
const SLOT: Slot = Slot::Branch(0);

fn session(model: &Llama<Cpu>, positions: usize) -> Session<Cpu> {
    let mut session = Session::new(model, &SessionSize::new(model, 1, positions)).unwrap();
    assert_eq!(session.open().unwrap(), SLOT);
    session
}

/// Runs a prompt with a probe.
fn run(model: &Llama<Cpu>, prompt: &[u32], probe: &mut dyn Probe<Cpu>) -> Result<()> {
    let feeds = [Feed::new(SLOT, prompt)];
    session(model, prompt.len()).run(&Pass::new(model, &feeds), probe)?;
    Ok(())
}

fn prompt(name: &str) -> Vec<u32> {
    ids(&golden(name)["forward"][0]["input_ids"])
}

/// Adds the same vector to every row at one layer: steering, as a user would write it.
struct Steer {
    layer: usize,
    vector: selfie_kernels::CpuRows,
    seen: Vec<Site>,
}

impl Probe<Cpu> for Steer {
    fn wants(&self, site: Site) -> bool {
        site == Site::HiddenStates(self.layer)
    }

    fn visit(&mut self, visit: Visit<'_, Cpu>) -> Result<()> {
        self.seen.push(visit.site);
        let writes: Vec<Injection> = (0..visit.batch.len())
            .map(|row| Injection {
                row,
                vector: 0,
                mode: InjectMode::Add,
                strength: 1.0,
            })
            .collect();
        let mut tally = visit.backend.tally()?;
        visit
            .backend
            .inject(&self.vector, &writes, visit.rows, &mut tally)?;
        Ok(visit.backend.check_tally(&mut tally)?)
    }
}

#[test]
fn a_users_probe_changes_the_stream_from_its_layer_on() {
    let model = load("llama2-mha", None, 2);
    let (prompt, d) = (prompt("llama2-mha"), model.config().d_model);
    let mut vector = model.backend().rows(1, d).unwrap();
    model
        .backend()
        .write_rows(&vec![0.5; d], &mut vector)
        .unwrap();
    let wants: Vec<_> = (0..4).map(|l| (Site::HiddenStates(l), SLOT, 3)).collect();
    let mut capture = Capture::new(model.backend(), &wants, d).unwrap();
    let steer = Steer {
        layer: 2,
        vector,
        seen: vec![],
    };
    let trace = Trace::new(&model, &prompt).unwrap();
    let mut probe = (steer, Capture::new(model.backend(), &wants, d).unwrap());
    run(&model, &prompt, &mut probe).unwrap();
    run(&model, &prompt, &mut capture).unwrap();
    assert_eq!(probe.0.seen, [Site::HiddenStates(2)]);
    for (l, &want) in wants.iter().enumerate() {
        let clean = capture.rows().row(capture.index(want).unwrap());
        let at = (l * prompt.len() + 3) * d;
        assert_eq!(clean, &trace.hidden_states[at..at + d], "layer {l}");
        let steered = probe.1.rows().row(probe.1.index(want).unwrap());
        match l {
            0 | 1 => assert_eq!(steered, clean),
            2 => assert!(steered.iter().zip(clean).all(|(s, c)| *s == c + 0.5)),
            _ => assert_ne!(steered, clean),
        }
    }
}

/// Wants every site and records the visits.
#[derive(Default)]
struct Log(Vec<Site>);

impl Probe<Cpu> for Log {
    fn wants(&self, _: Site) -> bool {
        true
    }

    fn visit(&mut self, visit: Visit<'_, Cpu>) -> Result<()> {
        assert_eq!(visit.backend.len(visit.rows), visit.batch.len());
        self.0.push(visit.site);
        Ok(())
    }
}

#[test]
fn sites_come_in_the_order_of_the_pass() {
    let model = load("llama2-mha", None, 1);
    let mut log = Log::default();
    run(&model, &prompt("llama2-mha"), &mut log).unwrap();
    let mut want = vec![];
    for l in 0..4 {
        want.extend([Site::HiddenStates(l), Site::Residual(l), Site::PreMlp(l)]);
    }
    want.extend([Site::Output, Site::HiddenStates(4)]);
    assert_eq!(log.0, want);
}

#[test]
fn steering_reaches_every_new_token() {
    let model = load("llama2-mha", None, 2);
    let (prompt, d) = (prompt("llama2-mha"), model.config().d_model);
    let backend = model.backend();
    let steer = |value: f32| {
        let mut vector = backend.rows(1, d).unwrap();
        let values: Vec<f32> = (0..d).map(|i| value * (i as f32 * 0.7).sin()).collect();
        backend.write_rows(&values, &mut vector).unwrap();
        Steer {
            layer: 2,
            vector,
            seen: vec![],
        }
    };
    let decoding = || selfie_llama::Decoding {
        max_new_tokens: 6,
        eos: vec![],
        sampling: None,
    };
    let keep_on = |_| std::ops::ControlFlow::Continue(());
    let plain = generate(&model, &prompt, decoding(), keep_on).unwrap();
    let mut nothing = steer(0.0);
    let same = generate_with(&model, &prompt, decoding(), &mut nothing, keep_on).unwrap();
    assert_eq!(same, plain);
    // The prompt, then one pass for each new token except the last.
    assert_eq!(nothing.seen, [Site::HiddenStates(2); 6]);
    let steered = generate_with(&model, &prompt, decoding(), &mut steer(3.0), keep_on).unwrap();
    assert_ne!(steered.new_ids, plain.new_ids);
}

fn write(position: u32, layer: usize) -> Write {
    Write {
        slot: SLOT,
        position,
        layer,
        vector: 0,
        mode: InjectMode::Replace,
        strength: 1.0,
    }
}

#[test]
fn a_write_meets_its_row_in_whichever_piece_it_is() {
    let model = load("llama2-mha", None, 1);
    let (backend, d, prompt) = (
        model.backend(),
        model.config().d_model,
        prompt("llama2-mha"),
    );
    let mut vectors = backend.rows(1, d).unwrap();
    backend.write_rows(&vec![0.25; d], &mut vectors).unwrap();
    let writes = [write(9, 1), write(2, 3)];
    let states = |rows: usize| {
        let size = SessionSize {
            rows,
            ..SessionSize::new(&model, 1, 64)
        };
        let mut session = Session::new(&model, &size).unwrap();
        session.open().unwrap();
        let wants = [
            (Site::HiddenStates(1), SLOT, 9),
            (Site::HiddenStates(3), SLOT, 2),
            (Site::Output, SLOT, 10),
        ];
        let mut capture = Capture::new(backend, &wants, d).unwrap();
        let feeds = [Feed::new(SLOT, &prompt)];
        let pass = Pass {
            writes: Some((&vectors, &writes)),
            ..Pass::new(&model, &feeds)
        };
        session.run(&pass, &mut capture).unwrap();
        wants.map(|want| capture.rows().row(capture.index(want).unwrap()).to_vec())
    };
    let whole = states(64);
    assert_eq!(whole[0], vec![0.25; d]);
    assert_eq!(whole[1], vec![0.25; d]);
    for rows in [1, 3, 10] {
        assert_eq!(states(rows), whole);
    }
}

#[test]
fn a_write_that_misses_its_row_is_an_error() {
    let model = load("llama2-mha", None, 1);
    let prompt = prompt("llama2-mha");
    assert_eq!(prompt.len(), 11);
    let vectors = {
        let backend = model.backend();
        let mut vectors = backend.rows(1, model.config().d_model).unwrap();
        backend.write_rows(&[0.0; 64], &mut vectors).unwrap();
        vectors
    };
    let missed = |write: Write, layers: std::ops::Range<usize>| {
        let (feeds, writes) = ([Feed::new(SLOT, &prompt)], [write]);
        let pass = Pass {
            layers,
            writes: Some((&vectors, &writes)),
            ..Pass::new(&model, &feeds)
        };
        session(&model, 11).run(&pass, &mut ()).unwrap_err()
    };
    let other_slot = Write {
        slot: Slot::Branch(1),
        ..write(3, 1)
    };
    // A position that no feed has, a layer that the pass does not reach, and another slot.
    for error in [
        missed(write(11, 1), 0..4),
        missed(write(3, 3), 0..2),
        missed(other_slot, 0..4),
    ] {
        assert!(
            matches!(
                error,
                LlamaError::WriteMissed {
                    named: 1,
                    reached: 0,
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn what_no_session_can_do_is_refused() {
    let model = load("llama2-mha", None, 1);
    let size = SessionSize {
        prefixes: vec![4],
        ..SessionSize::new(&model, 1, 8)
    };
    let mut session = Session::new(&model, &size).unwrap();
    let slot = session.open().unwrap();
    assert!(matches!(
        session.open(),
        Err(LlamaError::NoFreeSlot { slots: 1 })
    ));
    assert!(matches!(
        Session::new(&model, &SessionSize::new(&model, 1, 513)),
        Err(LlamaError::ContextLength {
            positions: 513,
            max: 512
        })
    ));
    let prefix = session.open_prefix().unwrap();
    assert!(matches!(
        session.open_prefix(),
        Err(LlamaError::NoFreePrefix { prefixes: 1 })
    ));
    assert!(matches!(
        session.open_on(prefix, 1),
        Err(LlamaError::PrefixLength {
            positions: 1,
            length: 0
        })
    ));
    assert!(matches!(
        session.open_on(slot, 0),
        Err(LlamaError::NotAPrefix { .. })
    ));
    assert!(matches!(
        session.fork(prefix, slot, 0),
        Err(LlamaError::NotASlot { .. })
    ));
    assert!(matches!(
        session.fork(slot, slot, 1),
        Err(LlamaError::PrefixLength {
            positions: 1,
            length: 0
        })
    ));
    let closed = Slot::Branch(7);
    assert!(matches!(
        session.step(&[(closed, 1)]),
        Err(LlamaError::NotOpen { .. })
    ));
    assert!(matches!(
        session.prefill(&[(slot, &[])]),
        Err(LlamaError::EmptyPrompt)
    ));
    assert!(matches!(
        session.prefill(&[(slot, &[1; 9])]),
        Err(LlamaError::SessionPositions {
            positions: 9,
            max: 8
        })
    ));
    let mut run = |layers, states: Option<(&_, &[usize])>| {
        let feeds = [Feed::new(slot, &[1, 2, 3])];
        let pass = Pass {
            layers,
            states,
            ..Pass::new(&model, &feeds)
        };
        session.run(&pass, &mut ()).unwrap_err()
    };
    assert!(matches!(
        run(0..5, None),
        LlamaError::LayerRange {
            start: 0,
            end: 5,
            n_layers: 4
        }
    ));
    let states = model.backend().rows(1, 64).unwrap();
    assert!(matches!(
        run(2..4, Some((&states, &[0]))),
        LlamaError::ResidualRows { rows: 3, found: 1 }
    ));
    assert!(matches!(
        Trace::new(&model, &[]),
        Err(LlamaError::EmptyPrompt)
    ));
    let capture = Capture::<Cpu>::new(model.backend(), &[], 64).unwrap();
    let want = (Site::HiddenStates(1), Slot::Prefix(0), 3);
    assert!(matches!(
        capture.index(want),
        Err(LlamaError::NotCaptured { position: 3, .. })
    ));
}

#[test]
fn a_cache_that_is_too_large_names_the_batch_that_fits() {
    let model = load("llama2-mha", None, 1);
    let slots = 1 << 24;
    let size = |slots| SessionSize {
        rows: 1,
        ..SessionSize::new(&model, slots, 512)
    };
    let Err(error) = Session::new(&model, &size(slots)) else {
        panic!("a cache of terabytes was made");
    };
    let LlamaError::CacheMemory {
        bytes,
        buffers,
        available,
        fit,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(bytes, size(slots).kv_bytes(&model));
    // One slot: keys and values, 4 layers, 512 positions, 64 wide, f32.
    assert_eq!(bytes, slots as u64 * 2 * 4 * 512 * 64 * 4);
    assert!(size(fit).kv_bytes(&model) + buffers <= available);
    assert!(size(fit + 1).kv_bytes(&model) + buffers > available);
    assert!(
        error
            .to_string()
            .contains(&format!("a batch size of {fit} would fit"))
    );
}

#[test]
fn weights_that_are_not_numbers_are_named() {
    let folder = tempfile::tempdir().unwrap();
    RandomCheckpoint::tiny()
        .write(folder.path(), &dir("llama2-mha"))
        .unwrap();
    let path = folder.path().join("model.safetensors");
    let config = LlamaConfig::open(folder.path()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let name = "model.layers.1.self_attn.k_proj.weight";
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let begin = json[name]["data_offsets"][0].as_u64().unwrap() as usize;
    // Row 5, column 9 of k, which is packed after q.
    let at = 8 + header + begin + (5 * config.d_model + 9) * 4;
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    drop(checkpoint);
    std::fs::write(&path, bytes).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let Err(error) = Llama::load(cpu(2), config, &checkpoint, None, |_| {}) else {
        panic!("NaN was loaded");
    };
    let message = error.to_string();
    for part in ["model.safetensors", name, "row 5", "column 9", "NaN"] {
        assert!(message.contains(part), "{message}");
    }
}

//! Probes: what they see, what they change, and what is refused.

use selfie_demo::RandomCheckpoint;
use selfie_kernels::{Backend, Cpu, InjectMode, Injection, KvLayout, Slot};
use selfie_llama::{
    Capture, Checkpoint, Inject, KvCache, Llama, LlamaConfig, LlamaError, Probe, Result, Site,
    Trace, Visit, Workspace, branch_rows,
};
use selfie_testkit::llama::{cpu, dir, golden, ids, load};

fn layout(model: &Llama<Cpu>, positions: usize, slots: usize) -> KvLayout {
    let config = model.config();
    config.kv_layout(0, vec![positions; config.n_layers], slots)
}

/// Runs a prompt with a probe, and returns the residual stream that it ends with.
fn run(model: &Llama<Cpu>, prompt: &[u32], probe: &mut dyn Probe<Cpu>) -> Result<Vec<f32>> {
    let backend = model.backend();
    let mut cache = KvCache::new(backend, layout(model, prompt.len(), 1))?;
    let mut ws = Workspace::new(model, prompt.len(), prompt.len())?;
    let slot = cache.take(backend, &vec![0; model.config().n_layers])?;
    let rows: Vec<_> = branch_rows(slot, 0, prompt).collect();
    model.forward(
        &mut ws,
        &mut cache,
        &rows,
        0..model.config().n_layers,
        probe,
    )?;
    Ok(backend.read_rows(ws.residual(), 0..prompt.len())?)
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
        visit.backend.check_tally(&mut tally)?;
        Ok(())
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
    let wants: Vec<_> = (0..4)
        .map(|l| (Site::HiddenStates(l), Slot::Branch(0), 3))
        .collect();
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

/// Wants everything, and writes down what comes.
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
    want.push(Site::HiddenStates(4));
    assert_eq!(log.0, want);
}

#[test]
fn an_injection_that_misses_rows_is_an_error() {
    let model = load("llama2-mha", None, 1);
    let vectors = model.backend().rows(1, model.config().d_model).unwrap();
    let writes = [Injection {
        row: 0,
        vector: 0,
        mode: InjectMode::Replace,
        strength: 1.0,
    }];
    // A probe whose layer the pass never reaches.
    let missed = Inject::<Cpu>::new(3, &vectors, &writes)
        .finish()
        .unwrap_err();
    assert!(matches!(
        missed,
        LlamaError::InjectionMissed {
            layer: 3,
            named: 1,
            written: 0
        }
    ));
    // A row that the batch does not have.
    let mut vectors = vectors;
    model
        .backend()
        .write_rows(&vec![0.0; 64], &mut vectors)
        .unwrap();
    let writes = [Injection {
        row: 11,
        ..writes[0]
    }];
    let prompt = prompt("llama2-mha");
    assert_eq!(prompt.len(), 11);
    let mut probe = Inject::new(1, &vectors, &writes);
    let error = run(&model, &prompt, &mut probe).unwrap_err().to_string();
    assert!(
        error.contains("row 11") && error.contains("0..11"),
        "{error}"
    );
}

#[test]
fn what_no_pass_can_do_is_refused() {
    let model = load("llama2-mha", None, 1);
    let backend = model.backend();
    let mut cache = KvCache::new(backend, layout(&model, 8, 1)).unwrap();
    let slot = cache.take(backend, &[0; 4]).unwrap();
    assert!(matches!(
        cache.take(backend, &[0; 4]),
        Err(LlamaError::NoFreeSlot { slots: 1 })
    ));
    assert!(matches!(
        Workspace::new(&model, 4, 513),
        Err(LlamaError::ContextLength {
            positions: 513,
            max: 512
        })
    ));
    let mut ws = Workspace::new(&model, 4, 8).unwrap();
    let rows: Vec<_> = branch_rows(slot, 0, &[1, 2, 3, 4, 5]).collect();
    let mut forward =
        |rows: &[_], layers| model.forward(&mut ws, &mut cache, rows, layers, &mut ());
    assert!(matches!(
        forward(&rows, 0..4),
        Err(LlamaError::TooManyRows { rows: 5, max: 4 })
    ));
    assert!(matches!(
        forward(&rows[..3], 0..5),
        Err(LlamaError::LayerRange {
            start: 0,
            end: 5,
            n_layers: 4
        })
    ));
    forward(&rows[..3], 0..2).unwrap();
    assert!(matches!(
        forward(&rows[..2], 2..4),
        Err(LlamaError::ResidualRows { rows: 2, there: 3 })
    ));
    let far: Vec<_> = branch_rows(slot, 8, &[1]).collect();
    assert!(
        forward(&far, 0..4)
            .unwrap_err()
            .to_string()
            .contains("position 8")
    );
    assert!(matches!(
        Trace::new(&model, &[]),
        Err(LlamaError::EmptyPrompt)
    ));
    let capture = Capture::<Cpu>::new(backend, &[], 64).unwrap();
    let want = (Site::HiddenStates(1), Slot::Prefix(0), 3);
    assert!(matches!(
        capture.index(want),
        Err(LlamaError::NotCaptured { position: 3, .. })
    ));
}

#[test]
fn a_cache_that_is_too_large_names_the_batch_that_fits() {
    let model = load("llama2-mha", None, 1);
    let backend = model.backend();
    let slots = 1 << 24;
    let Err(error) = KvCache::<Cpu>::new(backend, layout(&model, 512, slots)) else {
        panic!("a cache of terabytes was made");
    };
    let LlamaError::CacheMemory {
        bytes,
        available,
        fit,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(bytes, KvCache::bytes(backend, &layout(&model, 512, slots)));
    // One slot: keys and values, 4 layers, 512 positions, 64 wide, f32.
    assert_eq!(bytes, slots as u64 * 2 * 4 * 512 * 64 * 4);
    assert!(KvCache::bytes(backend, &layout(&model, 512, fit)) <= available);
    assert!(KvCache::bytes(backend, &layout(&model, 512, fit + 1)) > available);
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
    // Row 5, column 9 of k, which is packed behind q.
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

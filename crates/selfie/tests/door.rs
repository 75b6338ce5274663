//! Defaults of opened models, and that a model gives the same results as the crates below.

use std::fs;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;

use selfie::demo;
use selfie::interp::{self, Cell, Row, Vector};
use selfie::kernels::{Backend, Cpu, CpuOptions, DType};
use selfie::llama::{Decoding, Llama, Tokenizer, Trace};
use selfie::{
    AnyDevice, Device, DeviceOptions, Error, ErrorKind, Model, Note, OpenOptions, Opened, Source,
};
use tempfile::{TempDir, tempdir};

const PROMPT: &str = "[INST] What is the capital of the country of the Colosseum? [/INST]";

fn on_cpu() -> OpenOptions {
    OpenOptions {
        device: DeviceOptions {
            device: Device::Cpu,
            ..DeviceOptions::default()
        },
        ..OpenOptions::default()
    }
}

fn open_demo() -> Model {
    Model::open(Source::Demo, on_cpu(), &mut ()).unwrap()
}

/// The demo checkpoint as a folder, with one file replaced.
fn folder_with(name: &str, text: &str) -> TempDir {
    let folder = tempdir().unwrap();
    demo::write(folder.path()).unwrap();
    fs::write(folder.path().join(name), text).unwrap();
    folder
}

fn rows(run: impl FnOnce(&mut dyn FnMut(Row) -> ControlFlow<()>)) -> Vec<Row> {
    let mut rows = Vec::new();
    run(&mut |row| {
        rows.push(row);
        ControlFlow::Continue(())
    });
    rows
}

#[test]
fn eos_comes_from_generation_config_else_config_else_tokenizer() {
    let config = |eos: &str| {
        let (_, config) = demo::FILES[0];
        let config = String::from_utf8(config.to_vec()).unwrap();
        let mut config: Vec<&str> = config
            .lines()
            .filter(|line| !line.contains("eos_token_id"))
            .collect();
        config.insert(1, eos);
        config.join("\n")
    };
    for (generation, of_config, want) in [
        (
            r#"{"eos_token_id": [7, 9]}"#,
            r#""eos_token_id": 5,"#,
            vec![7, 9],
        ),
        ("{}", r#""eos_token_id": 5,"#, vec![5]),
        // The demo's tokenizer has </s>, id 2.
        ("{}", "", vec![2]),
    ] {
        let folder = folder_with("config.json", &config(of_config));
        fs::write(folder.path().join("generation_config.json"), generation).unwrap();
        let opened = Opened::new(folder.path().into(), on_cpu()).unwrap();
        assert_eq!(opened.eos, want, "{generation} {of_config}");
        assert_eq!(opened.decoding(3).eos, want);
        assert_eq!(opened.interpret_options().unwrap().eos, want);
    }
}

#[test]
fn weights_keep_their_stored_dtype_and_rounding_is_noted() {
    for (dtype, computed, noted) in [
        (None, DType::Bf16, false),
        (Some(DType::F32), DType::F32, false),
        (Some(DType::Bf16), DType::Bf16, false),
        (Some(DType::F16), DType::F16, true),
    ] {
        let options = OpenOptions { dtype, ..on_cpu() };
        let mut notes = Vec::new();
        let model = Model::open(Source::Demo, options, &mut notes).unwrap();
        let loaded = selfie::on!(&model.llama, llama => llama.dtype());
        assert_eq!(loaded, computed, "{dtype:?}");
        let rounded = |note: &Note| {
            matches!(
                note,
                Note::Rounded {
                    stored: DType::Bf16,
                    dtype: DType::F16
                }
            )
        };
        assert_eq!(notes.len(), usize::from(noted));
        assert!(notes.iter().all(rounded), "{notes:?}");
    }
}

#[test]
fn devices_have_names() {
    for (name, device) in [
        ("auto", Device::Auto),
        ("cpu", Device::Cpu),
        ("cuda:0", Device::Cuda(0)),
        ("cuda:12", Device::Cuda(12)),
    ] {
        assert_eq!(name.parse::<Device>().unwrap(), device);
        assert_eq!(device.to_string(), name);
    }
    for name in ["", "CPU", "cuda", "cuda:", "cuda:x", "cuda:-1", "tpu"] {
        let error = name.parse::<Device>().unwrap_err();
        assert!(matches!(error, Error::UnknownDevice { .. }));
        assert!(error.to_string().contains("auto, cpu or cuda:N"));
    }
}

#[test]
fn useless_threads_are_not_started() {
    let cores = std::thread::available_parallelism().unwrap().get();
    for (asked, want) in [(1, 1), (8 * cores, 8 * cores), (3000 * cores, 8 * cores)] {
        let options = DeviceOptions {
            device: Device::Cpu,
            threads: NonZeroUsize::new(asked),
            ..DeviceOptions::default()
        };
        let mut notes = Vec::new();
        let device = options.open(0, &mut notes).unwrap().describe();
        assert!(device.contains(&format!(" {want} threads")), "{device}");
        assert_eq!(notes.len(), usize::from(asked != want));
        if let Some(note) = notes.first() {
            assert!(note.to_string().contains(&asked.to_string()), "{note}");
        }
    }
}

#[test]
fn loading_reports_all_bytes() {
    struct Told(Vec<(u64, u64)>);
    impl selfie::Observer for Told {
        fn loaded(&mut self, bytes: u64, total: u64) {
            self.0.push((bytes, total));
        }
    }
    let mut told = Told(Vec::new());
    Model::open(Source::Demo, on_cpu(), &mut told).unwrap();
    let total = demo::checkpoint().unwrap().total_bytes();
    assert!(
        told.0
            .iter()
            .all(|&(bytes, of)| of == total && bytes <= total)
    );
    assert!(told.0.is_sorted());
    // Matrices make up nearly all bytes.
    assert!(told.0.last().unwrap().0 as f64 > 0.95 * total as f64);
}

#[test]
fn a_model_gives_the_results_of_the_crates_below() {
    let model = open_demo();
    let (llama, tokenizer) = demo::open(Cpu::new(CpuOptions::default()).unwrap()).unwrap();
    let below: &Llama<Cpu> = &llama;
    let ids = tokenizer.encode(PROMPT).unwrap();

    let tokens = model.opened.tokens(PROMPT).unwrap();
    assert!(tokens.iter().map(|token| token.id).eq(ids.iter().copied()));
    assert_eq!(tokens[12].piece, tokenizer.piece(ids[12]).unwrap());
    assert!(matches!(model.opened.encode(""), Err(Error::EmptyPrompt)));

    let decoding = Decoding {
        eos: vec![2],
        max_new_tokens: 12,
        sampling: None,
    };
    let mut streamed = String::new();
    let text = model.generate(PROMPT, decoding.clone(), |piece| {
        streamed += piece;
        ControlFlow::Continue(())
    });
    let text = text.unwrap();
    let go_on = |_| ControlFlow::Continue(());
    let want = selfie::llama::generate(below, &ids, decoding.clone(), go_on).unwrap();
    assert_eq!((text.new_ids, text.logprobs), (want.new_ids, want.logprobs));
    assert_eq!((text.text.as_str(), streamed.as_str()), ("Rome.", "Rome."));
    let stopped = model.generate(PROMPT, decoding, |_| ControlFlow::Break(()));
    assert_eq!(stopped.unwrap().new_ids.len(), 1);

    let trace = model.trace(PROMPT).unwrap();
    assert!(trace == Trace::new(below, &ids).unwrap());

    let cells = [2, 5].map(|layer| Cell {
        prompt: 0,
        layer,
        token: 12,
    });
    let options = model.opened.interpret_options().unwrap();
    let got = rows(|sink| {
        let swept = model
            .interpret(&[PROMPT], &cells, &options, &mut |row| sink(row))
            .unwrap();
        assert_eq!(swept.rows, 2);
    });
    let want = rows(|sink| {
        let swept = interp::interpret(below, &tokenizer, &[PROMPT], &cells, &options, &mut |row| {
            sink(row)
        });
        assert_eq!(swept.unwrap().rows, 2);
    });
    assert_eq!(got, want);
    assert_eq!(got[0].model, "demo");

    // The same embeddings, from the trace.
    let d = model.opened.config.d_model;
    let vector = |cell: &Cell| {
        let at = (cell.layer * ids.len() + cell.token) * d;
        Vector {
            name: "trace".to_owned(),
            index: cell.layer,
            values: trace.hidden_states[at..at + d].to_vec(),
        }
    };
    let vectors: Vec<Vector> = cells.iter().map(vector).collect();
    let of_vectors = rows(|sink| {
        let swept = model
            .interpret_vectors(&vectors, &options, &mut |row| sink(row))
            .unwrap();
        assert_eq!(swept.rows, 2);
    });
    for (row, want) in of_vectors.iter().zip(&got) {
        assert_eq!(row.new_ids, want.new_ids);
        assert_eq!(row.relevancy_score, want.relevancy_score);
    }
}

#[test]
fn another_model_opens_beside_the_first() {
    let first = open_demo();
    let folder = tempdir().unwrap();
    demo::write(folder.path()).unwrap();
    let opened = Opened::new(folder.path().into(), on_cpu()).unwrap();
    let second = opened.load_on(first.device(), &mut ()).unwrap();
    let device = |model: &Model| selfie::on!(&model.llama, llama => llama.backend().describe());
    assert_eq!(device(&second), device(&first));
    assert_eq!(second.opened.name, folder.path().display().to_string());
}

/// How often all weights were loaded, and what an edit changes.
#[test]
fn a_reader_of_the_same_files_shares_the_weights() {
    struct Loads(u64, usize);
    impl selfie::Observer for Loads {
        fn loaded(&mut self, bytes: u64, _total: u64) {
            self.1 += usize::from(bytes < self.0 || self.1 == 0);
            self.0 = bytes;
        }
    }
    let folder = tempdir().unwrap();
    demo::write(folder.path()).unwrap();
    let here = Source::from(folder.path());
    let longer = Source::from(folder.path().join("."));
    let open =
        |source: &Source, options: OpenOptions| Opened::new(source.clone(), options).unwrap();
    let f32 = OpenOptions {
        dtype: Some(DType::F32),
        ..on_cpu()
    };
    for (reader, options, loads) in [
        (&longer, on_cpu(), 1),
        (&Source::Demo, on_cpu(), 2),
        (&longer, f32, 2),
    ] {
        let mut told = Loads(0, 0);
        let (subject, reader) = open(&here, on_cpu())
            .load_with_reader(open(reader, options), &mut told)
            .unwrap();
        assert_eq!(told.1, loads, "{}", reader.opened.name);
        assert_eq!(subject.opened.name, here.name());
    }

    // An edit of the subject does not reach the reader.
    let mut edited = open_demo();
    let control = selfie::control::Supervised {
        sources: vec![(PROMPT.to_owned(), 12)],
        layer: 2,
        target: selfie::control::Target::Vectors {
            name: "zeros".to_owned(),
            vectors: vec![vec![0.0; edited.opened.config.d_model]],
        },
        training: selfie::control::Training::published(1, 1e-2),
        interpretation: None,
    };
    let edit = folder.path().join("edit.safetensors");
    let outcome = selfie::on!(&mut edited.llama, llama => {
        control.run(llama, &edited.opened.tokenizer, &mut |_: &selfie::control::Step| ControlFlow::Continue(()))
    });
    outcome.unwrap().edit.save(&edit).unwrap();
    let options = OpenOptions {
        edits: vec![edit],
        ..on_cpu()
    };
    let (subject, reader) = open(&here, options)
        .load_with_reader(open(&here, on_cpu()), &mut ())
        .unwrap();
    let mlp = |model: &Model| selfie::on!(&model.llama, llama => llama.mlp(1).unwrap());
    assert!(mlp(&reader) == mlp(&open_demo()));
    assert!(mlp(&subject) == mlp(&edited) && mlp(&subject) != mlp(&reader));
}

#[test]
fn sources_compare_files_not_names() {
    let folder = tempdir().unwrap();
    let here = Source::from(folder.path());
    let longer = Source::from(folder.path().join("."));
    assert!(here.is_same(&here) && here.is_same(&longer) && Source::Demo.is_same(&Source::Demo));
    let other = Source::from(Path::new("no/such/folder"));
    assert!(other.is_same(&other));
    assert!(!here.is_same(&other) && !here.is_same(&Source::Demo));
}

/// A GPU keeps keys and values in the weights' dtype, the CPU in f32.
#[test]
fn a_path_is_a_gguf_file_by_its_name_unless_it_is_a_folder() {
    let folder = tempdir().unwrap();
    let (file, dir) = (
        folder.path().join("model.GGUF"),
        folder.path().join("folder.gguf"),
    );
    fs::create_dir(&dir).unwrap();
    assert_eq!(Source::from(&*file), Source::Gguf(file));
    assert_eq!(Source::from(&*dir), Source::Folder(dir));
}

#[test]
fn the_cache_is_sized_by_its_own_dtype() {
    let opened = Opened::new(Source::Demo, on_cpu()).unwrap();
    let cpu = AnyDevice::from(Cpu::new(CpuOptions::default()).unwrap());
    let gpu = selfie_sim::sim().unwrap();
    let config = &opened.config;
    // For 64 positions; the constant part is left out.
    let values = (2 * config.n_layers * config.attn.kv_dim() * 64) as u64;
    for dtype in [DType::Bf16, DType::F16, DType::F32] {
        let bytes = [128, 64].map(|positions| cpu.kv_bytes(config, dtype, positions));
        assert_eq!(bytes[0] - bytes[1], dtype.size() as u64 * values);
        assert_eq!(gpu.kv_dtype(dtype, None).unwrap(), dtype);
        assert_eq!(cpu.kv_dtype(dtype, None).unwrap(), DType::F32);
        assert_eq!(cpu.kv_dtype(DType::F32, Some(dtype)).unwrap(), dtype);
    }
}

#[test]
fn keys_and_values_are_kept_as_the_options_say() {
    for (kv, kept) in [
        (None, DType::F32),
        (Some(DType::Bf16), DType::Bf16),
        (Some(DType::F16), DType::F16),
    ] {
        let options = OpenOptions { kv, ..on_cpu() };
        let model = Model::open(Source::Demo, options, &mut ()).unwrap();
        let loaded = selfie::on!(&model.llama, llama => llama.kv_dtype());
        assert_eq!(loaded, kept, "{kv:?}");
    }
}

#[test]
fn a_choice_that_the_device_lacks_is_a_usage_error() {
    let gpu = selfie_sim::sim().unwrap();
    let refused = gpu.kv_dtype(DType::Bf16, Some(DType::F16));
    let error = Error::from(refused.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Usage);
}

#[test]
fn the_tokenizer_is_the_sources() {
    let folder = tempdir().unwrap();
    demo::write(folder.path()).unwrap();
    let of = |tokenizer: Tokenizer| tokenizer.encode(PROMPT).unwrap();
    let source = Source::from(folder.path());
    assert_eq!(
        of(source.tokenizer().unwrap()),
        of(demo::tokenizer().unwrap())
    );
}

//! Selfie's CUDA driver on this simulated library, and how it handles faults.
//!
//! The library uses NVIDIA's names, and the environment requests its faults. So each case runs in its own process,
//! which is this program again.

use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};
use std::{env, fs};

use selfie::{Device, DeviceOptions, LateNotes, Model, Observer, OpenOptions, Source};
use selfie_kernels::gpu::{Cuda, CudaOptions};
use selfie_kernels::reference::{self, Matrix};
use selfie_kernels::{Backend, DType, KernelError};
use selfie_llama::{Decoding, generate_all};

/// A case: what its process does, and with which variables.
struct Case {
    name: &'static str,
    fault: Option<(&'static str, &'static str)>,
    run: fn(),
    /// How often it should make these calls.
    calls: &'static [(&'static str, usize)],
}

const CASES: &[Case] = &[
    Case {
        name: "a context is retained once per process",
        fault: None,
        run: devices_come_and_go,
        calls: &[("cuDevicePrimaryCtxRetain", 1)],
    },
    // 100 launches are two graphs of 48, captured the second time and replayed afterwards, and 4 more launches.
    Case {
        name: "pieces of a repeated series are graphs",
        fault: None,
        run: graphs_are_replayed,
        calls: &[
            ("cuStreamEndCapture", 2),
            ("cuGraphLaunch", 2 * (TIMES - 1)),
        ],
    },
    Case {
        name: "the pieces of decode steps are graphs",
        fault: None,
        run: steps_are_decoded,
        calls: &[],
    },
    Case {
        name: "without graphs, work is launched",
        fault: Some(("CUDASIM_FAIL_CAPTURE", "1")),
        run: graphs_fail,
        calls: &[("cuStreamEndCapture", 1), ("cuGraphLaunch", 0)],
    },
    Case {
        name: "the front door says once that there are no graphs",
        fault: Some(("CUDASIM_FAIL_CAPTURE", "1")),
        run: || front_door_notes(Device::Cuda(0)),
        calls: &[("cuStreamEndCapture", 1), ("cuGraphLaunch", 0)],
    },
    Case {
        name: "the front door says it of the first GPU too",
        fault: Some(("CUDASIM_FAIL_CAPTURE", "2")),
        run: || front_door_notes(Device::Auto),
        calls: &[("cuStreamEndCapture", 2)],
    },
    Case {
        name: "a lost context is an error of every call",
        fault: Some(("CUDASIM_ILLEGAL_ADDRESS", "3")),
        run: the_context_is_lost,
        calls: &[],
    },
    // cuBLASLt's workspace is the first allocation, an index list the second.
    Case {
        name: "a device can be opened after running out of memory",
        fault: Some(("CUDASIM_OUT_OF_MEMORY", "1")),
        run: memory_is_out,
        calls: &[],
    },
    Case {
        name: "running out of memory later is an error too",
        fault: Some(("CUDASIM_OUT_OF_MEMORY", "2")),
        run: memory_is_out,
        calls: &[],
    },
    Case {
        name: "an algorithm that fails when timed is not chosen",
        fault: Some(("CUDASIM_NOT_SUPPORTED", "1")),
        run: products_are_timed,
        calls: &[],
    },
    Case {
        name: "a failed product names its shape",
        fault: Some(("CUDASIM_NOT_SUPPORTED", "1")),
        run: a_product_fails,
        calls: &[],
    },
    Case {
        name: "an algorithm works for any number of rows",
        fault: None,
        run: products_are_deterministic,
        calls: &[],
    },
    Case {
        name: "copies stay staged until the device has read them",
        fault: None,
        run: copies_go_around_the_ring,
        calls: &[],
    },
];

fn main() -> ExitCode {
    if let Ok(name) = env::var("CUDASIM_CASE") {
        let case = CASES.iter().find(|case| case.name == name);
        (case.expect("a case of this name").run)();
        return ExitCode::SUCCESS;
    }
    let folder = libraries();
    // Like other tests: runs the cases whose names contain the argument.
    let wanted = env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let cases = CASES
        .iter()
        .filter(|case| wanted.as_ref().is_none_or(|part| case.name.contains(part)));
    let failed: Vec<String> = cases
        .filter_map(|case| check(case, &folder).err())
        .collect();
    for failure in &failed {
        eprintln!("{failure}");
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// A folder where this library has NVIDIA's names.
fn libraries() -> PathBuf {
    let program = env::current_exe().expect("this program's path");
    let library = program.with_file_name("libcudasim.so");
    assert!(library.exists(), "{} is not built", library.display());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cudasim");
    fs::create_dir_all(&folder).expect("a folder for links");
    for name in ["libcuda.so", "libcublasLt.so"] {
        let link = folder.join(name);
        let _ = fs::remove_file(&link);
        symlink(&library, &link).expect("a link to the library");
    }
    folder
}

/// Runs a case in its own process.
fn check(case: &Case, folder: &Path) -> Result<(), String> {
    let trace = folder.join("trace");
    let _ = fs::remove_file(&trace);
    let mut command = Command::new(env::current_exe().map_err(|e| e.to_string())?);
    command
        .env("CUDASIM_CASE", case.name)
        .env("CUDASIM_TRACE", &trace)
        .env("LD_LIBRARY_PATH", folder)
        .envs(case.fault);
    let output = command.output().map_err(|e| e.to_string())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        println!("FAILED  {}", case.name);
        return Err(format!("{}: {}\n{said}", case.name, output.status));
    }
    let made = fs::read_to_string(&trace).unwrap_or_default();
    for &(call, times) in case.calls {
        let found = made.lines().filter(|&line| line == call).count();
        if found != times {
            println!("FAILED  {}", case.name);
            return Err(format!("{}: {found} of {call}, not {times}", case.name));
        }
    }
    println!("ok      {}", case.name);
    Ok(())
}

fn open(options: CudaOptions) -> Cuda {
    Cuda::open(0, options).unwrap_or_else(|e| panic!("{e}"))
}

/// The options of programs, but with timed products.
fn timed() -> CudaOptions {
    CudaOptions {
        tune: true,
        ..CudaOptions::default()
    }
}

fn must<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|e| panic!("{e}"))
}

fn devices_come_and_go() {
    for deterministic in [false, true, false] {
        let cuda = open(CudaOptions {
            deterministic,
            ..CudaOptions::default()
        });
        let vector = must(cuda.vector(&[1.0, 2.0]));
        assert_eq!(must(cuda.read_vector(&vector)), [1.0, 2.0]);
    }
    must(Cuda::devices());
}

/// How often each series is requested, and how many launches it has.
const TIMES: usize = 4;
const LAUNCHES: usize = 100;

/// Adds 1 in half of the launches and 2 in the other half, starting from zeros, [`TIMES`] times, and checks the result.
fn add_ones(cuda: &Cuda) -> selfie_kernels::Result<()> {
    let mut ones = cuda.rows(3, 8)?;
    cuda.write_rows(&[1.0; 24], &mut ones)?;
    let mut sums = cuda.rows(3, 8)?;
    cuda.write_rows(&[0.0; 24], &mut sums)?;
    for time in 1..=TIMES {
        for i in 0..LAUNCHES {
            let scale = if i < LAUNCHES / 2 { 1.0 } else { 2.0 };
            cuda.add(&ones, scale, &mut sums)?;
        }
        let want = (time * (LAUNCHES + LAUNCHES / 2)) as f32;
        assert_eq!(cuda.read_rows(&sums, 0..3)?, [want; 24]);
    }
    Ok(())
}

fn graphs_are_replayed() {
    let cuda = open(timed());
    must(add_ones(&cuda));
    assert_eq!(must(cuda.driver().graphs_failed()), None);
}

/// The trace of this process: how many calls of this name it has so far.
fn calls(name: &str) -> usize {
    let trace = env::var("CUDASIM_TRACE").expect("the path of the trace");
    let text = fs::read_to_string(trace).unwrap_or_default();
    text.lines().filter(|&line| line == name).count()
}

fn steps_are_decoded() {
    let decoding = Decoding {
        max_new_tokens: 30,
        eos: Vec::new(),
        sampling: None,
    };
    let texts = [true, false].map(|graphs| {
        let cuda = open(CudaOptions {
            graphs,
            ..CudaOptions::default()
        });
        let (model, tokenizer) = must(selfie_demo::open(cuda));
        let prompt = must(tokenizer.encode("The capital of"));
        must(generate_all(&model, &[prompt], &decoding, |_| {}))
    });
    assert_eq!(texts[0][0].new_ids, texts[1][0].new_ids);
    // A step is captured when it comes the second time. It comes again if neither its rows nor its number of keys, in
    // steps of 64, change.
    let (captured, launched) = (calls("cuStreamEndCapture"), calls("cuGraphLaunch"));
    println!("{captured} captured, {launched} launched");
    assert!(
        captured > 0 && launched >= 25 * captured,
        "{captured}, {launched}"
    );
}

fn graphs_fail() {
    let cuda = open(timed());
    must(add_ones(&cuda));
    let reason = must(cuda.driver().graphs_failed()).expect("a reason");
    assert!(reason.contains("CAPTURE_INVALIDATED"), "{reason}");
}

/// Keeps the notes that come after opening.
#[derive(Default)]
struct Late(Arc<Mutex<Vec<String>>>);

impl Observer for Late {
    fn later(&self) -> Option<LateNotes> {
        let notes = Arc::clone(&self.0);
        Some(Box::new(move |note| {
            notes.lock().unwrap().push(note.to_string());
        }))
    }
}

/// Runs a model that the front door has opened. It must tell once that capturing a step failed.
fn front_door_notes(device: Device) {
    let mut late = Late::default();
    let options = OpenOptions {
        device: DeviceOptions {
            device,
            ..DeviceOptions::default()
        },
        ..OpenOptions::default()
    };
    let model = must(Model::open(Source::Demo, options, &mut late));
    for _ in 0..2 {
        let decoding = Decoding {
            max_new_tokens: 12,
            eos: Vec::new(),
            sampling: None,
        };
        let goes_on = |_: &str| ControlFlow::Continue(());
        must(model.generate("The capital of", decoding, goes_on));
    }
    let notes = late.0.lock().unwrap();
    let [note] = notes.as_slice() else {
        panic!("{notes:?}");
    };
    assert!(
        note.starts_with("launching each kernel by itself"),
        "{note}"
    );
    assert!(note.contains("CAPTURE_INVALIDATED"), "{note}");
}

fn the_context_is_lost() {
    let cuda = open(timed());
    let kept = must(cuda.rows(1, 1));
    let first = add_ones(&cuda).expect_err("the third launch fails");
    let again = cuda
        .read_rows(&kept, 0..0)
        .and(cuda.vector(&[1.0]).map(drop));
    for error in [first, again.expect_err("the context is lost")] {
        let message = error.to_string();
        assert!(message.contains("ILLEGAL_ADDRESS"), "{message}");
    }
}

fn memory_is_out() {
    match Cuda::open(0, timed()) {
        Err(KernelError::OutOfMemory { device, .. }) => {
            assert_eq!(device, "a simulated GPU (cuda:0)");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was opened"),
    }
    must(add_ones(&open(timed())));
}

/// Products of 1, 3 and 40 rows in f32. They sum small integers, so order does not matter.
fn multiply(cuda: &Cuda) -> selfie_kernels::Result<()> {
    let (k, out) = (16, 8);
    let values = |n: usize| (0..n).map(|i| (i * 7 % 5) as f32 - 2.0).collect::<Vec<_>>();
    let w = Matrix::new(DType::F32, k, &values(out * k));
    let packed = cuda.matrix(&[&w], DType::F32)?;
    for n in [1, 3, 40, 1] {
        let a = values(n * k);
        let mut rows = cuda.rows(n, k)?;
        cuda.write_rows(&a, &mut rows)?;
        let mut acts = cuda.acts(n, k, DType::F32)?;
        cuda.cast(&rows, &mut acts)?;
        let mut sums = cuda.rows(n, out)?;
        cuda.linear(&acts, &packed, None, &mut sums)?;
        let want = reference::linear(&a, &w, None, None);
        assert_eq!(cuda.read_rows(&sums, 0..n)?, want);
        cuda.linear_add(&acts, &packed, None, &mut sums)?;
        let twice: Vec<f32> = want.iter().map(|x| 2.0 * x).collect();
        assert_eq!(cuda.read_rows(&sums, 0..n)?, twice);
    }
    // A new shape that adds to its output: the trial must not add.
    let w = Matrix::new(DType::F32, k, &values(3 * k));
    let packed = cuda.matrix(&[&w], DType::F32)?;
    let a = values(2 * k);
    let mut rows = cuda.rows(2, k)?;
    cuda.write_rows(&a, &mut rows)?;
    let mut acts = cuda.acts(2, k, DType::F32)?;
    cuda.cast(&rows, &mut acts)?;
    let mut sums = cuda.rows(2, 3)?;
    cuda.write_rows(&[1.0; 6], &mut sums)?;
    cuda.linear_add(&acts, &packed, None, &mut sums)?;
    let want = reference::linear(&a, &w, None, Some(&[1.0; 6]));
    assert_eq!(cuda.read_rows(&sums, 0..2)?, want);
    Ok(())
}

fn products_are_timed() {
    must(multiply(&open(timed())));
}

fn a_product_fails() {
    let cuda = open(CudaOptions {
        tune: false,
        ..CudaOptions::default()
    });
    let message = multiply(&cuda)
        .expect_err("the first product fails")
        .to_string();
    for part in ["[1, 16] by [16, 8]", "NOT_SUPPORTED"] {
        assert!(message.contains(part), "{message}");
    }
    // A failed product does not break the device.
    must(multiply(&cuda));
}

fn products_are_deterministic() {
    must(multiply(&open(CudaOptions {
        deterministic: true,
        ..CudaOptions::default()
    })));
}

fn copies_go_around_the_ring() {
    let cuda = open(timed());
    // Pieces of 12 MiB: one for each half of the ring, again and again, while nothing waits for the device.
    let width = 3 << 20;
    let mut rows: Vec<_> = (0..5).map(|_| must(cuda.rows(1, width))).collect();
    let values = |n: usize| {
        (0..width)
            .map(|i| (n * width + i) as f32)
            .collect::<Vec<_>>()
    };
    for (n, row) in rows.iter_mut().enumerate() {
        must(cuda.write_rows(&values(n), row));
    }
    for (n, row) in rows.iter().enumerate() {
        assert!(must(cuda.read_rows(row, 0..1)) == values(n), "row {n}");
    }
}

//! The state behind the calls: one simulated GPU and the objects created on it.

use std::collections::{HashMap, VecDeque};
use std::env;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use selfie_ptxsim::{Arg, Config, Gpu, Module, SimError, TensorCores};

use crate::faults::Faults;
use crate::product::Product;

/// Memory of the device.
pub(crate) const MEMORY: u64 = 8 << 30;
/// Shared memory of a block without an opt-in, and the most with one (compute capability 8.0).
pub(crate) const SHARED: u32 = 48 << 10;
pub(crate) const SHARED_OPTIN: u32 = 163 << 10;

/// Results of the driver API (`CUresult`).
pub(crate) const SUCCESS: i32 = 0;
pub(crate) const INVALID_VALUE: i32 = 1;
pub(crate) const OUT_OF_MEMORY: i32 = 2;
pub(crate) const INVALID_DEVICE: i32 = 101;
pub(crate) const INVALID_CONTEXT: i32 = 201;
pub(crate) const INVALID_PTX: i32 = 218;
pub(crate) const INVALID_HANDLE: i32 = 400;
pub(crate) const NOT_FOUND: i32 = 500;
pub(crate) const NOT_READY: i32 = 600;
pub(crate) const ILLEGAL_ADDRESS: i32 = 700;
pub(crate) const LAUNCH_FAILED: i32 = 719;
pub(crate) const CAPTURE_UNSUPPORTED: i32 = 900;
pub(crate) const CAPTURE_INVALIDATED: i32 = 901;

/// A call's failure is its `CUresult`.
pub(crate) type Result<T> = std::result::Result<T, i32>;

/// Handles are these indices plus 1, so that no handle is null.
pub(crate) struct Device {
    pub(crate) gpu: Gpu,
    pub(crate) modules: Vec<Module>,
    pub(crate) functions: Vec<Function>,
    /// Graphs and executable graphs.
    pub(crate) graphs: Vec<Vec<Op>>,
    pub(crate) events: Vec<Event>,
    pub(crate) streams: usize,
    pub(crate) faults: Faults,
    /// Requested work of all streams that has not run yet.
    queue: VecDeque<Op>,
    /// The error of work that ran. Every later call returns it, as in a lost context.
    lost: Option<i32>,
    /// The work of streams being captured.
    capturing: HashMap<usize, Vec<Op>>,
}

pub(crate) struct Function {
    pub(crate) module: Module,
    pub(crate) name: String,
    /// Dynamic shared memory requested by attribute.
    pub(crate) dynamic_shared: u32,
}

#[derive(Default)]
pub(crate) struct Event {
    /// When it was last reached.
    pub(crate) at: Option<Instant>,
    /// How many records of it are queued.
    pub(crate) waiting: usize,
}

/// Work for a stream. Pinned host memory is read when the work runs, as on a GPU.
#[derive(Clone)]
pub(crate) enum Op {
    Launch {
        function: usize,
        config: Config,
        args: Vec<Arg>,
    },
    Write {
        to: u64,
        from: usize,
        bytes: usize,
    },
    /// From memory that is not pinned; the driver takes it at once.
    WriteTaken {
        to: u64,
        bytes: Vec<u8>,
    },
    Read {
        from: u64,
        to: usize,
        bytes: usize,
    },
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Fill {
        at: u64,
        value: u8,
        bytes: usize,
    },
    Multiply(Product),
    Free(u64),
    Record(usize),
}

/// The device; only one call at a time uses it.
pub(crate) fn device() -> MutexGuard<'static, Device> {
    static DEVICE: LazyLock<Mutex<Device>> = LazyLock::new(|| {
        Mutex::new(Device {
            gpu: gpu_from_environment(),
            modules: Vec::new(),
            functions: Vec::new(),
            graphs: Vec::new(),
            events: Vec::new(),
            streams: 0,
            faults: Faults::from_environment(),
            queue: VecDeque::new(),
            lost: None,
            capturing: HashMap::new(),
        })
    });
    DEVICE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A GPU with the options that the crate's documentation lists.
fn gpu_from_environment() -> Gpu {
    let mut gpu = Gpu::with_memory(MEMORY);
    if let Ok(seed) = env::var("CUDASIM_SCHEDULE") {
        let seed = seed.parse();
        gpu.set_schedule(seed.unwrap_or_else(|e| panic!("CUDASIM_SCHEDULE: {e}")));
    }
    match env::var("CUDASIM_TENSOR_CORES").as_deref() {
        Err(_) => {}
        Ok("a100") => gpu.set_tensor_cores(TensorCores::A100),
        Ok("h100") => gpu.set_tensor_cores(TensorCores::H100),
        Ok(other) => panic!("CUDASIM_TENSOR_CORES={other}: expected a100 or h100"),
    }
    gpu
}

/// Explains an error on stderr, and returns its number.
pub(crate) fn refuse(code: i32, reason: impl std::fmt::Display) -> i32 {
    eprintln!("simulated GPU: {reason}");
    code
}

/// The `CUresult` of a simulator's error.
pub(crate) fn failed(error: SimError) -> i32 {
    let code = match error {
        SimError::OutOfMemory { .. } => OUT_OF_MEMORY,
        SimError::BadPointer { .. } => INVALID_VALUE,
        _ => LAUNCH_FAILED,
    };
    refuse(code, error)
}

impl Device {
    /// Queues the work, or records it if the stream is being captured.
    ///
    /// # Safety
    /// The host memory that the work names exists until the work has run, and as long as graphs with it may run.
    pub(crate) unsafe fn submit(&mut self, stream: usize, op: Op) -> Result<()> {
        self.check_lost()?;
        if let Some(captured) = self.capturing.get_mut(&stream) {
            captured.push(op);
            return Ok(());
        }
        if let Op::Record(event) = op {
            self.events[event].waiting += 1;
        }
        self.queue.push_back(op);
        Ok(())
    }

    /// The error of earlier work, if there was one.
    pub(crate) fn check_lost(&self) -> Result<()> {
        self.lost.map_or(Ok(()), Err)
    }

    /// Runs all queued work.
    pub(crate) fn drain(&mut self) -> Result<()> {
        self.drain_while(|device| !device.queue.is_empty())
    }

    /// Runs the work queued before the last record of an event, and no more: later work must not read its host memory
    /// yet.
    pub(crate) fn drain_to(&mut self, event: usize) -> Result<()> {
        self.drain_while(|device| device.events[event].waiting > 0)
    }

    fn drain_while(&mut self, more: impl Fn(&Self) -> bool) -> Result<()> {
        while self.lost.is_none() && more(self) {
            let Some(op) = self.queue.pop_front() else {
                break;
            };
            // SAFETY: the submitter promised that its host memory exists until it has run.
            self.lost = unsafe { self.run(&op) }.err();
        }
        self.check_lost()
    }

    /// An error while a stream is being captured: this call would wait for the device.
    pub(crate) fn check_may_wait(&self, what: &str) -> Result<()> {
        if self.capturing.is_empty() {
            Ok(())
        } else {
            Err(refuse(
                CAPTURE_UNSUPPORTED,
                format!("{what} while a stream is in capture"),
            ))
        }
    }

    pub(crate) fn is_capturing(&self, stream: usize) -> bool {
        self.capturing.contains_key(&stream)
    }

    pub(crate) fn begin_capture(&mut self, stream: usize) -> Result<()> {
        if stream == 0 {
            return Err(refuse(
                CAPTURE_UNSUPPORTED,
                "the null stream cannot be captured",
            ));
        }
        match self.capturing.insert(stream, Vec::new()) {
            None => Ok(()),
            Some(_) => Err(refuse(INVALID_VALUE, "this stream is in capture already")),
        }
    }

    pub(crate) fn end_capture(&mut self, stream: usize) -> Result<Vec<Op>> {
        let captured = self.capturing.remove(&stream);
        if self.faults.capture.is_due() {
            return Err(refuse(CAPTURE_INVALIDATED, "a capture fails, as requested"));
        }
        captured.ok_or_else(|| refuse(INVALID_VALUE, "this stream is not in capture"))
    }

    /// # Safety
    /// The host memory that the work names exists.
    pub(crate) unsafe fn run(&mut self, op: &Op) -> Result<()> {
        let done = match *op {
            Op::Launch {
                function,
                ref config,
                ref args,
            } => return self.launch(function, config, args),
            Op::Write { to, from, bytes } => {
                // SAFETY: the caller's promise.
                let host = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) };
                self.gpu.write(to, host)
            }
            Op::WriteTaken { to, ref bytes } => self.gpu.write(to, bytes),
            Op::Read { from, to, bytes } => {
                // SAFETY: the caller's promise.
                let host = unsafe { std::slice::from_raw_parts_mut(to as *mut u8, bytes) };
                self.gpu.read(from, host)
            }
            Op::Copy { to, from, bytes } => self.gpu.copy(to, from, bytes as u64),
            Op::Fill { at, value, bytes } => self.gpu.write(at, &vec![value; bytes]),
            Op::Multiply(ref product) => product.run(&mut self.gpu),
            Op::Free(address) => self.gpu.free(address),
            Op::Record(event) => {
                self.events[event].at = Some(Instant::now());
                self.events[event].waiting -= 1;
                Ok(())
            }
        };
        done.map_err(failed)
    }

    /// An error if the function cannot be launched like this.
    pub(crate) fn check_launch(&self, function: usize, config: &Config) -> Result<()> {
        let Function {
            module,
            name,
            dynamic_shared,
        } = &self.functions[function];
        let fixed = module.static_shared(name).map_err(failed)? as u32;
        let shared = fixed + config.dynamic_shared;
        if config.dynamic_shared > *dynamic_shared && shared > SHARED || shared > SHARED_OPTIN {
            return Err(refuse(
                INVALID_VALUE,
                format!(
                    "{name} uses {shared} bytes of shared memory; more than {SHARED} has to be asked for with \
                     MAX_DYNAMIC_SHARED_SIZE_BYTES (which is {dynamic_shared}), and {SHARED_OPTIN} are all there are"
                ),
            ));
        }
        Ok(())
    }

    fn launch(&mut self, function: usize, config: &Config, args: &[Arg]) -> Result<()> {
        let Function { module, name, .. } = &self.functions[function];
        if self.faults.illegal_address.is_due() {
            return Err(refuse(
                ILLEGAL_ADDRESS,
                format!("{name} accesses an illegal address, as requested"),
            ));
        }
        let report = self.gpu.launch(module, name, config, args);
        report.map(drop).map_err(failed)
    }
}

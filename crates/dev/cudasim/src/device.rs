//! The state behind the calls: one simulated GPU, and what was made on it.

use std::collections::{HashMap, VecDeque};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use selfie_ptxsim::{Arg, Config, Gpu, Module, SimError};

use crate::faults::Faults;
use crate::product::Product;

/// Memory of the device.
pub(crate) const MEMORY: u64 = 8 << 30;
/// Shared memory of a block that no one has to ask for, and the most there is (compute capability 8.0).
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

/// Handles are these indices plus 1, so that none is null.
pub(crate) struct Device {
    pub(crate) gpu: Gpu,
    pub(crate) modules: Vec<Module>,
    pub(crate) functions: Vec<Function>,
    /// Graphs and executable graphs alike.
    pub(crate) graphs: Vec<Vec<Op>>,
    pub(crate) events: Vec<Event>,
    pub(crate) streams: usize,
    pub(crate) faults: Faults,
    /// What was asked for and has not run, of all streams.
    queue: VecDeque<Op>,
    /// The error of work that ran: from then on, that of every call, as in a context that is lost.
    lost: Option<i32>,
    /// What streams in capture have been asked for.
    capturing: HashMap<usize, Vec<Op>>,
}

pub(crate) struct Function {
    pub(crate) module: Module,
    pub(crate) name: String,
    /// Dynamic shared memory that was asked for by attribute.
    pub(crate) dynamic_shared: u32,
}

#[derive(Default)]
pub(crate) struct Event {
    /// When it was reached last.
    pub(crate) at: Option<Instant>,
    /// Records of it in the queue.
    pub(crate) waiting: usize,
}

/// Work for a stream. Pinned host memory is looked at when it runs, as a GPU does.
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
    /// From memory that is not pinned: the driver takes it at once.
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

/// The device; one call at a time.
pub(crate) fn device() -> MutexGuard<'static, Device> {
    static DEVICE: LazyLock<Mutex<Device>> = LazyLock::new(|| {
        Mutex::new(Device {
            gpu: Gpu::with_memory(MEMORY),
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

/// Says on stderr what a number alone would not, and returns the number.
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
    /// Queues the work, or notes it where the stream is in capture.
    ///
    /// # Safety
    /// Host memory that the work names is there until it has run, for as long as graphs with it may run.
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

    /// The error of work that ran before, if there was one.
    pub(crate) fn check_lost(&self) -> Result<()> {
        self.lost.map_or(Ok(()), Err)
    }

    /// Runs what is queued.
    pub(crate) fn drain(&mut self) -> Result<()> {
        self.drain_while(|device| !device.queue.is_empty())
    }

    /// Runs what is queued in front of the last record of an event, and no more: work behind it is still to read its
    /// host memory.
    pub(crate) fn drain_to(&mut self, event: usize) -> Result<()> {
        self.drain_while(|device| device.events[event].waiting > 0)
    }

    fn drain_while(&mut self, more: impl Fn(&Self) -> bool) -> Result<()> {
        while self.lost.is_none() && more(self) {
            let Some(op) = self.queue.pop_front() else {
                break;
            };
            // SAFETY: who submitted it promised that its host memory is there until it has run.
            self.lost = unsafe { self.run(&op) }.err();
        }
        self.check_lost()
    }

    /// An error while a stream is in capture: this call would wait for the device.
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
            return Err(refuse(
                CAPTURE_INVALIDATED,
                "a capture fails, as was asked for",
            ));
        }
        captured.ok_or_else(|| refuse(INVALID_VALUE, "this stream is not in capture"))
    }

    /// # Safety
    /// Host memory that the work names is there.
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

    /// An error if a launch of the function could not be put on a stream.
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
                format!("{name} accesses an illegal address, as was asked for"),
            ));
        }
        let report = self.gpu.launch(module, name, config, args);
        report.map(drop).map_err(failed)
    }
}

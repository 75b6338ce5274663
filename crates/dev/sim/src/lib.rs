//! The GPU backend on a simulated GPU.
//!
//! [`Sim`] is [`selfie_kernels::gpu::Gpu`] with [`selfie_ptxsim`] executing every kernel, and with matrix products in
//! plain Rust. So everything in a GPU backend except its driver is tested on machines without a GPU: launch plans,
//! buffers, and the PTX itself with the simulator's checks.

mod gemm;
mod modules;
pub mod survey;

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};
use selfie_kernels::gpu::plan::Splits;
use selfie_kernels::gpu::{Arg, Driver, Gemm, Gpu, Launch};
use selfie_kernels::{KernelError, Memory, Result};
use selfie_ptxsim::{Config, Report, SimError, TensorCores};

pub use modules::module;

/// The GPU backend, simulated.
pub type Sim = Gpu<SimDriver>;

/// A simulated backend, in its deterministic mode.
pub fn sim() -> Result<Sim> {
    Gpu::new(SimDriver::new(), Splits::Fixed)
}

/// A driver that simulates.
pub struct SimDriver {
    state: Mutex<State>,
}

struct State {
    gpu: selfie_ptxsim::Gpu,
    /// The launches of each entry, and the last of them.
    ran: BTreeMap<&'static str, Ran>,
}

/// The launches of one kernel.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The last launch.
    pub launch: Launch,
    /// The reports of all of them, added up.
    pub report: Report,
}

impl SimDriver {
    /// A device without allocations.
    pub fn new() -> Self {
        let state = State {
            gpu: selfie_ptxsim::Gpu::new(),
            ran: BTreeMap::new(),
        };
        Self {
            state: Mutex::new(state),
        }
    }

    /// The same with warps scheduled at random ([`Gpu::set_schedule`](selfie_ptxsim::Gpu::set_schedule)).
    pub fn scheduled(self, seed: u64) -> Self {
        self.state().gpu.set_schedule(seed);
        self
    }

    /// The same with another rounding of tensor cores, in kernels and in products of 16 bits.
    pub fn rounding_as(self, tensor_cores: TensorCores) -> Self {
        self.state().gpu.set_tensor_cores(tensor_cores);
        self
    }

    /// Everything that has run since the last call, by the name of the entry.
    pub fn take_ran(&self) -> BTreeMap<&'static str, Ran> {
        std::mem::take(&mut self.state().ran)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, doing: impl Into<String>, error: &SimError) -> KernelError {
        KernelError::Device {
            device: self.describe(),
            doing: doing.into(),
            reason: error.to_string(),
        }
    }
}

impl Default for SimDriver {
    fn default() -> Self {
        Self::new()
    }
}

impl Driver for SimDriver {
    fn describe(&self) -> String {
        "a simulated GPU".to_owned()
    }

    fn memory(&self) -> Result<Memory> {
        let (used, total) = self.state().gpu.memory();
        Ok(Memory {
            total,
            available: total - used,
        })
    }

    fn alloc(&self, what: &'static str, bytes: u64) -> Result<u64> {
        let Memory { available, .. } = self.memory()?;
        if bytes > available {
            return Err(KernelError::OutOfMemory {
                what,
                bytes,
                available,
                device: self.describe(),
            });
        }
        let address = self.state().gpu.alloc(bytes);
        address.map_err(|e| self.failed(format!("allocating {what}"), &e))
    }

    unsafe fn free(&self, address: u64) {
        let freed = self.state().gpu.free(address);
        assert!(freed.is_ok(), "{freed:?}");
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        let written = self.state().gpu.write(to, bytes);
        written.map_err(|e| self.failed("copying to the device", &e))
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        let read = self.state().gpu.read(from, bytes);
        read.map_err(|e| self.failed("copying from the device", &e))
    }

    unsafe fn zero(&self, at: u64, bytes: u64) -> Result<()> {
        let written = self.state().gpu.write(at, &vec![0; bytes as usize]);
        written.map_err(|e| self.failed("setting memory to zero", &e))
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        let module = modules::module(launch.module)?;
        let config = Config {
            grid: launch.grid,
            block: launch.block,
            dynamic_shared: launch.shared_bytes,
        };
        let args: Vec<selfie_ptxsim::Arg> = launch.args.iter().map(|&arg| argument(arg)).collect();
        let mut state = self.state();
        let gpu = &mut state.gpu;
        let report = aside(|| gpu.launch(&module, launch.entry, &config, &args))
            .map_err(|e| self.failed(format!("running {}", launch.entry), &e))?;
        match state.ran.get_mut(launch.entry) {
            Some(ran) => {
                ran.report += report;
                ran.launch = launch.clone();
            }
            None => {
                let launch = launch.clone();
                state.ran.insert(launch.entry, Ran { launch, report });
            }
        }
        Ok(())
    }

    unsafe fn gemm(&self, gemm: &Gemm) -> Result<()> {
        let mut state = self.state();
        let gpu = &mut state.gpu;
        aside(|| gemm::gemm(gpu, gemm)).map_err(|e| self.failed("multiplying matrices", &e))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

/// Runs `work` on the simulator's own threads. The caller holds the device's lock and sleeps meanwhile. If it waited as
/// a rayon thread, it could start another caller's work and wait for itself.
fn aside<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    static POOL: LazyLock<ThreadPool> = LazyLock::new(|| {
        let pool = ThreadPoolBuilder::new().build();
        pool.expect("a pool of as many threads as there are cores")
    });
    let done = thread::scope(|scope| scope.spawn(|| POOL.install(work)).join());
    done.unwrap_or_else(|panic| resume_unwind(panic))
}

fn argument(arg: Arg) -> selfie_ptxsim::Arg {
    match arg {
        Arg::Ptr(x) | Arg::U64(x) => selfie_ptxsim::Arg::U64(x),
        Arg::U32(x) => selfie_ptxsim::Arg::U32(x),
        Arg::F32(x) => selfie_ptxsim::Arg::F32(x),
    }
}

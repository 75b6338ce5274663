//! NVIDIA GPUs, through the CUDA driver and cuBLASLt.
//!
//! Both libraries are loaded when a device is opened, so that a program which contains this module starts without them.
//! One stream takes all work. Launches and products are not sent to it one by one: 48 are collected, or fewer if
//! something has to come before or after them (a copy, a read). A series that comes again, as those of a
//! decode step does, is sent as one CUDA graph.

mod device;
mod event;
mod graphs;
mod modules;
mod problem;
mod products;
mod profile;
mod staging;
mod stream;
mod tune;

use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::result;

use super::plan::Splits;
use super::{Arg, Driver, Gemm, Gpu, Launch, Module};
use crate::{KernelError, Memory, Result};
use device::Device;
pub use modules::KernelUse;
pub use profile::Timed;
use stream::Stream;

/// The backend on an NVIDIA GPU.
pub type Cuda = Gpu<CudaDriver>;

/// How to set up a [`Cuda`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaOptions {
    /// A row gives the same bits in any batch. Products then take one algorithm for any number of rows and no
    /// split sums, and attention cuts contexts at fixed places: slower, above all for few rows.
    pub deterministic: bool,
    /// Whether the first products of a shape are timed with several of cuBLASLt's algorithms, to keep the fastest; without,
    /// its heuristic's first choice is taken, so that a run gives what the one before gave. Off by default: on an H200 it
    /// makes decode steps of 64 rows 5% faster, a sweep no faster, and the first one 0.8 s longer. Deterministic products
    /// have one algorithm for all numbers of rows, and are not timed.
    pub tune: bool,
    /// Whether a series of launches that comes again is replayed as a graph; without, each is launched by itself.
    pub graphs: bool,
    /// Whether products of at most 16 rows are our own kernel's; without, and in deterministic mode, cuBLASLt has all.
    pub matvec: bool,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self {
            deterministic: false,
            tune: false,
            graphs: true,
            matvec: true,
        }
    }
}

impl Cuda {
    /// Opens a device.
    ///
    /// Fails with an error that says what is missing if there is no driver or no such device, if the driver is older than
    /// CUDA 12.0, the device older than compute capability 8.0, or cuBLASLt not found.
    pub fn open(ordinal: usize, options: CudaOptions) -> Result<Self> {
        let driver = CudaDriver::open(ordinal, options)?;
        let splits = match options.deterministic {
            true => Splits::Fixed,
            false => Splits::Fill {
                multiprocessors: driver.device.multiprocessors,
            },
        };
        let gpu = Gpu::new(driver, splits)?;
        Ok(if options.matvec {
            gpu
        } else {
            gpu.without_matvec()
        })
    }

    /// The number of devices: 0 without a driver.
    pub fn devices() -> Result<usize> {
        match device::count() {
            Err(KernelError::NoCudaDriver) => Ok(0),
            count => count,
        }
    }
}

/// The driver of one NVIDIA GPU.
pub struct CudaDriver {
    device: Device,
    /// Taken apart while the device's context is current.
    stream: Option<Mutex<Stream>>,
}

impl CudaDriver {
    fn open(ordinal: usize, options: CudaOptions) -> Result<Self> {
        let device = Device::open(ordinal)?;
        let stream = Stream::new(&device, options)?;
        Ok(Self {
            device,
            stream: Some(Mutex::new(stream)),
        })
    }

    /// Why series of launches are not replayed as graphs any more: making one failed, and since then each launch is sent by
    /// itself, which is slower for few rows and computes the same.
    pub fn graphs_failed(&self) -> Result<Option<String>> {
        Ok(self.stream()?.graphs_failed().map(str::to_owned))
    }

    /// Copies within the device: what bandwidths of kernels are measured against.
    ///
    /// # Safety
    /// Both ranges of `bytes` lie in one allocation each, and do not overlap.
    pub unsafe fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<()> {
        // SAFETY: the caller's ranges.
        unsafe { self.stream()?.copy(from, to, bytes) }
    }

    /// Seconds of the device's own clock from the beginning of `work` to its end. The device waits where the host is
    /// slower in asking than the device in doing.
    pub fn timed(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let start = self.stream()?.send_and_mark()?;
        work()?;
        let mut stream = self.stream()?;
        let end = stream.send_and_mark()?;
        stream.seconds_between(&start, &end)
    }

    /// The time of each launch and each product that `work` asks for, in order. They are sent one by one, not as graphs,
    /// so their sum is more than the time of the work without a profile.
    pub fn profiled(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<Timed>> {
        self.stream()?.start_profile()?;
        let done = work();
        let times = self.stream()?.take_profile();
        done.and(times)
    }

    /// Assembles a module for this device, and says what each of its kernels takes.
    pub fn assemble(&self, module: Module) -> Result<Vec<KernelUse>> {
        self.device.make_current()?;
        modules::assemble(&self.device.name, module)
    }

    /// Assembles PTX that is not one of our files, runs a kernel of it once, and waits for it.
    ///
    /// # Safety
    /// The kernel takes these arguments, and what it does with them stays in its allocations.
    pub unsafe fn run_ptx(
        &self,
        source: &str,
        entry: &str,
        [blocks, threads]: [u32; 2],
        args: &[Arg],
    ) -> Result<()> {
        // SAFETY: the caller vouches for the kernel.
        unsafe {
            self.stream()?
                .run_ptx(source, entry, [blocks, threads], args)
        }
    }

    /// The stream, with the device's context current on this thread.
    fn stream(&self) -> Result<MutexGuard<'_, Stream>> {
        self.device.make_current()?;
        let stream = self.stream.as_ref().expect("it is there until the drop");
        // A panic may have left launches behind; they are complete ones.
        Ok(stream.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for CudaDriver {
    fn drop(&mut self) {
        // Without a context nothing of the stream is left to be given back.
        if self.device.make_current().is_ok() {
            self.stream = None;
        } else {
            std::mem::forget(self.stream.take());
        }
    }
}

impl Driver for CudaDriver {
    fn describe(&self) -> String {
        self.device.describe()
    }

    fn memory(&self) -> Result<Memory> {
        self.device.memory()
    }

    fn alloc(&self, what: &'static str, bytes: u64) -> Result<u64> {
        self.device.alloc(what, bytes)
    }

    unsafe fn free(&self, address: u64) {
        // What was asked for before is not sent yet, or still running: a free waits for the device.
        // An error of that work comes out of the next call, too.
        if let Ok(mut stream) = self.stream() {
            let _ = stream.send();
            // SAFETY: the address came from `alloc`, and nothing uses it after what has just been sent.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's range.
        unsafe { self.stream()?.write(to, bytes) }
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's range.
        unsafe { self.stream()?.read(from, bytes) }
    }

    unsafe fn zero(&self, at: u64, bytes: u64) -> Result<()> {
        // SAFETY: the caller's range.
        unsafe { self.stream()?.zero(at, bytes) }
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        self.stream()?.launch(launch)
    }

    unsafe fn gemm(&self, gemm: &Gemm) -> Result<()> {
        self.stream()?.gemm(gemm)
    }

    fn synchronize(&self) -> Result<()> {
        self.stream()?.synchronize()
    }
}

//! NVIDIA GPUs, through the CUDA driver and cuBLASLt.
//!
//! Both libraries are loaded when a device is opened, so a program with this module starts without them. All work goes
//! to one stream. Launches and products are not sent one by one: up to 48 are collected, and a copy or a read sends
//! what there is. A series that comes again, such as that of a decode step, is sent as one CUDA graph.

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
    /// Whether a row gives the same bits in any batch. Products then use one algorithm for any number of rows and never
    /// split sums, and attention does not split contexts. This is slower, above all for few rows.
    pub deterministic: bool,
    /// Whether to time the first products of a shape with several of cuBLASLt's algorithms and keep the fastest.
    /// Otherwise the first choice of its heuristic is used, and every run gives the same result. Off by default: on an
    /// H200 timing makes decode steps of 64 rows 5% faster and a sweep no faster, and the first sweep takes 0.8 s
    /// longer. Deterministic products use one algorithm for all numbers of rows and are not timed.
    pub tune: bool,
    /// Whether to replay a repeated series of launches as a graph. Otherwise each launch is sent by itself.
    pub graphs: bool,
    /// Whether our own kernel computes products of at most 16 rows. Otherwise, and in deterministic mode, cuBLASLt
    /// computes all of them.
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
    /// An error says what is missing: no driver, no such device, a driver older than CUDA 12.0, a device older than
    /// compute capability 8.0, or no cuBLASLt.
    pub fn open(ordinal: usize, options: CudaOptions) -> Result<Self> {
        let driver = CudaDriver::open(ordinal, options)?;
        let splits = if options.deterministic {
            Splits::Fixed
        } else {
            Splits::Fill {
                multiprocessors: driver.device.multiprocessors,
            }
        };
        let gpu = Gpu::new(driver, splits)?;
        Ok(if options.matvec {
            gpu
        } else {
            gpu.without_matvec()
        })
    }

    /// The number of devices; 0 without a driver.
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
    /// `None` once dropped; it must be dropped while the device's context is current.
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

    /// Why series of launches are no longer replayed as graphs: capturing one failed. Since then each launch is sent by
    /// itself, which gives the same results and is slower for few rows.
    pub fn graphs_failed(&self) -> Result<Option<String>> {
        Ok(self.stream()?.graphs_failed().map(str::to_owned))
    }

    /// Calls `tell` once with that reason when a capture fails, in the middle of an op: it must not call this device.
    /// Replaces an earlier `tell`.
    pub fn when_graphs_fail(&self, tell: impl Fn(&str) + Send + 'static) -> Result<()> {
        self.stream()?.when_graphs_fail(Box::new(tell));
        Ok(())
    }

    /// Copies within the device. The bandwidth of kernels is measured against this.
    ///
    /// # Safety
    /// Each range of `bytes` lies in one allocation, and the two do not overlap.
    pub unsafe fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<()> {
        // SAFETY: the caller's ranges.
        unsafe { self.stream()?.copy(from, to, bytes) }
    }

    /// Seconds from the beginning of `work` to its end, by the device's clock. This includes time in which the device
    /// waits for the host to send work.
    pub fn timed(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let start = self.stream()?.send_and_mark()?;
        work()?;
        let mut stream = self.stream()?;
        let end = stream.send_and_mark()?;
        stream.seconds_between(&start, &end)
    }

    /// The time of each launch and product in `work`, in order. They are sent one by one, not as graphs, so their sum
    /// exceeds the time of the work without a profile.
    pub fn profiled(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<Timed>> {
        self.stream()?.start_profile()?;
        let done = work();
        let times = self.stream()?.take_profile();
        done.and(times)
    }

    /// Assembles a module for this device, and returns the resources that each of its kernels uses.
    pub fn assemble(&self, module: Module) -> Result<Vec<KernelUse>> {
        self.device.make_current()?;
        modules::assemble(&self.device.name, module)
    }

    /// Assembles PTX that is not one of our files, runs one of its kernels once, and waits for it.
    ///
    /// # Safety
    /// The kernel takes these arguments, and accesses memory only inside its allocations.
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
        // A panic may have left launches behind; each of them is complete.
        Ok(stream.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for CudaDriver {
    fn drop(&mut self) {
        // Without a context, nothing of the stream is left to free.
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
        // Earlier work may not be sent yet, or may still be running; a free waits for the device. If that work fails,
        // the next call reports it too.
        if let Ok(mut stream) = self.stream() {
            let _ = stream.send();
            // SAFETY: the address came from `alloc`, and nothing uses it after the work just sent.
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

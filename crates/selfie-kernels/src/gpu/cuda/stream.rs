//! The one stream: what is asked for is collected, and sent in order.

use std::ffi::c_void;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::CudaOptions;
use super::device::{Device, failed};
use super::event::Event;
use super::graphs::{Graphs, Kernel, Next, Work};
use super::modules::{LoadedModule, Modules};
use super::products::Products;
use super::profile::{Profile, Timed};
use super::staging::{HALF, Pinned, Staging};
use crate::gpu::{Arg, Gemm, Launch};
use crate::{KernelError, Result};

/// Reads of up to so many bytes go through pinned memory: the chosen tokens of a step do.
const SMALL_READ: usize = 64 << 10;

/// Pieces of work that are sent together, so that the device is at work while the host makes the next ones; a step's
/// series is cut at the same places each time.
const CHUNK: usize = 48;

/// A stream with everything that its work uses. Fields are dropped in their order, after the stream was waited for.
pub(super) struct Stream {
    device: String,
    /// Launches and products that have not been sent.
    pending: Vec<Work>,
    graphs: Option<Graphs<Graph>>,
    /// Where each piece of work is timed by itself.
    profile: Option<Profile>,
    /// Why there are no graphs any more.
    graphs_failed: Option<String>,
    products: Products,
    modules: Modules,
    staging: Staging,
    small: Pinned,
    stream: OwnStream,
}

// SAFETY: handles may be used from any thread on which the context is current, and the driver locks the stream.
unsafe impl Send for Stream {}

impl Stream {
    pub(super) fn new(device: &Device, options: CudaOptions) -> Result<Self> {
        let own = |e| device.failed("making a stream and its buffers", e);
        Ok(Self {
            device: device.name.clone(),
            pending: Vec::new(),
            graphs: options.graphs.then(Graphs::new),
            profile: None,
            graphs_failed: None,
            products: Products::new(device, options)?,
            modules: Modules::new(&device.name, device.shared_bytes),
            staging: Staging::new().map_err(own)?,
            small: Pinned::new(SMALL_READ).map_err(own)?,
            stream: OwnStream::new().map_err(own)?,
        })
    }

    /// Collects a launch.
    pub(super) fn launch(&mut self, launch: &Launch) -> Result<()> {
        let Launch {
            module,
            entry,
            grid,
            block,
            shared_bytes,
            ref args,
        } = *launch;
        let function = self.modules.number(module, entry, shared_bytes)?;
        self.collect(Work::Kernel(Kernel {
            function,
            grid,
            block,
            shared_bytes,
            args: args.iter().map(|&arg| bits(arg)).collect(),
        }))
    }

    /// Collects a product.
    pub(super) fn gemm(&mut self, gemm: &Gemm) -> Result<()> {
        if self.products.is_new(gemm) {
            // It may be timed, with the operand that is on its way and on the output that it is to replace.
            self.send()?;
            self.products.prepare(gemm, self.stream.0)?;
        }
        self.collect(Work::Product(*gemm))
    }

    fn collect(&mut self, work: Work) -> Result<()> {
        self.pending.push(work);
        if self.pending.len() == CHUNK {
            self.send()?;
        }
        Ok(())
    }

    /// Sends what has been collected: as a graph, if the same has been collected before.
    pub(super) fn send(&mut self) -> Result<()> {
        let work = std::mem::take(&mut self.pending);
        if self.profile.is_some() {
            return self.send_timed(&work);
        }
        let next = match &mut self.graphs {
            Some(graphs) => graphs.next(&work),
            None => Next::Send,
        };
        match next {
            Next::Send => {
                self.send_all(&work)?;
                // Its memory serves the next series.
                self.pending = work;
                self.pending.clear();
                Ok(())
            }
            Next::Replay(graph) => {
                let sent = graph.launch(self.stream.0);
                sent.map_err(|e| self.failed("launching a graph", e))?;
                self.pending = work;
                self.pending.clear();
                Ok(())
            }
            Next::Capture => {
                match self.capture(&work) {
                    Ok(graph) => {
                        if let Some(graphs) = &mut self.graphs {
                            graphs.insert(work, graph);
                        }
                    }
                    // Nothing of it has run. What is wrong with the device itself comes out of the launches.
                    Err(error) => {
                        self.send_all(&work)?;
                        self.graphs = None;
                        self.graphs_failed = Some(error.to_string());
                    }
                }
                Ok(())
            }
        }
    }

    /// Why series of launches are no longer replayed as graphs, if that was tried and failed.
    pub(super) fn graphs_failed(&self) -> Option<&str> {
        self.graphs_failed.as_deref()
    }

    /// A graph of the work, which has been sent as that. After an error nothing has been sent.
    fn capture(&self, work: &[Work]) -> Result<Graph> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is not being captured.
        let begun = unsafe { result::stream::begin_capture(self.stream.0, mode) };
        begun.map_err(|e| self.failed("beginning a graph", e))?;
        let sent = self.send_all(work);
        // SAFETY: the capture was begun above, on this thread.
        let graph = unsafe { result::stream::end_capture(self.stream.0) };
        // What went wrong first is what ended the capture.
        sent?;
        let graph = graph.map_err(|e| self.failed("ending a graph", e))?;
        // SAFETY: the graph is complete.
        let made = unsafe { result::graph::instantiate(graph, CUgraphInstantiate_flags(0)) };
        // SAFETY: the executable graph does not need it.
        let _ = unsafe { result::graph::destroy(graph) };
        let graph = Graph(made.map_err(|e| self.failed("making a graph", e))?);
        let sent = graph.launch(self.stream.0);
        sent.map_err(|e| self.failed("launching a graph", e))?;
        Ok(graph)
    }

    fn send_all(&self, work: &[Work]) -> Result<()> {
        work.iter().try_for_each(|work| self.send_one(work))
    }

    fn send_one(&self, work: &Work) -> Result<()> {
        match work {
            Work::Kernel(kernel) => self.send_kernel(kernel),
            // SAFETY: the driver's caller vouches for the addresses.
            Work::Product(gemm) => unsafe { self.products.send(gemm, self.stream.0) },
        }
    }

    /// Sends each piece by itself, with an event before and behind it.
    fn send_timed(&mut self, work: &[Work]) -> Result<()> {
        for piece in work {
            let start = self.mark()?;
            self.send_one(piece)?;
            let end = self.mark()?;
            let name = match piece {
                Work::Kernel(kernel) => self.modules.function(kernel.function).entry.to_owned(),
                Work::Product(Gemm { m, n, k, .. }) => format!("product {m} x {n} x {k}"),
            };
            if let Some(profile) = &mut self.profile {
                profile.add(name, start, end);
            }
        }
        Ok(())
    }

    /// A point of the stream that knows when the device got there.
    fn mark(&self) -> Result<Event> {
        let mark = || {
            let event = Event::timed()?;
            event.record(self.stream.0)?;
            Ok(event)
        };
        mark().map_err(|e| self.failed("marking a point in time", e))
    }

    /// Sends what is pending, and marks the point behind it.
    pub(super) fn send_and_mark(&mut self) -> Result<Event> {
        self.send()?;
        self.mark()
    }

    /// Waits for all work, and says how much of it lay between two marks.
    pub(super) fn seconds_between(&mut self, start: &Event, end: &Event) -> Result<f64> {
        self.synchronize()?;
        let seconds = end.seconds_since(start);
        seconds.map_err(|e| self.failed("reading a time", e))
    }

    /// From now on each piece of work is sent by itself and timed, until [`take_profile`](Self::take_profile).
    pub(super) fn start_profile(&mut self) -> Result<()> {
        self.synchronize()?;
        self.profile = Some(Profile::default());
        Ok(())
    }

    /// What has been timed, in order.
    pub(super) fn take_profile(&mut self) -> Result<Vec<Timed>> {
        self.synchronize()?;
        let times = self.profile.take().unwrap_or_default().times();
        times.map_err(|e| self.failed("reading times", e))
    }

    fn send_kernel(&self, kernel: &Kernel) -> Result<()> {
        let function = self.modules.function(kernel.function);
        let Kernel {
            grid,
            block,
            shared_bytes,
            ref args,
            ..
        } = *kernel;
        let launched = self.launch_function(function.handle, grid, block, shared_bytes, args);
        launched.map_err(|e| self.failed(format!("launching {}", function.entry), e))
    }

    fn launch_function(
        &self,
        function: sys::CUfunction,
        [x, y, z]: [u32; 3],
        [block_x, block_y, block_z]: [u32; 3],
        shared_bytes: u32,
        args: &[u64],
    ) -> Result<(), DriverError> {
        // A 32-bit argument is read from the lower half of its bits.
        let args = args.iter();
        let mut args: Vec<*mut c_void> = args.map(|arg| (&raw const *arg) as *mut _).collect();
        // SAFETY: the driver's caller vouches for the arguments, which are copied before the call returns.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (block_x, block_y, block_z),
                shared_bytes,
                self.stream.0,
                &mut args,
            )
        }
    }

    /// # Safety
    /// `to..to + bytes.len()` lies in one allocation.
    pub(super) unsafe fn write(&mut self, to: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.send()?;
        for (i, part) in bytes.chunks(HALF).enumerate() {
            let staged = self.staging.piece(part.len(), self.stream.0);
            let piece = staged.map_err(|e| failed(&self.device, "staging a copy", e))?;
            piece.copy_from_slice(part);
            let to = to + (i * HALF) as u64;
            // SAFETY: the part's place in the caller's range; the piece is not written again before its half has been
            // waited for.
            let sent = unsafe { result::memcpy_htod_async(to, piece, self.stream.0) };
            sent.map_err(|e| self.failed("copying to it", e))?;
        }
        Ok(())
    }

    /// # Safety
    /// `from..from + bytes.len()` lies in one allocation.
    pub(super) unsafe fn read(&mut self, from: u64, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.send()?;
        if bytes.len() > SMALL_READ {
            // SAFETY: the range is the caller's, and it is waited for before `bytes` is given back.
            let sent = unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.0) };
            sent.map_err(|e| self.failed("copying from it", e))?;
            return self.wait();
        }
        let small = &mut self.small.bytes()[..bytes.len()];
        // SAFETY: the range is the caller's, and it is waited for before anything else is read.
        let sent = unsafe { result::memcpy_dtoh_async(small, from, self.stream.0) };
        sent.map_err(|e| self.failed("copying from it", e))?;
        self.wait()?;
        bytes.copy_from_slice(&self.small.bytes()[..bytes.len()]);
        Ok(())
    }

    /// # Safety
    /// `at..at + bytes` lies in one allocation.
    pub(super) unsafe fn zero(&mut self, at: u64, bytes: u64) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.send()?;
        // SAFETY: the range is the caller's.
        let sent = unsafe { result::memset_d8_async(at, 0, bytes as usize, self.stream.0) };
        sent.map_err(|e| self.failed("setting memory to zero", e))
    }

    /// # Safety
    /// Both ranges of `bytes` lie in one allocation each, and do not overlap.
    pub(super) unsafe fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<()> {
        self.send()?;
        // SAFETY: the ranges are the caller's.
        let sent = unsafe { result::memcpy_dtod_async(to, from, bytes as usize, self.stream.0) };
        sent.map_err(|e| self.failed("copying within it", e))
    }

    /// # Safety
    /// The kernel takes these arguments, and what it does with them stays in its allocations.
    pub(super) unsafe fn run_ptx(
        &mut self,
        source: &str,
        entry: &str,
        [blocks, threads]: [u32; 2],
        args: &[Arg],
    ) -> Result<()> {
        self.send()?;
        let module = LoadedModule::new(&self.device, entry, source)?;
        let handle = module.function(&self.device, entry)?;
        let args: Vec<u64> = args.iter().map(|&arg| bits(arg)).collect();
        let launched = self.launch_function(handle, [blocks, 1, 1], [threads, 1, 1], 0, &args);
        launched.map_err(|e| self.failed(format!("launching {entry}"), e))?;
        self.wait()
    }

    pub(super) fn synchronize(&mut self) -> Result<()> {
        self.send()?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        let done = self.stream.wait();
        done.map_err(|e| self.failed("waiting for its work", e))
    }

    fn failed(&self, doing: impl Into<String>, error: DriverError) -> KernelError {
        failed(&self.device, doing, error)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // What is pending nobody will read.
        let _ = self.stream.wait();
    }
}

/// An argument's bits.
fn bits(arg: Arg) -> u64 {
    match arg {
        Arg::Ptr(x) | Arg::U64(x) => x,
        Arg::U32(x) => x.into(),
        Arg::F32(x) => x.to_bits().into(),
    }
}

/// A graph that can be launched.
struct Graph(sys::CUgraphExec);

impl Graph {
    fn launch(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: both are alive; buffers of the graph's work are those of the work that was asked for just now.
        unsafe { result::graph::launch(self.0, stream) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: it is this value's own; the driver keeps what is still running.
        let _ = unsafe { result::graph::exec_destroy(self.0) };
    }
}

/// A stream that does not wait for the default one.
struct OwnStream(sys::CUstream);

impl OwnStream {
    fn new() -> Result<Self, DriverError> {
        let kind = result::stream::StreamKind::NonBlocking;
        Ok(Self(result::stream::create(kind)?))
    }

    fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: the stream is this value's own.
        unsafe { result::stream::synchronize(self.0) }
    }
}

impl Drop for OwnStream {
    fn drop(&mut self) {
        // SAFETY: the stream is this value's own.
        let _ = unsafe { result::stream::destroy(self.0) };
    }
}

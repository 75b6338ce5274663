//! The stream: work is collected and sent in order.

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

/// Reads up to this many bytes go through pinned memory, such as the chosen tokens of a step.
const SMALL_READ: usize = 64 << 10;

/// Pieces of work to send together, so that the device works while the host prepares the next ones. A step's series is
/// cut at the same places each time.
const CHUNK: usize = 48;

/// Receives the reason of a failure.
pub(super) type TellReason = Box<dyn Fn(&str) + Send>;

/// A stream with everything that its work uses. Fields are dropped in order, after waiting for the stream.
pub(super) struct Stream {
    device: String,
    /// Launches and products not sent yet.
    pending: Vec<Work>,
    graphs: Option<Graphs<Graph>>,
    /// Set while each piece of work is timed by itself.
    profile: Option<Profile>,
    /// Why graphs are no longer used.
    graphs_failed: Option<String>,
    /// Told that reason.
    when_graphs_fail: Option<TellReason>,
    products: Products,
    modules: Modules,
    staging: Staging,
    read_buffer: Pinned,
    stream: StreamHandle,
}

// SAFETY: any thread on which the context is current may use the handles, and the driver locks the stream.
unsafe impl Send for Stream {}

impl Stream {
    pub(super) fn new(device: &Device, options: CudaOptions) -> Result<Self> {
        let failed = |e| device.failed("making a stream and its buffers", e);
        Ok(Self {
            device: device.name.clone(),
            pending: Vec::new(),
            graphs: options.graphs.then(Graphs::new),
            profile: None,
            graphs_failed: None,
            when_graphs_fail: None,
            products: Products::new(device, options)?,
            modules: Modules::new(&device.name, device.shared_bytes),
            staging: Staging::new().map_err(failed)?,
            read_buffer: Pinned::new(SMALL_READ).map_err(failed)?,
            stream: StreamHandle::new().map_err(failed)?,
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
            // Choosing an algorithm may time the product: its operand must be on its way, and its output may be
            // overwritten.
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

    /// Sends the collected work: as a graph, if the same work was collected before.
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
                // Reuse the memory for the next series.
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
                    // None of it has run. If the device itself is at fault, the launches report it.
                    Err(error) => {
                        self.send_all(&work)?;
                        self.graphs = None;
                        let reason = self.graphs_failed.insert(error.to_string());
                        if let Some(tell) = &self.when_graphs_fail {
                            tell(reason);
                        }
                    }
                }
                Ok(())
            }
        }
    }

    /// Why series of launches are no longer replayed as graphs, if a capture failed.
    pub(super) fn graphs_failed(&self) -> Option<&str> {
        self.graphs_failed.as_deref()
    }

    /// Sets who is told when a capture fails.
    pub(super) fn when_graphs_fail(&mut self, tell: TellReason) {
        self.when_graphs_fail = Some(tell);
    }

    /// Captures the work as a graph and sends it. After an error, nothing has been sent.
    fn capture(&self, work: &[Work]) -> Result<Graph> {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is not being captured.
        let begun = unsafe { result::stream::begin_capture(self.stream.0, mode) };
        begun.map_err(|e| self.failed("beginning a graph", e))?;
        let sent = self.send_all(work);
        // SAFETY: the capture was begun above, on this thread.
        let graph = unsafe { result::stream::end_capture(self.stream.0) };
        // The first failure is the one that ended the capture.
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

    /// Sends each piece by itself, with an event before and after it.
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

    /// An event that records when the device reached it.
    fn mark(&self) -> Result<Event> {
        let mark = || {
            let event = Event::timed()?;
            event.record(self.stream.0)?;
            Ok(event)
        };
        mark().map_err(|e| self.failed("marking a point in time", e))
    }

    /// Sends the pending work, and marks the point after it.
    pub(super) fn send_and_mark(&mut self) -> Result<Event> {
        self.send()?;
        self.mark()
    }

    /// Waits for all work, and returns the time between two marks.
    pub(super) fn seconds_between(&mut self, start: &Event, end: &Event) -> Result<f64> {
        self.synchronize()?;
        let seconds = end.seconds_since(start);
        seconds.map_err(|e| self.failed("reading a time", e))
    }

    /// Sends each piece of work by itself and times it, until [`take_profile`](Self::take_profile).
    pub(super) fn start_profile(&mut self) -> Result<()> {
        self.synchronize()?;
        self.profile = Some(Profile::default());
        Ok(())
    }

    /// The times so far, in order.
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
        // The driver reads a 32-bit argument from the lower half of its bits.
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
            // SAFETY: the part lies in the caller's range. The piece is not written again before its half has been
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
            // SAFETY: the range is the caller's; the copy is waited for before `bytes` is returned.
            let sent = unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.0) };
            sent.map_err(|e| self.failed("copying from it", e))?;
            return self.wait();
        }
        let buffer = &mut self.read_buffer.bytes()[..bytes.len()];
        // SAFETY: the range is the caller's; the copy is waited for before anything else is read.
        let sent = unsafe { result::memcpy_dtoh_async(buffer, from, self.stream.0) };
        sent.map_err(|e| self.failed("copying from it", e))?;
        self.wait()?;
        bytes.copy_from_slice(&self.read_buffer.bytes()[..bytes.len()]);
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
    /// Each range of `bytes` lies in one allocation, and the two do not overlap.
    pub(super) unsafe fn copy(&mut self, from: u64, to: u64, bytes: u64) -> Result<()> {
        self.send()?;
        // SAFETY: the ranges are the caller's.
        let sent = unsafe { result::memcpy_dtod_async(to, from, bytes as usize, self.stream.0) };
        sent.map_err(|e| self.failed("copying within it", e))
    }

    /// # Safety
    /// The kernel takes these arguments, and accesses memory only inside its allocations.
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
        // Nobody will read the results of pending work.
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

/// An executable graph.
struct Graph(sys::CUgraphExec);

impl Graph {
    fn launch(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: both are alive. The graph's work is the same as that just requested, so its buffers are too.
        unsafe { result::graph::launch(self.0, stream) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: this value owns it; the driver keeps what is still running.
        let _ = unsafe { result::graph::exec_destroy(self.0) };
    }
}

/// A stream that does not wait for the default stream.
struct StreamHandle(sys::CUstream);

impl StreamHandle {
    fn new() -> Result<Self, DriverError> {
        let kind = result::stream::StreamKind::NonBlocking;
        Ok(Self(result::stream::create(kind)?))
    }

    fn wait(&self) -> Result<(), DriverError> {
        // SAFETY: this value owns the stream.
        unsafe { result::stream::synchronize(self.0) }
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        // SAFETY: this value owns the stream.
        let _ = unsafe { result::stream::destroy(self.0) };
    }
}

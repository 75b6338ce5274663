//! The driver API.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use selfie_ptxsim::{Arg, Config, Module};

use crate::device::*;
use crate::faults::note;

const NAME: &CStr = c"a simulated GPU";
const DRIVER_VERSION: c_int = 13_000;

/// The device attributes (`CUdevice_attribute`) that are not 0.
const ATTRIBUTES: &[(c_int, c_int)] = &[
    (1, 1024),                            // MAX_THREADS_PER_BLOCK
    (2, 1024),                            // MAX_BLOCK_DIM_X
    (3, 1024),                            // MAX_BLOCK_DIM_Y
    (4, 64),                              // MAX_BLOCK_DIM_Z
    (5, i32::MAX),                        // MAX_GRID_DIM_X
    (6, 65_535),                          // MAX_GRID_DIM_Y
    (7, 65_535),                          // MAX_GRID_DIM_Z
    (8, SHARED as c_int),                 // MAX_SHARED_MEMORY_PER_BLOCK
    (10, 32),                             // WARP_SIZE
    (12, 65_536),                         // MAX_REGISTERS_PER_BLOCK
    (13, 1_000_000),                      // CLOCK_RATE
    (16, 4),                              // MULTIPROCESSOR_COUNT
    (31, 1),                              // CONCURRENT_KERNELS
    (38, 40 << 20),                       // L2_CACHE_SIZE
    (39, 2048),                           // MAX_THREADS_PER_MULTIPROCESSOR
    (41, 1),                              // UNIFIED_ADDRESSING
    (75, 8),                              // COMPUTE_CAPABILITY_MAJOR
    (76, 0),                              // COMPUTE_CAPABILITY_MINOR
    (81, (SHARED_OPTIN + 1024) as c_int), // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    (82, 65_536),                         // MAX_REGISTERS_PER_MULTIPROCESSOR
    (97, SHARED_OPTIN as c_int),          // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    (115, 1),                             // MEMORY_POOLS_SUPPORTED
];

/// The name and the text of a `CUresult`.
const RESULTS: &[(c_int, &CStr, &CStr)] = &[
    (SUCCESS, c"CUDA_SUCCESS", c"no error"),
    (
        INVALID_VALUE,
        c"CUDA_ERROR_INVALID_VALUE",
        c"invalid argument",
    ),
    (OUT_OF_MEMORY, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (
        INVALID_DEVICE,
        c"CUDA_ERROR_INVALID_DEVICE",
        c"invalid device ordinal",
    ),
    (
        INVALID_CONTEXT,
        c"CUDA_ERROR_INVALID_CONTEXT",
        c"invalid device context",
    ),
    (
        INVALID_PTX,
        c"CUDA_ERROR_INVALID_PTX",
        c"a PTX JIT compilation failed",
    ),
    (
        INVALID_HANDLE,
        c"CUDA_ERROR_INVALID_HANDLE",
        c"invalid resource handle",
    ),
    (
        NOT_FOUND,
        c"CUDA_ERROR_NOT_FOUND",
        c"named symbol not found",
    ),
    (NOT_READY, c"CUDA_ERROR_NOT_READY", c"device not ready"),
    (
        ILLEGAL_ADDRESS,
        c"CUDA_ERROR_ILLEGAL_ADDRESS",
        c"an illegal memory access was encountered",
    ),
    (
        CAPTURE_INVALIDATED,
        c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        c"operation failed due to a previous error during capture",
    ),
    (
        LAUNCH_FAILED,
        c"CUDA_ERROR_LAUNCH_FAILED",
        c"unspecified launch failure",
    ),
    (
        CAPTURE_UNSUPPORTED,
        c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        c"operation not permitted when stream is capturing",
    ),
];

/// Options of the JIT (`CUjit_option`).
const JIT_ERROR_LOG_BUFFER: c_int = 5;
const JIT_ERROR_LOG_BUFFER_SIZE_BYTES: c_int = 6;

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`
const FUNC_MAX_DYNAMIC_SHARED: c_int = 8;
/// `CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES`
const FUNC_SHARED: c_int = 1;

/// The fill of freed pinned memory: a NaN in every float type.
const POISON: u8 = 0xff;

/// Pinned host memory and its layouts.
static PINNED: LazyLock<Mutex<HashMap<usize, Layout>>> = LazyLock::new(Mutex::default);

/// The operation that writes `bytes` of host memory at `from`. Pinned memory is read when the work runs, other memory
/// at once.
///
/// # Safety
/// The memory exists.
unsafe fn write_op(to: u64, from: *const c_void, bytes: usize) -> Op {
    let at = from as usize;
    let pinned = PINNED.lock().unwrap_or_else(PoisonError::into_inner);
    let inside =
        |(&start, layout): (&usize, &Layout)| start <= at && at + bytes <= start + layout.size();
    if pinned.iter().any(inside) {
        return Op::Write {
            to,
            from: at,
            bytes,
        };
    }
    // SAFETY: the caller's promise.
    let taken = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes) };
    Op::WriteTaken {
        to,
        bytes: taken.to_vec(),
    }
}

/// Waits for the device. An error while a stream is being captured.
fn wait(what: &str) -> Result<MutexGuard<'static, Device>> {
    let mut device = device();
    device.check_may_wait(what)?;
    device.drain()?;
    Ok(device)
}

/// Runs an operation after all earlier ones.
///
/// # Safety
/// The host memory that it names exists.
unsafe fn now(what: &str, op: Op) -> c_int {
    // SAFETY: the caller's promise.
    code(wait(what).and_then(|mut device| unsafe { device.run(&op) }))
}

/// Converts a result to the number that the caller gets.
fn code(result: Result<()>) -> c_int {
    result.err().unwrap_or(SUCCESS)
}

/// Writes the return value of a call.
///
/// # Safety
/// `to` is null or writable.
unsafe fn put<T>(to: *mut T, value: T) -> c_int {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    SUCCESS
}

/// Defines calls of the API. Names and parameters are NVIDIA's. The API's contract makes the pointers valid in the
/// bodies.
macro_rules! api {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)*) => {$(
        /// # Safety
        /// As NVIDIA's reference requires of the caller.
        #[unsafe(no_mangle)]
        #[allow(unused_unsafe, reason = "some only look at their numbers")]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> c_int {
            // SAFETY: the API's contract, which the caller keeps.
            unsafe { $body }
        }
    )*};
}

// Device and context.
api! {
    fn cuInit(_flags: c_uint) { SUCCESS }
    fn cuDriverGetVersion(version: *mut c_int) { put(version, DRIVER_VERSION) }
    fn cuDeviceGetCount(count: *mut c_int) { put(count, 1) }
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        if ordinal != 0 {
            return INVALID_DEVICE;
        }
        put(device, 0)
    }
    fn cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) {
        let text = NAME.to_bytes_with_nul();
        if text.len() > len as usize {
            return INVALID_VALUE;
        }
        name.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        SUCCESS
    }
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) {
        let known = ATTRIBUTES.iter().find(|(known, _)| *known == attribute);
        put(value, known.map_or(0, |(_, value)| *value))
    }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) { put(bytes, MEMORY as usize) }
    fn cuDeviceGetUuid(uuid: *mut [u8; 16], _device: c_int) { put(uuid, *b"simulated gpu  0") }
    fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], _device: c_int) { put(uuid, *b"simulated gpu  0") }
    fn cuDevicePrimaryCtxRetain(context: *mut usize, _device: c_int) {
        note("cuDevicePrimaryCtxRetain");
        put(context, 1)
    }
    fn cuDevicePrimaryCtxRelease_v2(_device: c_int) { SUCCESS }
    fn cuCtxSetCurrent(_context: usize) { SUCCESS }
    fn cuCtxGetCurrent(context: *mut usize) { put(context, 1) }
    fn cuCtxSynchronize() { code(wait("cuCtxSynchronize").map(drop)) }
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        let (used, all) = device().gpu.memory();
        put(free, (all - used) as usize).max(put(total, all as usize))
    }
    fn cuGetErrorName(error: c_int, name: *mut *const c_char) {
        match RESULTS.iter().find(|(code, ..)| *code == error) {
            Some((_, text, _)) => put(name, text.as_ptr()),
            None => INVALID_VALUE,
        }
    }
    fn cuGetErrorString(error: c_int, text: *mut *const c_char) {
        match RESULTS.iter().find(|(code, ..)| *code == error) {
            Some((_, _, found)) => put(text, found.as_ptr()),
            None => INVALID_VALUE,
        }
    }
}

// Memory.
api! {
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        if bytes == 0 {
            return INVALID_VALUE;
        }
        let mut device = device();
        if let Err(error) = device.check_lost() {
            return error;
        }
        if device.faults.memory.is_due() {
            return refuse(OUT_OF_MEMORY, "out of memory, as requested");
        }
        match device.gpu.alloc(bytes as u64) {
            Ok(new) => put(address, new),
            Err(error) => failed(error),
        }
    }
    fn cuMemFree_v2(address: u64) { now("cuMemFree", Op::Free(address)) }
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: usize) {
        if device().is_capturing(stream) {
            return refuse(CAPTURE_UNSUPPORTED, "cuMemAllocAsync in capture is not simulated");
        }
        cuMemAlloc_v2(address, bytes)
    }
    fn cuMemFreeAsync(address: u64, stream: usize) {
        code(device().submit(stream, Op::Free(address)))
    }
    fn cuMemHostAlloc(host: *mut *mut c_void, bytes: usize, _flags: c_uint) {
        let Ok(layout) = Layout::from_size_align(bytes.max(1), 4096) else {
            return INVALID_VALUE;
        };
        let new = alloc_zeroed(layout);
        if new.is_null() {
            return OUT_OF_MEMORY;
        }
        let mut pinned = PINNED.lock().unwrap_or_else(PoisonError::into_inner);
        pinned.insert(new as usize, layout);
        put(host, new.cast())
    }
    fn cuMemAllocHost_v2(host: *mut *mut c_void, bytes: usize) { cuMemHostAlloc(host, bytes, 0) }
    fn cuMemFreeHost(host: *mut c_void) {
        // Pending copies still read it.
        let waited = wait("cuMemFreeHost").map(drop);
        let mut pinned = PINNED.lock().unwrap_or_else(PoisonError::into_inner);
        match pinned.remove(&(host as usize)) {
            Some(layout) => {
                host.cast::<u8>().write_bytes(POISON, layout.size());
                dealloc(host.cast(), layout);
                code(waited)
            }
            None => INVALID_VALUE,
        }
    }
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) {
        now("cuMemcpyHtoD", Op::Write { to, from: from as usize, bytes })
    }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: usize) {
        let op = write_op(to, from, bytes);
        code(device().submit(stream, op))
    }
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) {
        now("cuMemcpyDtoH", Op::Read { from, to: to as usize, bytes })
    }
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: usize) {
        code(device().submit(stream, Op::Read { from, to: to as usize, bytes }))
    }
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        now("cuMemcpyDtoD", Op::Copy { to, from, bytes })
    }
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: usize) {
        code(device().submit(stream, Op::Copy { to, from, bytes }))
    }
    fn cuMemsetD8_v2(at: u64, value: u8, bytes: usize) {
        now("cuMemsetD8", Op::Fill { at, value, bytes })
    }
    fn cuMemsetD8Async(at: u64, value: u8, bytes: usize, stream: usize) {
        code(device().submit(stream, Op::Fill { at, value, bytes }))
    }
}

// Streams, events and graphs.
api! {
    fn cuStreamCreate(stream: *mut usize, _flags: c_uint) {
        let mut device = device();
        device.streams += 1;
        put(stream, device.streams)
    }
    fn cuStreamDestroy_v2(_stream: usize) { SUCCESS }
    fn cuStreamQuery(_stream: usize) { code(wait("cuStreamQuery").map(drop)) }
    fn cuStreamSynchronize(_stream: usize) { code(wait("cuStreamSynchronize").map(drop)) }
    fn cuStreamWaitEvent(_stream: usize, _event: usize, _flags: c_uint) { SUCCESS }
    fn cuStreamIsCapturing(stream: usize, status: *mut c_int) {
        put(status, device().is_capturing(stream).into())
    }
    fn cuStreamBeginCapture_v2(stream: usize, _mode: c_int) {
        code(device().begin_capture(stream))
    }
    fn cuStreamEndCapture(stream: usize, graph: *mut usize) {
        note("cuStreamEndCapture");
        let mut device = device();
        match device.end_capture(stream) {
            Ok(captured) => {
                device.graphs.push(captured);
                put(graph, device.graphs.len())
            }
            Err(error) => {
                put(graph, 0);
                error
            }
        }
    }
    fn cuGraphInstantiateWithFlags(exec: *mut usize, graph: usize, _flags: c_ulonglong) {
        put(exec, graph)
    }
    fn cuGraphUpload(_exec: usize, _stream: usize) { SUCCESS }
    fn cuGraphLaunch(exec: usize, stream: usize) {
        note("cuGraphLaunch");
        let mut device = device();
        let Some(ops) = exec.checked_sub(1).and_then(|at| device.graphs.get(at)) else {
            return INVALID_HANDLE;
        };
        let ops = ops.clone();
        code(ops.into_iter().try_for_each(|op| device.submit(stream, op)))
    }
    fn cuGraphExecDestroy(_exec: usize) { SUCCESS }
    fn cuGraphDestroy(_graph: usize) { SUCCESS }
    fn cuEventCreate(event: *mut usize, _flags: c_uint) {
        let mut device = device();
        device.events.push(Event::default());
        put(event, device.events.len())
    }
    fn cuEventRecord(event: usize, stream: usize) {
        let mut device = device();
        match event.checked_sub(1).filter(|&at| at < device.events.len()) {
            Some(at) => code(device.submit(stream, Op::Record(at))),
            None => INVALID_HANDLE,
        }
    }
    fn cuEventQuery(event: usize) { cuEventSynchronize(event) }
    fn cuEventSynchronize(event: usize) {
        let mut device = device();
        let Some(at) = event.checked_sub(1).filter(|&at| at < device.events.len()) else {
            return INVALID_HANDLE;
        };
        let may_wait = device.check_may_wait("cuEventSynchronize");
        code(may_wait.and_then(|()| device.drain_to(at)))
    }
    fn cuEventDestroy_v2(_event: usize) { SUCCESS }
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: usize, end: usize) {
        let device = device();
        let event = |event: usize| event.checked_sub(1).and_then(|at| device.events.get(at));
        let (Some(start), Some(end)) = (event(start), event(end)) else {
            return INVALID_HANDLE;
        };
        if start.waiting + end.waiting > 0 {
            return NOT_READY;
        }
        match (start.at, end.at) {
            (Some(start), Some(end)) => {
                put(milliseconds, end.duration_since(start).as_secs_f32() * 1e3)
            }
            _ => INVALID_HANDLE,
        }
    }
}

// Modules and launches.
api! {
    fn cuModuleLoadData(module: *mut usize, image: *const c_void) {
        cuModuleLoadDataEx(module, image, 0, std::ptr::null(), std::ptr::null_mut())
    }
    fn cuModuleLoadDataEx(
        module: *mut usize,
        image: *const c_void,
        count: c_uint,
        options: *const c_int,
        values: *mut *mut c_void,
    ) {
        let Ok(text) = CStr::from_ptr(image.cast()).to_str() else {
            return INVALID_PTX;
        };
        match Module::parse(text) {
            Ok(parsed) => {
                let mut device = device();
                device.modules.push(parsed);
                put(module, device.modules.len())
            }
            Err(error) => {
                log_jit_error(count as usize, options, values, &error.to_string());
                INVALID_PTX
            }
        }
    }
    fn cuModuleUnload(_module: usize) { SUCCESS }
    fn cuModuleGetFunction(function: *mut usize, module: usize, name: *const c_char) {
        let mut device = device();
        let Some(module) = module.checked_sub(1).and_then(|at| device.modules.get(at)) else {
            return INVALID_HANDLE;
        };
        let name = CStr::from_ptr(name).to_string_lossy().into_owned();
        if module.static_shared(&name).is_err() {
            return NOT_FOUND;
        }
        let new = Function { module: module.clone(), name, dynamic_shared: 0 };
        device.functions.push(new);
        put(function, device.functions.len())
    }
    fn cuFuncSetAttribute(function: usize, attribute: c_int, value: c_int) {
        let mut device = device();
        let Some(function) = function.checked_sub(1).and_then(|at| device.functions.get_mut(at))
        else {
            return INVALID_HANDLE;
        };
        if attribute == FUNC_MAX_DYNAMIC_SHARED {
            if value < 0 || value as u32 > SHARED_OPTIN {
                return INVALID_VALUE;
            }
            function.dynamic_shared = value as u32;
        }
        SUCCESS
    }
    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: usize) {
        let device = device();
        let Some(function) = function.checked_sub(1).and_then(|at| device.functions.get(at)) else {
            return INVALID_HANDLE;
        };
        match attribute {
            FUNC_SHARED => match function.module.static_shared(&function.name) {
                Ok(bytes) => put(value, bytes as c_int),
                Err(error) => failed(error),
            },
            FUNC_MAX_DYNAMIC_SHARED => put(value, function.dynamic_shared as c_int),
            _ => refuse(INVALID_VALUE, format!("function attribute {attribute} is not simulated")),
        }
    }
    fn cuLaunchKernel(
        function: usize,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared_bytes: c_uint,
        stream: usize,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        let mut device = device();
        let Some(at) = function.checked_sub(1).filter(|&at| at < device.functions.len()) else {
            return INVALID_HANDLE;
        };
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let threads: u64 = block.iter().map(|&x| u64::from(x)).product();
        if grid.contains(&0) || threads == 0 || threads > 1024 || grid_y.max(grid_z) > 65_535 {
            return refuse(INVALID_VALUE, format!("grid {grid:?}, block {block:?}"));
        }
        let Function { module, name, .. } = &device.functions[at];
        let Ok(kinds) = module.params(name) else {
            return NOT_FOUND;
        };
        if !extra.is_null() || params.is_null() && !kinds.is_empty() {
            return INVALID_VALUE;
        }
        let read = |(i, kind): (usize, Arg)| {
            let at = *params.add(i);
            match kind {
                Arg::U32(_) => Arg::U32(at.cast::<u32>().read()),
                Arg::U64(_) => Arg::U64(at.cast::<u64>().read()),
                Arg::F32(_) => Arg::F32(at.cast::<f32>().read()),
            }
        };
        let args: Vec<Arg> = kinds.into_iter().enumerate().map(read).collect();
        let config = Config { grid, block, dynamic_shared: shared_bytes };
        if let Err(error) = device.check_launch(at, &config) {
            return error;
        }
        code(device.submit(stream, Op::Launch { function: at, config, args }))
    }
}

/// Copies the message to the JIT log buffer named by the options.
///
/// # Safety
/// `options` and `values` have `count` elements, and the log buffer has the size that they give.
unsafe fn log_jit_error(
    count: usize,
    options: *const c_int,
    values: *mut *mut c_void,
    message: &str,
) {
    let find = |wanted| {
        // SAFETY: in bounds, by the caller's promise.
        let at = (0..count).find(|&i| unsafe { *options.add(i) } == wanted)?;
        // SAFETY: as above.
        Some(unsafe { *values.add(at) })
    };
    let (Some(buffer), Some(size)) = (
        find(JIT_ERROR_LOG_BUFFER),
        find(JIT_ERROR_LOG_BUFFER_SIZE_BYTES),
    ) else {
        return;
    };
    // The pointer's own value is the size.
    let room = (size as usize).saturating_sub(1).min(message.len());
    if size as usize > 0 {
        // SAFETY: by the caller's promise the buffer has `size` bytes, and `room` is less.
        unsafe {
            buffer
                .cast::<u8>()
                .copy_from_nonoverlapping(message.as_ptr(), room);
            buffer.cast::<u8>().add(room).write(0);
        }
    }
}

//! Opens a device and holds its context.

use std::ffi::c_int;
use std::sync::{Mutex, OnceLock, PoisonError};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use crate::{KernelError, Memory, Result};

/// CUDA 12.0, the first version that accepts PTX 8.0, in the driver's numbering.
const OLDEST_DRIVER: i32 = 12_000;

/// The oldest architecture that the kernels support.
const OLDEST_ARCHITECTURE: (i32, i32) = (8, 0);

/// An open device.
pub(super) struct Device {
    /// The device's name, such as `NVIDIA H200 (cuda:0)`.
    pub(super) name: String,
    pub(super) compute: (i32, i32),
    pub(super) multiprocessors: u32,
    /// The most shared memory that a block can have.
    pub(super) shared_bytes: u32,
    driver: i32,
    context: sys::CUcontext,
}

// SAFETY: any thread may use a device's primary context; the driver locks.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

/// The number of devices that the driver sees.
pub(super) fn count() -> Result<usize> {
    static DRIVER: OnceLock<bool> = OnceLock::new();
    if !DRIVER.get_or_init(|| load("cuda") || load("nvcuda")) {
        return Err(KernelError::NoCudaDriver);
    }
    let name = "the CUDA driver";
    check_version(driver_version()?)?;
    match result::init() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
        done => done.map_err(|e| failed(name, "starting it", e))?,
    }
    let count = result::device::get_count().map_err(|e| failed(name, "counting devices", e))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Loads a library for good, so that cudarc finds it loaded; `false` if it is missing. (cudarc's own test loads and
/// unloads it, and cuBLASLt has hundreds of megabytes.)
fn load(name: &str) -> bool {
    cudarc::get_lib_name_candidates(name).iter().any(|file| {
        // SAFETY: loading a library of this name runs NVIDIA's initialisers.
        let library = unsafe { libloading::Library::new(file) };
        library.map(std::mem::forget).is_ok()
    })
}

/// A device's primary context. The process holds it from its first use to its end: creating one takes a good part of a
/// second, and destroying it unloads everything loaded into it.
fn primary_context(device: sys::CUdevice) -> Result<sys::CUcontext, DriverError> {
    struct Context(sys::CUcontext);
    // SAFETY: any thread may use a context.
    unsafe impl Send for Context {}

    static HELD: Mutex<Vec<(sys::CUdevice, Context)>> = Mutex::new(Vec::new());
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, context)) = held.iter().find(|(of, _)| *of == device) {
        return Ok(context.0);
    }
    // SAFETY: the device is one of the driver's.
    let context = unsafe { result::primary_ctx::retain(device) }?;
    held.push((device, Context(context)));
    Ok(context)
}

/// The CUDA version of the driver: 1000 times the major version plus 10 times the minor one.
fn driver_version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: the driver writes one integer there.
    let got = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    got.map_err(|e| failed("the CUDA driver", "asking for its version", e))?;
    Ok(version)
}

fn check_version(version: i32) -> Result<()> {
    if version >= OLDEST_DRIVER {
        return Ok(());
    }
    Err(KernelError::OldCudaDriver {
        major: version / 1000,
        minor: version % 1000 / 10,
    })
}

fn check_architecture(device: &str, (major, minor): (i32, i32)) -> Result<()> {
    if (major, minor) >= OLDEST_ARCHITECTURE {
        return Ok(());
    }
    Err(KernelError::OldGpu {
        device: device.to_owned(),
        major,
        minor,
    })
}

impl Device {
    pub(super) fn open(ordinal: usize) -> Result<Self> {
        let devices = count()?;
        if ordinal >= devices {
            return Err(KernelError::NoCudaDevice { ordinal, devices });
        }
        let cuda = format!("cuda:{ordinal}");
        let asking = |e| failed(&cuda, "asking what it is", e);
        let device = result::device::get(ordinal as c_int).map_err(asking)?;
        let name = result::device::get_name(device).map_err(asking)?;
        let name = format!("{name} ({cuda})");
        // SAFETY: the device is one of the driver's.
        let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) };
        let attribute = |of| attribute(of).map_err(asking);
        let compute = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        check_architecture(&name, compute)?;
        static CUBLASLT: OnceLock<bool> = OnceLock::new();
        if !CUBLASLT.get_or_init(|| load("cublasLt")) {
            return Err(KernelError::NoCublasLt);
        }
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let driver = driver_version()?;
        let context = primary_context(device).map_err(|e| failed(&name, "making a context", e))?;
        let open = Self {
            compute,
            multiprocessors: multiprocessors.unsigned_abs(),
            shared_bytes: shared.unsigned_abs(),
            driver,
            context,
            name,
        };
        open.make_current()?;
        Ok(open)
    }

    /// Makes this context current on the calling thread.
    pub(super) fn make_current(&self) -> Result<()> {
        // SAFETY: the process holds the context.
        let done = unsafe { result::ctx::set_current(self.context) };
        done.map_err(|e| self.failed("taking its context", e))
    }

    pub(super) fn describe(&self) -> String {
        let (major, minor) = self.compute;
        format!(
            "{}, compute capability {major}.{minor}, {} multiprocessors, driver for CUDA {}.{}",
            self.name,
            self.multiprocessors,
            self.driver / 1000,
            self.driver % 1000 / 10
        )
    }

    pub(super) fn memory(&self) -> Result<Memory> {
        self.make_current()?;
        let (free, total) =
            result::mem_get_info().map_err(|e| self.failed("asking for its memory", e))?;
        Ok(Memory {
            total: total as u64,
            available: free as u64,
        })
    }

    pub(super) fn alloc(&self, what: &'static str, bytes: u64) -> Result<u64> {
        self.make_current()?;
        // The driver refuses allocations of 0 bytes.
        let size = usize::try_from(bytes.max(1)).unwrap_or(usize::MAX);
        // SAFETY: the caller writes before it reads.
        match unsafe { result::malloc_sync(size) } {
            Ok(address) => Ok(address),
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Err(KernelError::OutOfMemory {
                what,
                bytes,
                available: self.memory()?.available,
                device: self.name.clone(),
            }),
            Err(e) => Err(self.failed(format!("allocating {bytes} bytes for {what}"), e)),
        }
    }

    pub(super) fn failed(&self, doing: impl Into<String>, error: DriverError) -> KernelError {
        failed(&self.name, doing, error)
    }
}

/// An error of the driver: its name and its message.
pub(super) fn failed(device: &str, doing: impl Into<String>, error: DriverError) -> KernelError {
    let said = error
        .error_string()
        .ok()
        .and_then(|text| text.to_str().ok());
    let reason = match said {
        Some(said) => format!("{:?} ({said})", error.0),
        None => format!("{:?}", error.0),
    };
    KernelError::Device {
        device: device.to_owned(),
        doing: doing.into(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_drivers_and_devices_are_refused_with_their_numbers() {
        assert!(check_version(12_000).is_ok());
        assert!(check_version(13_020).is_ok());
        let message = check_version(11_080).unwrap_err().to_string();
        assert!(
            message.contains("11.8") && message.contains("12.0"),
            "{message}"
        );

        for new in [(8, 0), (8, 9), (9, 0), (12, 0)] {
            assert!(check_architecture("a GPU", new).is_ok());
        }
        let error = check_architecture("Tesla T4 (cuda:1)", (7, 5)).unwrap_err();
        let message = error.to_string();
        for part in ["Tesla T4 (cuda:1)", "7.5", "8.0"] {
            assert!(message.contains(part), "{message}");
        }
    }
}

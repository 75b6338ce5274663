//! The kernels on the device: assembled by the driver when the first launch asks for one.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::ptr;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUfunction_attribute, CUjit_option};

use super::device::failed;
use crate::gpu::Module;
use crate::{KernelError, Result};

/// Bytes of what the driver's assembler has to say.
const LOG_BYTES: usize = 16 << 10;

/// Dynamic shared memory that every function may have without being asked for more.
const PLAIN_SHARED_BYTES: u32 = 48 << 10;

/// The modules that have been loaded, and their functions.
pub(super) struct Modules {
    device: String,
    /// Most shared memory of a block.
    most_shared_bytes: u32,
    loaded: HashMap<Module, sys::CUmodule>,
    numbers: HashMap<(Module, &'static str), usize>,
    functions: Vec<Function>,
}

/// An entry of a module.
pub(super) struct Function {
    pub(super) handle: sys::CUfunction,
    pub(super) entry: &'static str,
    /// Dynamic shared memory that it may have.
    shared_bytes: u32,
}

impl Modules {
    pub(super) fn new(device: &str, most_shared_bytes: u32) -> Self {
        Self {
            device: device.to_owned(),
            most_shared_bytes,
            loaded: HashMap::new(),
            numbers: HashMap::new(),
            functions: Vec::new(),
        }
    }

    /// The number of a function that may be launched with so much dynamic shared memory.
    pub(super) fn number(
        &mut self,
        module: Module,
        entry: &'static str,
        shared_bytes: u32,
    ) -> Result<usize> {
        let number = match self.numbers.get(&(module, entry)) {
            Some(&number) => number,
            None => self.find(module, entry)?,
        };
        let function = &mut self.functions[number];
        if shared_bytes > function.shared_bytes {
            if shared_bytes > self.most_shared_bytes {
                return Err(KernelError::Device {
                    device: self.device.clone(),
                    doing: format!("launching {entry} of {}.ptx", module.name()),
                    reason: format!(
                        "it needs {shared_bytes} bytes of shared memory, and a block has {}",
                        self.most_shared_bytes
                    ),
                });
            }
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function's module stays loaded until the drop.
            let set = unsafe {
                result::function::set_function_attribute(
                    function.handle,
                    attribute,
                    shared_bytes as i32,
                )
            };
            set.map_err(|e| failed(&self.device, format!("giving {entry} shared memory"), e))?;
            function.shared_bytes = shared_bytes;
        }
        Ok(number)
    }

    pub(super) fn function(&self, number: usize) -> &Function {
        &self.functions[number]
    }

    fn find(&mut self, module: Module, entry: &'static str) -> Result<usize> {
        let handle = match self.loaded.get(&module) {
            Some(&handle) => handle,
            None => {
                let handle = load(&self.device, module)?;
                self.loaded.insert(module, handle);
                handle
            }
        };
        let name = CString::new(entry).expect("names of entries have no NUL");
        // SAFETY: the module is loaded.
        let handle = unsafe { result::module::get_function(handle, name) }.map_err(|e| {
            let doing = format!("looking for {entry} in {}.ptx", module.name());
            failed(&self.device, doing, e)
        })?;
        let number = self.functions.len();
        self.functions.push(Function {
            handle,
            entry,
            shared_bytes: PLAIN_SHARED_BYTES,
        });
        self.numbers.insert((module, entry), number);
        Ok(number)
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        for &module in self.loaded.values() {
            // SAFETY: it was loaded once, and the stream has been waited for.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

/// Assembles a module; an error carries the assembler's log.
fn load(device: &str, module: Module) -> Result<sys::CUmodule> {
    let source = CString::new(module.source()).expect("PTX has no NUL");
    let mut log = vec![0u8; LOG_BYTES];
    let mut options = [
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values: [*mut c_void; 2] = [
        log.as_mut_ptr().cast(),
        // The size itself stands in the place of a pointer.
        ptr::without_provenance_mut(LOG_BYTES),
    ];
    let mut handle = ptr::null_mut();
    // SAFETY: the source ends with a NUL, there are as many options as values, and the log has the bytes that are given.
    let loaded = unsafe {
        sys::cuModuleLoadDataEx(
            &mut handle,
            source.as_ptr().cast(),
            options.len() as u32,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    match loaded.result() {
        Ok(()) => Ok(handle),
        Err(error) => Err(not_assembled(device, module, error, &log)),
    }
}

fn not_assembled(device: &str, module: Module, error: DriverError, log: &[u8]) -> KernelError {
    let mut failed = failed(device, format!("assembling {}.ptx", module.name()), error);
    if let KernelError::Device { reason, .. } = &mut failed {
        let log = one_line(log);
        if !log.is_empty() {
            reason.push_str(": ");
            reason.push_str(&log);
        }
    }
    failed
}

/// The text up to the first NUL, with its lines joined.
fn one_line(log: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(log).map_or("".into(), CStr::to_string_lossy);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_one_line() {
        let log = b"ptxas application ptx input, line 3; error\n\n  : Unknown symbol\n\0\0rest";
        assert_eq!(
            one_line(log),
            "ptxas application ptx input, line 3; error; : Unknown symbol"
        );
        assert_eq!(one_line(&[0; 4]), "");
        assert_eq!(one_line(b"never ended"), "");
    }
}

//! The kernels on the device. The driver assembles each one at its first launch.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString, c_void};
use std::ptr;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUfunction_attribute, CUjit_option};

use super::device::failed;
use crate::gpu::Module;
use crate::{KernelError, Result};

/// Bytes for the messages of the driver's assembler.
const LOG_BYTES: usize = 16 << 10;

/// Shared memory, static bytes included, that a function may use without an opt-in.
const PLAIN_SHARED_BYTES: u32 = 48 << 10;

/// The modules that have been loaded, and their functions.
pub(super) struct Modules {
    device: String,
    /// The most shared memory of a block.
    most_shared_bytes: u32,
    loaded: HashMap<Module, LoadedModule>,
    numbers: HashMap<(Module, &'static str), usize>,
    functions: Vec<Function>,
}

/// An entry of a module.
pub(super) struct Function {
    pub(super) handle: sys::CUfunction,
    pub(super) entry: &'static str,
    /// Dynamic shared memory that it may use.
    shared_bytes: u32,
    /// Shared memory that the kernel declares itself.
    static_bytes: u32,
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

    /// The number of a function that may be launched with this much dynamic shared memory.
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
            let needed = shared_bytes + function.static_bytes;
            if needed > self.most_shared_bytes {
                return Err(KernelError::Device {
                    device: self.device.clone(),
                    doing: format!("launching {entry} of {}.ptx", module.name()),
                    reason: format!(
                        "it needs {needed} bytes of shared memory, and a block has {}",
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
        let loaded = match self.loaded.entry(module) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(place) => {
                let name = format!("{}.ptx", module.name());
                place.insert(LoadedModule::new(&self.device, &name, &module.source())?)
            }
        };
        let handle = loaded.function(&self.device, entry)?;
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: the function's module stays loaded until the drop.
        let fixed = unsafe { result::function::get_function_attribute(handle, attribute) };
        let fixed = fixed.map_err(|e| failed(&self.device, format!("asking about {entry}"), e))?;
        let static_bytes = fixed.unsigned_abs();
        let number = self.functions.len();
        self.functions.push(Function {
            handle,
            entry,
            shared_bytes: PLAIN_SHARED_BYTES.saturating_sub(static_bytes),
            static_bytes,
        });
        self.numbers.insert((module, entry), number);
        Ok(number)
    }
}

/// The resources that a kernel uses, as the driver's assembler built it.
#[derive(Clone, Debug)]
pub struct KernelUse {
    /// The name of the `.entry`.
    pub entry: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of local memory of a thread: registers spilled there.
    pub local_bytes: u32,
    /// Bytes of shared memory that the kernel declares itself.
    pub shared_bytes: u32,
    /// The most threads of a block.
    pub most_threads: u32,
}

/// Assembles a module for the current device, and queries each entry of its text.
pub(super) fn assemble(device: &str, module: Module) -> Result<Vec<KernelUse>> {
    let source = module.source();
    let loaded = LoadedModule::new(device, &format!("{}.ptx", module.name()), &source)?;
    let mut kernels = Vec::new();
    for entry in entries(&source) {
        let handle = loaded.function(device, entry)?;
        let ask = |attribute| {
            // SAFETY: the function's module is loaded.
            let value = unsafe { result::function::get_function_attribute(handle, attribute) };
            let value = value.map_err(|e| failed(device, format!("asking about {entry}"), e))?;
            Ok::<u32, KernelError>(value.unsigned_abs())
        };
        kernels.push(KernelUse {
            entry: entry.to_owned(),
            registers: ask(CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            local_bytes: ask(CUfunction_attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            shared_bytes: ask(CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            most_threads: ask(CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        });
    }
    Ok(kernels)
}

/// The names of a text's entries.
fn entries(source: &str) -> impl Iterator<Item = &str> {
    let after = source.split(".entry ").skip(1);
    after.filter_map(|text| text.split(['(', ' ', '\n']).next())
}

/// A module on the device.
pub(super) struct LoadedModule(sys::CUmodule);

impl LoadedModule {
    /// Assembles PTX. An error carries the assembler's log.
    pub(super) fn new(device: &str, name: &str, source: &str) -> Result<Self> {
        let source = CString::new(source).expect("PTX has no NUL");
        let mut log = vec![0u8; LOG_BYTES];
        let mut options = [
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values: [*mut c_void; 2] = [
            log.as_mut_ptr().cast(),
            // The driver reads the size from the pointer argument itself.
            ptr::without_provenance_mut(LOG_BYTES),
        ];
        let mut handle = ptr::null_mut();
        // SAFETY: the source ends with a NUL, options and values are equal in number, and the log has the given number
        // of bytes.
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
            Ok(()) => Ok(Self(handle)),
            Err(error) => Err(not_assembled(device, name, error, &log)),
        }
    }

    /// An entry; it is valid for as long as the module.
    pub(super) fn function(&self, device: &str, entry: &str) -> Result<sys::CUfunction> {
        let name = CString::new(entry).expect("names of entries have no NUL");
        // SAFETY: the module is loaded.
        let found = unsafe { result::module::get_function(self.0, name) };
        found.map_err(|e| failed(device, format!("looking for the kernel {entry}"), e))
    }
}

impl Drop for LoadedModule {
    fn drop(&mut self) {
        // SAFETY: it was loaded once, and the stream has been waited for.
        let _ = unsafe { result::module::unload(self.0) };
    }
}

fn not_assembled(device: &str, name: &str, error: DriverError, log: &[u8]) -> KernelError {
    let mut failed = failed(device, format!("assembling {name}"), error);
    if let KernelError::Device { reason, .. } = &mut failed {
        let log = one_line(log);
        if !log.is_empty() {
            reason.push_str(": ");
            reason.push_str(&log);
        }
    }
    failed
}

/// The text up to the first NUL, joined into one line.
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
    fn the_entries_of_a_text_are_found() {
        let names: Vec<_> =
            entries(".visible .entry one(\n)\n{}\n.visible .entry two_4\n(").collect();
        assert_eq!(names, ["one", "two_4"]);
    }

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

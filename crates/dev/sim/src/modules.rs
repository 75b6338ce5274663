//! The kernels, parsed once per process.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use selfie_kernels::gpu::Module;
use selfie_kernels::{KernelError, Result};

static PARSED: LazyLock<Mutex<HashMap<Module, Arc<selfie_ptxsim::Module>>>> =
    LazyLock::new(Mutex::default);

/// A module in the simulator's form.
pub fn module(module: Module) -> Result<Arc<selfie_ptxsim::Module>> {
    let mut parsed = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = parsed.get(&module) {
        return Ok(found.clone());
    }
    let new = selfie_ptxsim::Module::parse(&module.source()).map_err(|e| KernelError::Device {
        device: "a simulated GPU".to_owned(),
        doing: format!("parsing {}.ptx", module.name()),
        reason: e.to_string(),
    })?;
    let new = Arc::new(new);
    parsed.insert(module, new.clone());
    Ok(new)
}

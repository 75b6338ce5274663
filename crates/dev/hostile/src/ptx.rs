//! PTX, which the simulator reads, and templates of it.

use selfie::kernels::gpu::template::expand;
use selfie_ptxsim::Module;

/// PTX.
pub(crate) fn ptx(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let Ok(module) = Module::parse(text) else {
        return false;
    };
    let entries: Vec<String> = module.entries().map(str::to_owned).collect();
    for entry in &entries {
        let _ = (module.static_shared(entry), module.params(entry));
    }
    true
}

/// A template of it.
pub(crate) fn template(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    expand(text, &[("D", 64), ("M", 2)]).is_ok()
}

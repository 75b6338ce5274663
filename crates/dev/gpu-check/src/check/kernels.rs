//! The modules as built by the driver's own assembler: none may spill.

use std::time::Instant;

use selfie_kernels::gpu::Module;

use crate::{Check, Opening};

pub(crate) fn checks() -> Vec<Check> {
    let check = |module: Module| -> Check {
        let check = move |opening: Opening| assemble(opening, module);
        (format!("kernels of {}", module.name()), Box::new(check))
    };
    Module::all().into_iter().map(check).collect()
}

fn assemble(opening: Opening, module: Module) {
    let cuda = opening.fast();
    let start = Instant::now();
    let kernels = cuda.driver().assemble(module);
    let seconds = start.elapsed().as_secs_f64();
    let kernels = kernels.unwrap_or_else(|e| panic!("{e}"));
    assert!(!kernels.is_empty(), "{} has no entry", module.name());
    for kernel in &kernels {
        println!(
            "{}: {} registers, {} bytes of local memory, {} bytes of shared memory, {} threads at most",
            kernel.entry,
            kernel.registers,
            kernel.local_bytes,
            kernel.shared_bytes,
            kernel.most_threads
        );
    }
    println!("assembled in {seconds:.2} s");
    let spills = kernels.iter().any(|kernel| kernel.local_bytes > 0);
    assert!(!spills, "{} uses local memory", module.name());
}

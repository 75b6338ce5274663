//! A model that does not fit is refused before the first byte is copied.

use selfie_kernels::gpu::plan::Splits;
use selfie_kernels::gpu::{Driver, Gemm, Gpu, Launch};
use selfie_kernels::{DType, Memory, Result};
use selfie_llama::{Checkpoint, Llama, LlamaConfig, LlamaError};
use selfie_sim::SimDriver;
use selfie_testkit::llama;

/// A device with little memory, on which only small buffers may be written.
struct Small {
    sim: SimDriver,
    available: u64,
}

/// Bytes of the lists and counters of a backend without a model.
const BUFFERS: u64 = 1 << 20;

impl Driver for Small {
    fn describe(&self) -> String {
        "a small GPU".to_owned()
    }

    fn memory(&self) -> Result<Memory> {
        Ok(Memory {
            total: 2 * self.available,
            available: self.available,
        })
    }

    fn alloc(&self, what: &'static str, bytes: u64) -> Result<u64> {
        assert_ne!(what, "a weight matrix");
        assert!(bytes < BUFFERS, "{bytes} bytes for {what}");
        self.sim.alloc(what, bytes)
    }

    unsafe fn free(&self, address: u64) {
        // SAFETY: the caller's.
        unsafe { self.sim.free(address) }
    }

    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.sim.write(to, bytes) }
    }

    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.sim.read(from, bytes) }
    }

    unsafe fn zero(&self, at: u64, bytes: u64) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.sim.zero(at, bytes) }
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        panic!("{} was launched", launch.entry);
    }

    unsafe fn gemm(&self, gemm: &Gemm) -> Result<()> {
        panic!("{gemm:?} was multiplied");
    }

    fn synchronize(&self) -> Result<()> {
        self.sim.synchronize()
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_its_size() {
    let dir = llama::dir(llama::GOLDEN[0]);
    let config = LlamaConfig::open(&dir).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    // The bytes of the matrices: all parameters without the norms, two a layer and the final one.
    let norms = (2 * config.n_layers + 1) * config.d_model;
    let values = config.n_parameters() - norms as u64;
    for (dtype, size) in [(DType::F32, 4), (DType::Bf16, 2)] {
        let driver = Small {
            sim: SimDriver::new(),
            available: size * values - 1,
        };
        let gpu = Gpu::new(driver, Splits::Fixed).unwrap();
        let loaded = Llama::load(gpu, config.clone(), &checkpoint, Some(dtype), |_| {});
        let error = loaded.err().expect("it does not fit");
        let message = error.to_string();
        let LlamaError::WeightMemory {
            bytes, available, ..
        } = error
        else {
            panic!("{message}");
        };
        assert_eq!((bytes, available), (size * values, size * values - 1));
        assert!(message.contains("a small GPU"), "{message}");
    }
}

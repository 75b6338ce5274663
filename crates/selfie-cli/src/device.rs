//! Which device a model runs on.

use selfie_kernels::gpu::{Cuda, CudaOptions};
use selfie_kernels::{Backend, Cpu, CpuOptions, KernelError};
use selfie_llama::Llama;

use crate::args::ModelArgs;
use crate::error::{CliError, Result, usage};

/// Something that is on one of the devices.
pub(crate) enum On<C, G> {
    Cpu(C),
    Cuda(G),
}

pub(crate) type Device = On<Cpu, Cuda>;
pub(crate) type Model = On<Llama<Cpu>, Llama<Cuda>>;

/// One expression for a thing on any device: `on!(opened.load()?, model => generate(&model))`.
macro_rules! on {
    ($thing:expr, $name:pat => $body:expr) => {
        match $thing {
            $crate::device::On::Cpu($name) => $body,
            $crate::device::On::Cuda($name) => $body,
        }
    };
}
pub(crate) use on;

/// What `--device`, `--deterministic` and `--threads` ask for.
#[derive(Clone, Copy)]
pub(crate) struct DeviceOptions {
    asked: Asked,
    cuda: CudaOptions,
    cpu: CpuOptions,
    quiet: bool,
}

#[derive(Clone, Copy)]
enum Asked {
    Auto,
    Cpu,
    Cuda(usize),
}

impl DeviceOptions {
    pub(crate) fn new(args: &ModelArgs) -> Result<Self> {
        if args.threads == Some(0) {
            return usage("--threads 0: expected at least 1");
        }
        let path = match std::env::var("SELFIE_CPU_PATH") {
            Ok(name) => Some(name.parse().map_err(CliError::Kernel)?),
            Err(_) => None,
        };
        Ok(Self {
            asked: asked(&args.device)?,
            cuda: CudaOptions {
                deterministic: args.deterministic,
                graphs: graphs()?,
            },
            cpu: CpuOptions {
                threads: args.threads,
                path,
            },
            quiet: args.quiet,
        })
    }

    /// The device for a model whose weights take `bytes`.
    pub(crate) fn open(&self, bytes: u64) -> Result<Device> {
        match self.asked {
            Asked::Cpu => self.cpu(),
            Asked::Cuda(ordinal) => Ok(On::Cuda(Cuda::open(ordinal, self.cuda)?)),
            Asked::Auto => self.auto(bytes),
        }
    }

    /// The first GPU that can be used and that the model fits on, else the CPU.
    fn auto(&self, bytes: u64) -> Result<Device> {
        let devices = match Cuda::devices() {
            Ok(devices) => devices,
            Err(error) => {
                self.pass_over(&error);
                0
            }
        };
        for ordinal in 0..devices {
            match Cuda::open(ordinal, self.cuda).and_then(|cuda| fitting(cuda, bytes)) {
                Ok(cuda) => return Ok(On::Cuda(cuda)),
                Err(error) => self.pass_over(&error),
            }
        }
        self.cpu()
    }

    fn pass_over(&self, error: &KernelError) {
        if !self.quiet {
            eprintln!("note: a GPU is not used (--device auto): {error}");
        }
    }

    fn cpu(&self) -> Result<Device> {
        Ok(On::Cpu(Cpu::new(self.cpu)?))
    }
}

/// Whether steps are replayed as CUDA graphs: `SELFIE_CUDA_GRAPHS`, for those who look for a fault.
fn graphs() -> Result<bool> {
    match std::env::var("SELFIE_CUDA_GRAPHS").as_deref() {
        Err(_) | Ok("on") => Ok(true),
        Ok("off") => Ok(false),
        Ok(other) => usage(format!("SELFIE_CUDA_GRAPHS={other}: expected on or off")),
    }
}

fn asked(device: &str) -> Result<Asked> {
    let number = device.strip_prefix("cuda:").and_then(|n| n.parse().ok());
    match (device, number) {
        ("auto", _) => Ok(Asked::Auto),
        ("cpu", _) => Ok(Asked::Cpu),
        (_, Some(ordinal)) => Ok(Asked::Cuda(ordinal)),
        _ => usage(format!("--device {device}: expected auto, cpu or cuda:N")),
    }
}

/// The backend, if a model of so many bytes fits on it.
fn fitting<B: Backend>(backend: B, bytes: u64) -> Result<B, KernelError> {
    let available = backend.memory()?.available;
    if bytes <= available {
        return Ok(backend);
    }
    Err(KernelError::OutOfMemory {
        what: "the model",
        bytes,
        available,
        device: backend.describe(),
    })
}

//! Which device a model runs on, and how.

use std::env;
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::thread::available_parallelism;

use selfie_kernels::{Cpu, CpuOptions, CpuPath};

use crate::{AnyDevice, Error, Note, Observer, Result, cuda};

/// The maximum number of threads per core that the process may use. More than one per core is never faster; beyond this
/// limit it gets slower, and with thousands nothing moves.
const THREADS_PER_CORE: usize = 8;

/// A device by name: `auto`, `cpu` or `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The first usable GPU that the model fits on, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU with this number, from 0.
    Cuda(usize),
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let number = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
        match (name, number) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            (_, Some(ordinal)) => Ok(Self::Cuda(ordinal)),
            _ => Err(Error::UnknownDevice {
                name: name.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// A device, and how to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOptions {
    /// The device.
    pub device: Device,
    /// Whether a row gets the same bits in any batch on a GPU, at some cost in speed. The CPU always does this.
    pub deterministic: bool,
    /// CPU threads; `None` starts one per core that the process may use. At most eight per core are started; if more
    /// were asked for, this is noted. Results do not depend on the number.
    pub threads: Option<NonZeroUsize>,
    /// The CPU's instruction-set path; `None` takes the fastest one.
    pub cpu_path: Option<CpuPath>,
    /// Whether to replay decode steps as CUDA graphs. Without, each kernel is launched separately, which helps to
    /// debug.
    pub cuda_graphs: bool,
}

impl Default for DeviceOptions {
    /// `auto`, not deterministic, all cores. Does not read the environment.
    fn default() -> Self {
        Self {
            device: Device::Auto,
            deterministic: false,
            threads: None,
            cpu_path: None,
            cuda_graphs: true,
        }
    }
}

impl DeviceOptions {
    /// The defaults, adjusted by the environment: `SELFIE_CPU_PATH` names a [`CpuPath`], `SELFIE_CUDA_GRAPHS` is `on`
    /// or `off`. This is the only place where the library reads the environment.
    pub fn from_env() -> Result<Self> {
        let cpu_path = match variable("SELFIE_CPU_PATH") {
            Some(name) => Some(name.parse()?),
            None => None,
        };
        let cuda_graphs = match variable("SELFIE_CUDA_GRAPHS").as_deref() {
            None | Some("on") => true,
            Some("off") => false,
            Some(other) => {
                return Err(Error::Environment {
                    name: "SELFIE_CUDA_GRAPHS",
                    value: other.to_owned(),
                    expected: "on or off",
                });
            }
        };
        Ok(Self {
            cpu_path,
            cuda_graphs,
            ..Self::default()
        })
    }

    /// Opens the device for a model whose weights take `bytes`.
    pub fn open(&self, bytes: u64, observer: &mut dyn Observer) -> Result<AnyDevice> {
        let gpu = match self.device {
            Device::Cpu => None,
            Device::Cuda(ordinal) => Some(cuda::open(ordinal, self, observer)?),
            Device::Auto => cuda::first_that_fits(self, bytes, observer),
        };
        match gpu {
            Some(gpu) => Ok(gpu),
            None => self.open_cpu(observer),
        }
    }

    fn open_cpu(&self, observer: &mut dyn Observer) -> Result<AnyDevice> {
        let cores = available_parallelism().map_or(1, NonZeroUsize::get);
        let most = THREADS_PER_CORE * cores;
        let asked = self.threads.map(NonZeroUsize::get);
        if let Some(asked) = asked.filter(|&asked| asked > most) {
            observer.note(Note::Threads { asked, most, cores });
        }
        let options = CpuOptions {
            threads: asked.map(|threads| threads.min(most)),
            path: self.cpu_path,
        };
        Ok(AnyDevice::Cpu(Cpu::new(options)?))
    }
}

fn variable(name: &str) -> Option<String> {
    Some(env::var_os(name)?.to_string_lossy().into_owned())
}

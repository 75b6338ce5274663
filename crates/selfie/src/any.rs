//! Things that are on one of the devices, and have forgotten on which.

#[cfg(feature = "cuda")]
use selfie_kernels::gpu::Cuda;
use selfie_kernels::{Backend, Cpu, KvLayout, Memory};
use selfie_llama::Llama;

use crate::Result;
use crate::cuda::on_device;

/// A device that is open.
// There are few of them.
#[allow(clippy::large_enum_variant)]
pub enum AnyDevice {
    /// The CPU.
    Cpu(Cpu),
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(Cuda),
}

/// A model with its weights on a device. [`on!`](crate::on) calls what is generic over the device.
// There are few of them.
#[allow(clippy::large_enum_variant)]
pub enum AnyModel {
    /// On the CPU.
    Cpu(Llama<Cpu>),
    /// On an NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(Llama<Cuda>),
}

impl AnyDevice {
    /// Its name, and which instruction set or compute capability it uses.
    pub fn describe(&self) -> String {
        on_device!(self, device => device.describe())
    }

    /// Its memory, now.
    pub fn memory(&self) -> Result<Memory> {
        Ok(on_device!(self, device => device.memory())?)
    }

    /// Bytes that keys and values of this layout take on it.
    pub fn kv_bytes(&self, layout: &KvLayout) -> u64 {
        on_device!(self, device => device.kv_bytes(layout))
    }
}

impl From<Llama<Cpu>> for AnyModel {
    fn from(model: Llama<Cpu>) -> Self {
        Self::Cpu(model)
    }
}

#[cfg(feature = "cuda")]
impl From<Llama<Cuda>> for AnyModel {
    fn from(model: Llama<Cuda>) -> Self {
        Self::Cuda(model)
    }
}

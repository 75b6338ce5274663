//! Devices and models of any backend.

#[cfg(feature = "cuda")]
use selfie_kernels::gpu::Cuda;
use selfie_kernels::{Backend, Cpu, DType, KvLayout, Memory};
use selfie_llama::{Llama, LlamaConfig, Lora};

use crate::cuda::on_device;
use crate::{Result, on};

/// An open device. A handle: clones are cheap, and share threads, stream and memory.
#[derive(Clone)]
pub enum AnyDevice {
    /// The CPU.
    Cpu(Cpu),
    /// An NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(Cuda),
}

/// A model with its weights on a device. [`on!`](crate::on) calls code that is generic over the device. A handle:
/// clones share the weights.
#[derive(Clone)]
pub enum AnyModel {
    /// On the CPU.
    Cpu(Llama<Cpu>),
    /// On an NVIDIA GPU.
    #[cfg(feature = "cuda")]
    Cuda(Llama<Cuda>),
}

impl AnyDevice {
    /// Its name, and its instruction set or compute capability.
    pub fn describe(&self) -> String {
        on_device!(self, device => device.describe())
    }

    /// Its memory at present.
    pub fn memory(&self) -> Result<Memory> {
        Ok(on_device!(self, device => device.memory())?)
    }

    /// Whether it multiplies with quantized blocks directly.
    pub fn keeps_blocks(&self) -> bool {
        on_device!(self, device => device.keeps_blocks())
    }

    /// The dtype of the keys and values of a model that runs in `dtype`: the chosen one, or the default. An error if
    /// the device cannot keep them in the chosen one.
    pub fn kv_dtype(&self, dtype: DType, chosen: Option<DType>) -> Result<DType> {
        Ok(on_device!(self, device => device.kv_dtype(dtype, chosen))?)
    }

    /// The bytes that the keys and values of a text with `positions` positions take in the dtype `kv`.
    pub fn kv_bytes(&self, config: &LlamaConfig, kv: DType, positions: usize) -> u64 {
        on_device!(self, device => device.kv_bytes(&KvLayout {
            kv_heads: config.attn.kv_heads,
            head_dim: config.attn.head_dim,
            prefixes: Vec::new(),
            own: vec![positions; config.n_layers],
            slots: 1,
            dtype: kv,
        }))
    }
}

impl AnyModel {
    /// The same model with one more low-rank adapter; the weights are shared ([`Llama::with_lora`]).
    pub fn with_lora(&self, lora: &Lora) -> Result<Self> {
        on!(self, llama => Ok(llama.with_lora(lora)?.into()))
    }
}

impl From<Cpu> for AnyDevice {
    fn from(device: Cpu) -> Self {
        Self::Cpu(device)
    }
}

#[cfg(feature = "cuda")]
impl From<Cuda> for AnyDevice {
    fn from(device: Cuda) -> Self {
        Self::Cuda(device)
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

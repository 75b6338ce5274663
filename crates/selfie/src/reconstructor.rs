//! Reconstructors of natural-language autoencoders, on any device.

use selfie_interp::Reconstructor;
use selfie_interp::released::Meta;
use selfie_kernels::Cpu;
#[cfg(feature = "cuda")]
use selfie_kernels::gpu::Cuda;
use selfie_llama::{Llama, Tokenizer};

use crate::cuda::on_device;
use crate::{AnyDevice, Opened, Result};

/// A reconstructor with its tokenizer, on any device.
pub struct AnyReconstructor {
    tokenizer: Tokenizer,
    on: On,
}

enum On {
    Cpu(Reconstructor<Cpu>),
    #[cfg(feature = "cuda")]
    Cuda(Reconstructor<Cuda>),
}

impl Opened {
    /// Loads a reconstructor's layers and head. `meta` describes its folder
    /// ([`Released::open`](selfie_interp::Released::open)).
    pub fn load_reconstructor(self, device: AnyDevice, meta: Meta) -> Result<AnyReconstructor> {
        let checkpoint = self.source.checkpoint()?;
        let dir = meta.path.parent().unwrap_or(&meta.path).to_owned();
        let (dtype, kv) = (self.options.dtype, self.options.kv);
        let on = on_device!(device, device => {
            let mut model = Llama::load_backbone(device, self.config, &checkpoint, dtype, |_| {})?;
            if let Some(kv) = kv {
                model = model.with_kv(kv)?;
            }
            On::from(Reconstructor::open(&dir, model, meta)?)
        });
        Ok(AnyReconstructor {
            tokenizer: self.tokenizer,
            on,
        })
    }
}

impl AnyReconstructor {
    /// The vectors of some texts, `[d_model]` each.
    pub fn reconstruct(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
        Ok(match &self.on {
            On::Cpu(reconstructor) => reconstructor.reconstruct(&self.tokenizer, texts)?,
            #[cfg(feature = "cuda")]
            On::Cuda(reconstructor) => reconstructor.reconstruct(&self.tokenizer, texts)?,
        })
    }
}

impl From<Reconstructor<Cpu>> for On {
    fn from(reconstructor: Reconstructor<Cpu>) -> Self {
        Self::Cpu(reconstructor)
    }
}

#[cfg(feature = "cuda")]
impl From<Reconstructor<Cuda>> for On {
    fn from(reconstructor: Reconstructor<Cuda>) -> Self {
        Self::Cuda(reconstructor)
    }
}

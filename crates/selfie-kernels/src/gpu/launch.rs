//! A kernel launch as data, and the text of the kernels.

use super::plan;
use super::template::expand;
use crate::DType;

/// An argument of a kernel, in the order of its `.param`s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// An address on the device; `.u64`.
    Ptr(u64),
    /// `.u32`
    U32(u32),
    /// `.u64`
    U64(u64),
    /// `.f32`
    F32(f32),
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The module that holds it.
    pub module: Module,
    /// The name of the `.entry`.
    pub entry: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, beside what the kernel declares itself.
    pub shared_bytes: u32,
    /// The arguments.
    pub args: Vec<Arg>,
}

/// A file in `kernels/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum File {
    /// `add.ptx`
    Add,
    /// `adam.ptx`
    Adam,
    /// `attention_decode.ptx`
    AttentionDecode,
    /// `attention_f32.ptx`
    AttentionF32,
    /// `attention_merge.ptx`
    AttentionMerge,
    /// `attention_prompt.ptx`
    AttentionPrompt,
    /// `cast.ptx`
    Cast,
    /// `draw.ptx`
    Draw,
    /// `embed.ptx`
    Embed,
    /// `gather_rows.ptx`
    GatherRows,
    /// `glu.ptx`
    Glu,
    /// `head.ptx`
    Head,
    /// `inject.ptx`
    Inject,
    /// `kv_copy.ptx`
    KvCopy,
    /// `logit_map.ptx`
    LogitMap,
    /// `matvec.ptx`
    Matvec,
    /// `mlp_backward.ptx`
    MlpBackward,
    /// `rms_norm.ptx`
    RmsNorm,
    /// `rope_append.ptx`
    RopeAppend,
}

impl File {
    /// All files.
    pub const ALL: &'static [File] = &[
        File::Add,
        File::Adam,
        File::AttentionDecode,
        File::AttentionF32,
        File::AttentionMerge,
        File::AttentionPrompt,
        File::Cast,
        File::Draw,
        File::Embed,
        File::GatherRows,
        File::Glu,
        File::Head,
        File::Inject,
        File::KvCopy,
        File::LogitMap,
        File::Matvec,
        File::MlpBackward,
        File::RmsNorm,
        File::RopeAppend,
    ];

    /// The name, without `.ptx`.
    pub const fn name(self) -> &'static str {
        match self {
            File::Add => "add",
            File::Adam => "adam",
            File::AttentionDecode => "attention_decode",
            File::AttentionF32 => "attention_f32",
            File::AttentionMerge => "attention_merge",
            File::AttentionPrompt => "attention_prompt",
            File::Cast => "cast",
            File::Draw => "draw",
            File::Embed => "embed",
            File::GatherRows => "gather_rows",
            File::Glu => "glu",
            File::Head => "head",
            File::Inject => "inject",
            File::KvCopy => "kv_copy",
            File::LogitMap => "logit_map",
            File::Matvec => "matvec",
            File::MlpBackward => "mlp_backward",
            File::RmsNorm => "rms_norm",
            File::RopeAppend => "rope_append",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            File::Add => selfie_ptx::ADD,
            File::Adam => selfie_ptx::ADAM,
            File::AttentionDecode => selfie_ptx::ATTENTION_DECODE,
            File::AttentionF32 => selfie_ptx::ATTENTION_F32,
            File::AttentionMerge => selfie_ptx::ATTENTION_MERGE,
            File::AttentionPrompt => selfie_ptx::ATTENTION_PROMPT,
            File::Cast => selfie_ptx::CAST,
            File::Draw => selfie_ptx::DRAW,
            File::Embed => selfie_ptx::EMBED,
            File::GatherRows => selfie_ptx::GATHER_ROWS,
            File::Glu => selfie_ptx::GLU,
            File::Head => selfie_ptx::HEAD,
            File::Inject => selfie_ptx::INJECT,
            File::KvCopy => selfie_ptx::KV_COPY,
            File::LogitMap => selfie_ptx::LOGIT_MAP,
            File::Matvec => selfie_ptx::MATVEC,
            File::MlpBackward => selfie_ptx::MLP_BACKWARD,
            File::RmsNorm => selfie_ptx::RMS_NORM,
            File::RopeAppend => selfie_ptx::ROPE_APPEND,
        }
    }

    /// Whether the file is written for bf16 and also works for f16; see [`Module::source`].
    pub const fn has_twin(self) -> bool {
        matches!(
            self,
            File::AttentionDecode | File::AttentionMerge | File::AttentionPrompt | File::Matvec
        )
    }

    /// Whether the file has variants with windows and soft caps.
    const fn is_masked(self) -> bool {
        matches!(
            self,
            File::AttentionDecode | File::AttentionF32 | File::AttentionPrompt
        )
    }

    /// The head dimensions that [`Module::all`] includes for a file expanded per head dimension; empty for other files.
    const fn head_dims(self) -> &'static [u32] {
        match self {
            File::AttentionF32 => &[2, 20, 64, 128, 256],
            File::AttentionDecode | File::AttentionMerge | File::AttentionPrompt => {
                &[16, 32, 48, 64, 80, 96, 128, 256]
            }
            _ => &[],
        }
    }
}

/// A file in `kernels/`, ready to be assembled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Module {
    file: File,
    f16: bool,
    head_dim: Option<u32>,
    window: bool,
    cap: bool,
}

impl Module {
    /// The file as it stands.
    pub const fn new(file: File) -> Self {
        Self {
            file,
            f16: false,
            head_dim: None,
            window: false,
            cap: false,
        }
    }

    /// The file for operands of `dtype`. f32 gets the same text as bf16.
    pub fn of(file: File, dtype: DType) -> Self {
        Self {
            f16: dtype == DType::F16 && file.has_twin(),
            ..Self::new(file)
        }
    }

    /// The file expanded for one head dimension.
    pub fn of_heads(file: File, dtype: DType, head_dim: u32) -> Self {
        Self {
            head_dim: Some(head_dim),
            ..Self::of(file, dtype)
        }
    }

    /// This module with a window, soft caps or both. A file without them stays as it is.
    pub fn masked(self, window: bool, cap: bool) -> Self {
        let masked = self.file.is_masked();
        Self {
            window: window && masked,
            cap: cap && masked,
            ..self
        }
    }

    /// All modules: the f16 twins, and some head dimensions of each file that is expanded per head dimension.
    pub fn all() -> Vec<Module> {
        let mut all = Vec::new();
        for &file in File::ALL {
            let twin = file.has_twin().then_some(DType::F16);
            for dtype in [Some(DType::Bf16), twin].into_iter().flatten() {
                let heads = file.head_dims().iter();
                let modules = heads.map(|&head_dim| Self::of_heads(file, dtype, head_dim));
                for module in modules {
                    all.push(module);
                    if file.is_masked() {
                        all.push(module.masked(true, true));
                    }
                }
                if file.head_dims().is_empty() {
                    all.push(Self::of(file, dtype));
                }
            }
        }
        all
    }

    /// The file.
    pub const fn file(self) -> File {
        self.file
    }

    /// Whether this is the f16 twin of a file that is written for bf16.
    pub const fn is_twin(self) -> bool {
        self.f16
    }

    /// The module's name: the file's name, then `_f16` for a twin, the head dimension, and the masks.
    pub fn name(self) -> String {
        let twin = if self.f16 { "_f16" } else { "" };
        let heads = self.head_dim.map_or(String::new(), |d| format!("_{d}"));
        let window = if self.window { "_window" } else { "" };
        let cap = if self.cap { "_cap" } else { "" };
        format!("{}{twin}{heads}{window}{cap}", self.file.name())
    }

    /// The PTX.
    ///
    /// Tensor-core kernels for bf16 and f16 differ only in the name of the type in their instructions. They are written
    /// for bf16. The twin is the same text with `f16` for `bf16`, in the names of the entries too. Loops over registers
    /// are [expanded](super::template).
    pub fn source(self) -> String {
        let names = match self.head_dim {
            None => Vec::new(),
            Some(head_dim) => vec![
                ("D", head_dim.into()),
                ("STRIDE", plan::stride(head_dim).into()),
                ("M", plan::warp_tiles(head_dim).into()),
                ("WINDOW", self.window.into()),
                ("CAP", self.cap.into()),
            ],
        };
        let text = expand(self.file.text(), &names)
            .unwrap_or_else(|e| panic!("{}.ptx is not a valid template: {e}", self.name()));
        if self.f16 {
            text.replace("bf16", "f16")
        } else {
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_is_written_out() {
        for module in Module::all() {
            let source = module.source();
            assert!(!source.contains('$'), "{}", module.name());
            assert!(!module.f16 || !source.contains("bf16"), "{}", module.name());
        }
    }
}

//! A launch of a kernel, as data, and the text of the kernels.

use std::borrow::Cow;

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
    /// Where its text is.
    pub module: Module,
    /// The name of the `.entry`.
    pub entry: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, beside what the kernel declares itself.
    pub shared_bytes: u32,
    /// What the kernel is given.
    pub args: Vec<Arg>,
}

/// A file of `kernels/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum File {
    /// `rms_norm.ptx`
    RmsNorm,
}

impl File {
    /// All files.
    pub const ALL: &'static [File] = &[File::RmsNorm];

    /// The name, without `.ptx`.
    pub const fn name(self) -> &'static str {
        match self {
            File::RmsNorm => "rms_norm",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            File::RmsNorm => include_str!("../../kernels/rms_norm.ptx"),
        }
    }

    /// Whether the file is written for bf16 in a way that does for f16 too; see [`Module::source`].
    pub const fn has_twin(self) -> bool {
        match self {
            File::RmsNorm => false,
        }
    }
}

/// A file of `kernels/`, ready to be assembled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Module {
    file: File,
    f16: bool,
}

impl Module {
    /// The file as it stands.
    pub const fn new(file: File) -> Self {
        Self { file, f16: false }
    }

    /// The file for operands of `dtype`, f32 being the same as bf16.
    pub fn of(file: File, dtype: DType) -> Self {
        Self {
            file,
            f16: dtype == DType::F16 && file.has_twin(),
        }
    }

    /// All modules, the f16 twins included.
    pub fn all() -> impl Iterator<Item = Module> {
        File::ALL.iter().flat_map(|&file| {
            let twin = file.has_twin().then_some(Module { file, f16: true });
            [Some(Module::new(file)), twin].into_iter().flatten()
        })
    }

    /// What to call it: the file's name, with `_f16` behind that of a twin.
    pub fn name(self) -> String {
        let twin = if self.f16 { "_f16" } else { "" };
        format!("{}{twin}", self.file.name())
    }

    /// The PTX.
    ///
    /// Tensor-core kernels differ between bf16 and f16 in nothing but the name of the type in their
    /// instructions. They are written for bf16, and the twin is the same text with `f16` for `bf16`, in the
    /// names of the entries too.
    pub fn source(self) -> Cow<'static, str> {
        let text = self.file.text();
        if self.f16 {
            text.replace("bf16", "f16").into()
        } else {
            text.into()
        }
    }
}

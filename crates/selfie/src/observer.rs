//! Notes and progress.

use std::fmt;

use selfie_kernels::{DType, KernelError};

/// Receives notes that come when the model runs, on any thread, in the middle of a pass: it must not call the model.
pub type LateNotes = Box<dyn Fn(Note) + Send>;

/// Receives what happens while a model opens. `()` ignores it, a `Vec` keeps the notes.
pub trait Observer {
    /// Something that the user should know.
    fn note(&mut self, _note: Note) {}

    /// Asked when a device opens: what takes the notes that come later. By default nothing does.
    fn later(&self) -> Option<LateNotes> {
        None
    }

    /// How many of the checkpoint's bytes are loaded. Called after each matrix.
    fn loaded(&mut self, _bytes: u64, _total: u64) {}
}

impl Observer for () {}

impl Observer for Vec<Note> {
    fn note(&mut self, note: Note) {
        self.push(note);
    }
}

/// Something that a user should know but that is not an error. Its text is one line without a full stop.
#[derive(Debug)]
#[non_exhaustive]
pub enum Note {
    /// The requested dtype rounds the weights of the file.
    Rounded {
        /// The dtype in the file.
        stored: DType,
        /// The dtype they are rounded to.
        dtype: DType,
    },
    /// The weights are quantized in the file, and dequantized to a dtype that rounds them.
    Dequantized {
        /// The formats in the file, by its names.
        stored: String,
        /// The dtype they are rounded to.
        dtype: DType,
    },
    /// The weights are quantized in the file and stay quantized.
    KeptBlocks {
        /// The formats, with the number of matrices in each.
        formats: String,
    },
    /// The weights are quantized on loading, as requested.
    Quantized {
        /// The formats, with the number of matrices in each.
        formats: String,
    },
    /// [`Device::Auto`](crate::Device::Auto) skips a GPU.
    GpuPassedOver {
        /// The reason.
        reason: KernelError,
    },
    /// A GPU could not capture decode steps as graphs, and launches each kernel by itself from now on. Results are the
    /// same.
    WithoutGraphs {
        /// The reason.
        reason: String,
    },
    /// Fewer threads are started than requested.
    Threads {
        /// The requested number.
        asked: usize,
        /// The number of started threads.
        most: usize,
        /// The number of cores that the process may use.
        cores: usize,
    },
    /// A note about the files of a model or about a prompt.
    Files(selfie_llama::Note),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(note) => note.fmt(f),
            Self::Rounded { stored, dtype } => write!(
                f,
                "the {stored} weights are rounded to {dtype} (--dtype {dtype})"
            ),
            Self::Dequantized { stored, dtype } => write!(
                f,
                "the {stored} weights are dequantized and rounded to {dtype}; --dtype f32 dequantizes them exactly"
            ),
            Self::KeptBlocks { formats } => write!(
                f,
                "the weights stay quantized: {formats}; products round activations to 8 bits, --dtype f32 does not"
            ),
            Self::Quantized { formats } => write!(
                f,
                "the weights are quantized on loading: {formats} (--quantize); products round activations to 8 bits"
            ),
            Self::GpuPassedOver { reason } => {
                write!(f, "skipping a GPU (--device auto): {reason}")
            }
            Self::WithoutGraphs { reason } => write!(
                f,
                "launching each kernel by itself from now on, which is slower for few sequences: {reason}"
            ),
            Self::Threads { asked, most, cores } => write!(
                f,
                "starting {most} threads instead of {asked} (--threads): this process may use {cores} cores, and more \
                 than a few threads per core only slow it down"
            ),
        }
    }
}

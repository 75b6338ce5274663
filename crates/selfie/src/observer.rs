//! What is told while a model is opened.

use std::fmt;

use selfie_kernels::{DType, KernelError};

/// Who is told of what happens while a model is opened. `()` does not listen, a `Vec` keeps the notes.
pub trait Observer {
    /// Something that the user should know.
    fn note(&mut self, _note: Note) {}

    /// How many of the checkpoint's bytes are loaded; called after each matrix.
    fn loaded(&mut self, _bytes: u64, _total: u64) {}
}

impl Observer for () {}

impl Observer for Vec<Note> {
    fn note(&mut self, note: Note) {
        self.push(note);
    }
}

/// Something that a user should know, and that is no error. Its text is a line without a full stop.
#[derive(Debug)]
#[non_exhaustive]
pub enum Note {
    /// The model is another one than that of the file, as was asked for.
    Rounded {
        /// The type of the weights in the file.
        stored: DType,
        /// The type that they are rounded to.
        dtype: DType,
    },
    /// The weights are quantized in the file, and computed with in a type that rounds what they stand for.
    Dequantized {
        /// The types in the file, as it names them.
        stored: String,
        /// The type that they are rounded to.
        dtype: DType,
    },
    /// The weights are quantized in the file, and stay so.
    KeptBlocks {
        /// The formats, and how many matrices have each.
        formats: String,
    },
    /// The weights are quantized on loading, as was asked for.
    Quantized {
        /// The formats, and how many matrices have each.
        formats: String,
    },
    /// [`Device::Auto`](crate::Device::Auto) does not take a GPU.
    GpuPassedOver {
        /// Why.
        reason: KernelError,
    },
    /// Fewer threads are started than were asked for.
    Threads {
        /// How many were asked for.
        asked: usize,
        /// How many there are now.
        most: usize,
        /// The cores that the process may use.
        cores: usize,
    },
    /// What the files of a model, or a prompt, ask for is done otherwise than one may expect.
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
                "the {stored} weights are dequantized and rounded to {dtype}; --dtype f32 keeps every bit of them"
            ),
            Self::KeptBlocks { formats } => write!(
                f,
                "weights stay quantized: {formats}; products round their operands to 8 bits, --dtype f32 keeps every bit"
            ),
            Self::Quantized { formats } => write!(
                f,
                "the weights are quantized: {formats} (--quantize); products round their operands to 8 bits"
            ),
            Self::GpuPassedOver { reason } => {
                write!(f, "a GPU is not used (--device auto): {reason}")
            }
            Self::Threads { asked, most, cores } => write!(
                f,
                "{most} threads are started, not {asked} (--threads): this process may use {cores} cores, and more \
                 than a few threads a core only slow it down"
            ),
        }
    }
}

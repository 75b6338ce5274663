//! Errors of a file of weights.

use std::path::PathBuf;

/// A file of weights, safetensors or GGUF, does not match its header.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// A file of weights is shorter than its header says.
    #[error(
        "{} is cut off: it should have {promised} bytes and has {found}; download it again",
        file.display()
    )]
    Truncated {
        /// The file.
        file: PathBuf,
        /// The number of bytes that the header requires.
        promised: u64,
        /// The number of bytes in the file.
        found: u64,
    },
    /// The header's length exceeds the file.
    #[error(
        "{} begins with a header of {header} bytes but has only {found} bytes: it is cut off or not a \
         safetensors file; download it again",
        file.display()
    )]
    HeaderPastEnd {
        /// The file.
        file: PathBuf,
        /// The length in its first eight bytes.
        header: u64,
        /// The number of bytes in the file.
        found: u64,
    },
    /// The header is longer than the format allows.
    #[error(
        "{} begins with a header of {header} bytes, but only {limit} are allowed: it is not a safetensors \
         file; download it again (`git lfs pull`, if it is a pointer of Git LFS)",
        file.display()
    )]
    HeaderTooLarge {
        /// The file.
        file: PathBuf,
        /// The length in its first eight bytes.
        header: u64,
        /// The longest header allowed.
        limit: u64,
    },
    /// The header of a file of weights does not parse.
    #[error("the header of {} is damaged: {source}; download the file again", file.display())]
    Header {
        /// The file.
        file: PathBuf,
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },
    /// A header lists a tensor twice.
    #[error("{} lists the tensor {tensor} twice; write or download it again", file.display())]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
    },
    /// A tensor's size overflows.
    #[error(
        "{}: tensor {tensor} of shape {shape:?} has more bytes than 64 bits can count; \
         download the file again",
        file.display()
    )]
    ShapeOverflow {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor's byte range does not match its shape.
    #[error(
        "{}: the header gives tensor {tensor} the bytes {begin}..{end}, which is not the size of {shape:?} \
         in {dtype}; download the file again",
        file.display()
    )]
    TensorBytes {
        /// The tensor.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// The first byte, from the start of the data.
        begin: u64,
        /// One past the last byte.
        end: u64,
        /// Its shape.
        shape: Vec<usize>,
        /// Its element type.
        dtype: String,
    },
    /// Two tensors share bytes of a file.
    #[error(
        "{}: tensor {tensor} begins at byte {begin} of the data, but {before} ends at {before_end}; \
         download the file again",
        file.display()
    )]
    Overlap {
        /// The tensor that begins later.
        tensor: String,
        /// The file.
        file: PathBuf,
        /// Its first byte.
        begin: u64,
        /// The tensor before it.
        before: String,
        /// The end of that tensor.
        before_end: u64,
    },
    /// Some bytes of a file belong to no tensor.
    #[error(
        "{}: bytes {begin}..{end} of the data belong to no tensor; download the file again",
        file.display()
    )]
    Gap {
        /// The file.
        file: PathBuf,
        /// The first such byte, from the start of the data.
        begin: u64,
        /// One past the last byte.
        end: u64,
    },
}

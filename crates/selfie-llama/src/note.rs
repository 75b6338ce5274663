//! Notes to the user that are not errors.

use std::fmt;
use std::path::PathBuf;

/// Something that may not be what the user expects. Its text is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// A prompt already begins with bos and gets another one.
    DoubledBos {
        /// The token.
        bos: String,
    },
    /// A chat template does not write the bos that other prompts begin with.
    MissingBos {
        /// The token.
        bos: String,
    },
    /// A folder holds an adapter beside its weights. It is not applied.
    AdapterIgnored {
        /// `adapter_config.json`.
        file: PathBuf,
    },
    /// A checkpoint has other parts beside its language model. Only the language model is read.
    TextOnly {
        /// The checkpoint's folder.
        dir: PathBuf,
    },
    /// A field of `generation_config.json` asks for something unsupported.
    FieldIgnored {
        /// The file.
        file: PathBuf,
        /// The field.
        field: String,
        /// Its value, as JSON.
        value: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::DoubledBos { bos } => write!(
                f,
                "the prompt itself begins with {bos}, and one more is put before it, so it has two"
            ),
            Note::MissingBos { bos } => {
                write!(
                    f,
                    "the chat template writes no {bos}; other prompts begin with it"
                )
            }
            Note::AdapterIgnored { file } => write!(
                f,
                "{} belongs to an adapter, which is left out: the weights beside it are used unchanged",
                file.display()
            ),
            Note::TextOnly { dir } => write!(
                f,
                "{} is a multimodal model: only its text part is used",
                dir.display()
            ),
            Note::FieldIgnored { file, field, value } => write!(
                f,
                "{} asks for {field} {value}, which is left out",
                file.display()
            ),
        }
    }
}

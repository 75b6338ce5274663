//! Adapters (LoRA and its relatives, as PEFT writes them), in their own folder or beside weights.

use std::fs;
use std::path::Path;

use super::{exists, read_error};
use crate::json::{Fields, parse_object};
use crate::{LlamaError, Note, Result};

const CONFIG: &str = "adapter_config.json";

/// Whether a file of weights belongs to an adapter.
pub(super) fn is_of(file: &Path) -> bool {
    let name = file.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("adapter_"))
}

/// The note on an adapter in a folder that also has weights.
pub(super) fn note(dir: &Path) -> Result<Option<Note>> {
    let file = dir.join(CONFIG);
    Ok(exists(&file)?.then_some(Note::AdapterIgnored { file }))
}

/// The error for a folder that holds an adapter instead of a model; `None` if it holds no adapter.
pub(crate) fn only_adapter(dir: &Path) -> Result<Option<LlamaError>> {
    let file = dir.join(CONFIG);
    if !exists(&file)? {
        return Ok(None);
    }
    let json = fs::read_to_string(&file).map_err(|source| read_error(&file, source))?;
    let object = parse_object(&json, &file)?;
    let base = Fields::new(&file, &object).text("base_model_name_or_path")?;
    Ok(Some(LlamaError::OnlyAdapter {
        dir: dir.to_owned(),
        base: base.unwrap_or("a base model").to_owned(),
    }))
}

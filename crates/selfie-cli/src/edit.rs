//! `selfie edit`.

use std::io::{self, Write};

use selfie::control::{ControlError, Edit, export};
use selfie::kernels::DType;
use selfie::llama::{HostTensor, Lora, resolve_folder};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::control_args::{EditCommand, EditExportArgs, EditShowArgs};
use crate::error::{CliError, Result, usage};

pub(crate) fn edit(command: &EditCommand) -> Result<()> {
    match command {
        EditCommand::Show(args) => show(args),
        EditCommand::Export(args) => write_checkpoint(args),
    }
}

fn show(args: &EditShowArgs) -> Result<()> {
    let mut text = String::new();
    for path in &args.edits {
        let edit = Edit::open(path)?;
        if args.json {
            text += &format!("{}\n", json_of(&edit));
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text += &text_of(&path.display().to_string(), &edit);
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).map_err(CliError::Stdout)
}

/// An edit's metadata and its tensors.
fn json_of(edit: &Edit) -> Value {
    let mut json = json!(edit.meta);
    let tensor =
        |t: &HostTensor| json!({"name": t.name, "dtype": t.dtype.to_string(), "shape": t.shape});
    json["tensors"] = edit.mlp.tensors.iter().map(tensor).collect();
    json
}

fn text_of(name: &str, edit: &Edit) -> String {
    let meta = &edit.meta;
    let base = &meta.base;
    let losses = |losses: &[f64], last: Option<f64>| {
        let last = last.map(|loss| format!("{loss:.6}"));
        let losses = losses.iter().map(|loss| format!("{loss:.6}"));
        let losses: Vec<String> = losses.chain(last).collect();
        losses.join(" ")
    };
    let mut lines = vec![
        ("edit", name.to_owned()),
        ("made by", meta.tool.clone()),
        ("method", meta.method.clone()),
        (
            "layer",
            format!(
                "hidden_states[{}], by the MLP of layer {}",
                meta.layer, edit.mlp.layer
            ),
        ),
        (
            "base",
            format!(
                "{} layers, d_model {}, ffn {}, vocabulary {}",
                base.n_layers, base.d_model, base.ffn, base.vocab_size
            ),
        ),
        ("updates", format!("{}; {}", meta.updates, meta.end)),
        ("losses", losses(&meta.losses, meta.final_loss)),
    ];
    if !meta.keep_losses.is_empty() {
        lines.push((
            "keep losses",
            losses(&meta.keep_losses, meta.final_keep_loss),
        ));
        lines.push(("drift", losses(&meta.drifts, meta.final_drift)));
    }
    if let Value::Object(options) = &meta.options {
        for (option, value) in options {
            lines.push(("option", format!("{option} {value}")));
        }
    }
    for tensor in &edit.mlp.tensors {
        let hash = meta
            .base_sha256
            .get(&tensor.name)
            .map_or("", String::as_str);
        lines.push((
            "tensor",
            format!(
                "{} {} {:?}, replaces {hash}",
                tensor.name, tensor.dtype, tensor.shape
            ),
        ));
    }
    let line = |(name, value): (&str, String)| format!("{name:12} {value}\n");
    lines.into_iter().map(line).collect()
}

/// The demo checkpoint as files, for as long as they are needed.
fn demo_folder() -> Result<TempDir> {
    let write = || {
        let folder = tempfile::tempdir()?;
        selfie::demo::write(folder.path())?;
        Ok(folder)
    };
    let failed = |source| ControlError::Write {
        path: std::env::temp_dir(),
        source,
    };
    Ok(write().map_err(failed)?)
}

fn write_checkpoint(args: &EditExportArgs) -> Result<()> {
    let paths = args.model.edit.iter().chain(&args.edits);
    let edits = paths.map(|path| Ok((path.display().to_string(), Edit::open(path)?)));
    let edits: Vec<(String, Edit)> = edits.collect::<Result<_>>()?;
    let lora = args.lora.as_deref().map(Lora::open).transpose();
    let lora = lora.map_err(selfie::Error::from)?;
    if edits.is_empty() && lora.is_none() {
        return usage(
            "nothing to export; give at least one edit, or --lora: selfie edit export --model DIR EDIT --out DIR",
        );
    }
    let exported = match &args.model.model {
        Some(dir) => export(&resolve_folder(dir)?, &edits, lora.as_ref(), &args.out)?,
        None => {
            let folder = demo_folder()?;
            export(folder.path(), &edits, lora.as_ref(), &args.out)?
        }
    };
    if exported.other_dtype && !args.model.quiet {
        eprintln!(
            "note: the edited tensors are {}, the others are unchanged; in transformers, load the folder with \
             torch_dtype=torch.float32",
            edits.first().map_or(DType::F32, |(_, edit)| edit.dtype())
        );
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{}: {} weight files rewritten, {} linked, {} other files copied",
        args.out.display(),
        exported.rewritten.len(),
        exported.linked.len(),
        exported.copied.len()
    )
    .map_err(CliError::Stdout)
}

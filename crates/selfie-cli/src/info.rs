//! `selfie info` and `selfie tokens`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use selfie::Opened;
use selfie::kernels::{CpuPath, DType};
use selfie::llama::{Checkpoint, LayerRope, LayerSpec, Rope, RopeScaling, Spec, stored_dtype};
use selfie_explorer::visible;

use crate::args::{InfoArgs, TokensArgs};
use crate::chat::chats;
use crate::console::{Console, print_note};
use crate::error::{CliError, Result};
use crate::open::open;
use crate::prompts::{interpretation_prompt, note_double_bos, note_interpretation_prompt};

pub(crate) fn info(args: &InfoArgs) -> Result<()> {
    let opened = open(&args.model)?;
    let config = &opened.config;
    let checkpoint = opened.source.checkpoint()?;
    for note in checkpoint.notes() {
        print_note(args.model.quiet, note);
    }
    let stored = stored_dtype(config, &checkpoint)?;
    let attn = &config.attn;
    let device = opened.device(&mut Console::new(args.model.quiet))?;
    let weights = opened.weights(&checkpoint, device.keeps_blocks())?;
    let kv = device.kv_dtype(weights.operand_dtype(), opened.options.kv)?;
    let cache = device.kv_bytes(config, kv, 1024);
    let memory = device.memory()?;
    let parameters = config.n_parameters();
    let mut heads = format!(
        "{} of {}, {} kv heads",
        attn.heads, attn.head_dim, attn.kv_heads
    );
    if config.qkv_bias || config.o_bias || config.mlp_bias {
        heads.push_str(", biases");
    }
    let lines = [
        ("model", opened.name.clone()),
        ("type", config.model_type.name().to_owned()),
        ("layers", config.n_layers.to_string()),
        ("d_model", config.d_model.to_string()),
        ("ffn", config.ffn.to_string()),
        ("heads", heads),
        ("vocabulary", config.vocab_size.to_string()),
        ("context", format!("{} positions", config.max_positions)),
        ("rope", rope(&config.rope)),
        ("attention", attention(&config.spec)),
        ("chat", chat_template(&opened)),
        (
            "parameters",
            format!("{parameters} ({:.2} B)", parameters as f64 / 1e9),
        ),
        (
            "stored as",
            format!(
                "{}, {}",
                stored_as(stored, &checkpoint),
                megabytes(checkpoint.total_bytes())
            ),
        ),
        (
            "computed in",
            format!("{weights}, {}", megabytes(weights.bytes())),
        ),
        (
            "kv cache",
            format!("{kv}, {} for 1024 positions", megabytes(cache)),
        ),
        (
            "memory",
            format!(
                "{} available of {}",
                megabytes(memory.available),
                megabytes(memory.total)
            ),
        ),
        ("device", device.describe()),
        ("cpu path", cpu_path(opened.options.device.cpu_path)),
    ];
    let edits = opened.edits.iter().map(|(name, edit)| {
        let layer = edit.mlp.layer;
        (
            "edit",
            format!(
                "{name}: {} control of layer {layer}'s MLP",
                edit.meta.method
            ),
        )
    });
    let mut out = io::stdout().lock();
    for (name, value) in lines.into_iter().chain(edits) {
        writeln!(out, "{name:12} {value}").map_err(CliError::Stdout)?;
    }
    Ok(())
}

pub(crate) fn tokens(args: &TokensArgs) -> Result<()> {
    let mut opened = open(&args.model)?;
    let quiet = args.model.quiet;
    let (mut written, mut roles) = (Vec::new(), Vec::new());
    let tokens = match &args.prompt {
        Some(prompt) if args.chat.chat => {
            let prompts = std::slice::from_ref(prompt);
            let chats = chats(prompts, &args.chat, &args.model, &mut opened)?;
            let mut texts = Vec::new();
            for chat in &chats {
                chat.note_unmarked(quiet);
                roles = chat.roles(&opened)?;
                texts = opened.tokens(&chat.rendered.text)?;
            }
            texts
        }
        Some(prompt) => {
            note_double_bos(&opened, &[prompt], quiet)?;
            opened.tokens(prompt)?
        }
        None => {
            let (json, template) = (&args.interpretation_prompt, &args.template);
            let prompt = interpretation_prompt(json.as_deref(), template.as_deref(), &opened)?;
            let bos = opened.options.bos;
            let located = note_interpretation_prompt(&opened, &prompt, bos, quiet)?;
            written = located.rows;
            opened.tokenizer.tokens(&located.ids)?
        }
    };
    let mut out = io::stdout().lock();
    for (index, token) in tokens.iter().enumerate() {
        let (id, piece) = (token.id, visible(&token.piece));
        let special = if token.special { "special" } else { "" };
        let by = written.iter().zip(1..);
        let by = by.filter(|(placeholder, _)| placeholder.rows.contains(&index));
        let by = by.map(|(_, number)| format!("write {number}"));
        let by: Vec<String> = by.chain(roles.get(index).cloned()).collect();
        let line = format!("{index}\t{id}\t{piece}\t{special}\t{}", by.join(", "));
        // A token has three columns unless it is special, overwritten or part of a message.
        writeln!(out, "{}", line.trim_end_matches('\t')).map_err(CliError::Stdout)?;
    }
    Ok(())
}

/// The instruction set that the CPU uses, and why.
fn cpu_path(forced: Option<CpuPath>) -> String {
    let names: Vec<_> = CpuPath::available().iter().map(|p| p.name()).collect();
    let all = names.join(", ");
    match forced {
        Some(path) => format!("{path}: set by SELFIE_CPU_PATH; this machine supports {all}"),
        None => format!(
            "{}: the fastest that this machine supports ({all})",
            names[0]
        ),
    }
}

fn rope(rope: &Rope) -> String {
    let scaling = match rope.scaling {
        RopeScaling::None => "no scaling".to_owned(),
        RopeScaling::Linear { factor } => format!("linear scaling by {factor}"),
        RopeScaling::Llama3 { factor, .. } => format!("llama3 scaling by {factor}"),
        RopeScaling::Yarn { factor, .. } => format!("yarn scaling by {factor}"),
    };
    format!("theta {}, {scaling}", rope.theta)
}

/// How the family's attention differs from LLaMA's.
fn attention(spec: &Spec) -> String {
    let layers = |is: &dyn Fn(&LayerSpec) -> bool| spec.layers.iter().filter(|l| is(l)).count();
    let mut parts = Vec::new();
    if let Some(window) = spec.layers.iter().find_map(|layer| layer.window) {
        let n = layers(&|layer| layer.window.is_some());
        parts.push(format!("a window of {window} at {n} layers"));
    }
    match layers(&|layer| layer.rope == LayerRope::Local) {
        0 => {}
        n => parts.push(format!("a separate rotation at {n} layers")),
    }
    match layers(&|layer| layer.rope == LayerRope::Off) {
        0 => {}
        n => parts.push(format!("no rotation at {n} layers")),
    }
    if spec.qk_norm.is_some() {
        parts.push("norms of q and k".to_owned());
    }
    if let Some(cap) = spec.attn_softcap {
        parts.push(format!("scores capped at {cap}"));
    }
    if parts.is_empty() {
        parts.push("full".to_owned());
    }
    parts.join(", ")
}

/// Where the chat template is, or what is wrong with it.
fn chat_template(opened: &Opened) -> String {
    match opened.chat_template() {
        Ok(Some(template)) => format!("template in {}", template.path().display()),
        Ok(None) => "no template".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// The dtypes of the tensors; where some are quantized, each with a count.
fn stored_as(stored: DType, checkpoint: &Checkpoint) -> String {
    if checkpoint.quantized().is_empty() {
        return stored.to_string();
    }
    let mut counts = BTreeMap::new();
    for (_, tensor) in checkpoint.tensors() {
        *counts.entry(tensor.dtype).or_insert(0) += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(name, n)| format!("{n} {name}"))
        .collect();
    format!("{} tensors", counts.join(", "))
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

//! `selfie info` and `selfie tokens`.

use std::io::{self, Write};

use selfie_kernels::{Backend, CpuPath};
use selfie_llama::{KvCache, Rope, RopeScaling};

use crate::args::{InfoArgs, TokensArgs};
use crate::device::on;
use crate::error::{CliError, Result};
use crate::open::Opened;

pub(crate) fn info(args: &InfoArgs) -> Result<()> {
    let opened = Opened::new(&args.model)?;
    let checkpoint = opened.files.checkpoint()?;
    let (dtype, stored) = opened.dtypes(&checkpoint)?;
    let config = &opened.config;
    let attn = &config.attn;
    let tokens = config.kv_layout(0, vec![1024; config.n_layers], 1);
    let (cache, memory, device) = on!(opened.device(dtype)?, device => {
        (KvCache::bytes(&device, &tokens), device.memory()?, device.describe())
    });
    let parameters = config.n_parameters();
    let mut heads = format!(
        "{} of {}, {} kv heads",
        attn.heads, attn.head_dim, attn.kv_heads
    );
    if config.qkv_bias || config.o_bias || config.mlp_bias {
        heads.push_str(", biases");
    }
    let lines = [
        ("model", opened.name()),
        ("type", config.model_type.name().to_owned()),
        ("layers", config.n_layers.to_string()),
        ("d_model", config.d_model.to_string()),
        ("ffn", config.ffn.to_string()),
        ("heads", heads),
        ("vocabulary", config.vocab_size.to_string()),
        ("context", format!("{} positions", config.max_positions)),
        ("rope", rope(&config.rope)),
        (
            "parameters",
            format!("{parameters} ({:.2} B)", parameters as f64 / 1e9),
        ),
        (
            "stored as",
            format!("{stored}, {}", megabytes(checkpoint.total_bytes())),
        ),
        (
            "computed in",
            format!("{dtype}, {}", megabytes(parameters * dtype.size() as u64)),
        ),
        (
            "kv cache",
            format!("{} for 1024 positions", megabytes(cache)),
        ),
        (
            "memory",
            format!(
                "{} available of {}",
                megabytes(memory.available),
                megabytes(memory.total)
            ),
        ),
        ("device", device),
        ("cpu path", cpu_path()),
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
    let opened = Opened::new(&args.model)?;
    let mut out = io::stdout().lock();
    for (index, id) in opened.encode(&args.prompt)?.into_iter().enumerate() {
        let piece = opened.tokenizer.piece(id).unwrap_or_default();
        let piece: String = piece.chars().flat_map(visible).collect();
        writeln!(out, "{index}\t{id}\t{piece}").map_err(CliError::Stdout)?;
    }
    Ok(())
}

/// Control characters as escapes, so that a line stays a line.
fn visible(c: char) -> Vec<char> {
    match c.is_control() {
        true => c.escape_default().collect(),
        false => vec![c],
    }
}

/// Which instructions run on the CPU, and why these.
fn cpu_path() -> String {
    let names: Vec<_> = CpuPath::available().iter().map(|p| p.name()).collect();
    let all = names.join(", ");
    match std::env::var("SELFIE_CPU_PATH") {
        Ok(path) => format!("{path}: SELFIE_CPU_PATH asks for it; this machine has {all}"),
        Err(_) => format!("{}: the best that this machine has, of {all}", names[0]),
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

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

//! An adapter's folder, as PEFT writes it: `adapter_config.json` and `adapter_model.safetensors`
//! (huggingface/peft, `LoraConfig` of version 0.21).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::checkpoint::read_error;
use crate::json::{Fields, parse_object};
use crate::{Checkpoint, LlamaError, LoraError, Result};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The prefix that PEFT puts before the names of a model's modules.
const BASE: &str = "base_model.model.";
/// The prefixes of a language model's layers.
const PREFIXES: [&str; 3] = ["model.language_model.", "language_model.model.", "model."];
/// Parts of a multimodal model that do not process text.
const OTHER_PARTS: [&str; 2] = ["vision_tower.", "multi_modal_projector."];
/// Options beyond plain low-rank products, with the values that leave them off.
const UNSUPPORTED: [&str; 13] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "megatron_config",
    "velora_config",
    "monteclora_config",
];
/// Initializations that also change the base model, so that the adapter does not fit the original one.
const CHANGES_BASE: [&str; 3] = ["pissa", "olora", "corda"];

/// A low-rank adapter in memory.
#[derive(Debug)]
pub struct Lora {
    dir: PathBuf,
    name: String,
    base: Option<String>,
    pairs: BTreeMap<(usize, Module), Pair>,
    pub(crate) head: Option<Pair>,
}

/// The matrices of one module.
#[derive(Debug)]
pub(crate) struct Pair {
    /// `[rank, in]`
    pub(crate) a: Vec<f32>,
    /// `[out, rank]`, with the scale multiplied in.
    pub(crate) b: Vec<f32>,
    pub(crate) rank: usize,
}

/// A matrix product of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Module {
    Q,
    K,
    V,
    Qkv,
    O,
    Gate,
    Up,
    GateUp,
    Down,
}

impl Module {
    const ALL: [(Module, &'static str); 9] = [
        (Module::Q, "self_attn.q_proj"),
        (Module::K, "self_attn.k_proj"),
        (Module::V, "self_attn.v_proj"),
        (Module::Qkv, "self_attn.qkv_proj"),
        (Module::O, "self_attn.o_proj"),
        (Module::Gate, "mlp.gate_proj"),
        (Module::Up, "mlp.up_proj"),
        (Module::GateUp, "mlp.gate_up_proj"),
        (Module::Down, "mlp.down_proj"),
    ];

    pub(crate) fn path(self, layer: usize) -> String {
        let name = Self::ALL.iter().find(|(module, _)| *module == self);
        format!("layers.{layer}.{}", name.map_or("", |(_, name)| name))
    }

    /// Parses the layer and the module from a path: `model.layers.3.mlp.down_proj`.
    fn of_path(path: &str) -> Option<(usize, Module)> {
        let rest = PREFIXES
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix))?;
        let (layer, name) = rest.strip_prefix("layers.")?.split_once('.')?;
        let module = Self::ALL.iter().find(|(_, known)| *known == name)?.0;
        Some((layer.parse().ok()?, module))
    }
}

impl Lora {
    /// Reads an adapter's folder.
    ///
    /// # Errors
    /// The configuration asks for more than low-rank products (DoRA, `modules_to_save`, a bias); the error names the
    /// field. Or tensors belong to modules other than a layer's projections and `lm_head`.
    pub fn open(dir: &Path) -> Result<Self> {
        let config = dir.join(CONFIG);
        let json = fs::read_to_string(&config).map_err(|source| read_error(&config, source))?;
        let object = parse_object(&json, &config)?;
        let scales = Scales::read(&config, &object)?;
        let weights = Checkpoint::open_file(&dir.join(WEIGHTS))?;
        let mut lora = Self {
            dir: dir.to_owned(),
            name: dir.display().to_string(),
            base: Fields::new(&config, &object)
                .text("base_model_name_or_path")?
                .map(str::to_owned),
            pairs: BTreeMap::new(),
            head: None,
        };
        for (tensor, info) in weights.tensors() {
            let path = tensor.strip_prefix(BASE).unwrap_or(tensor);
            if OTHER_PARTS.iter().any(|part| path.contains(part))
                || path.ends_with(".lora_B.weight")
            {
                continue;
            }
            let refuse = || LoraError::Tensor {
                dir: dir.to_owned(),
                tensor: tensor.to_owned(),
            };
            let path = path.strip_suffix(".lora_A.weight").ok_or_else(refuse)?;
            let place = Module::of_path(path);
            if place.is_none() && path != "lm_head" {
                return Err(refuse().into());
            }
            let &[rank, width] = info.shape else {
                return Err(refuse().into());
            };
            let other = tensor.replace(".lora_A.", ".lora_B.");
            let out = weights
                .find(&other)
                .and_then(|info| info.shape.first().copied());
            let out = out.ok_or_else(|| LlamaError::MissingTensor {
                tensor: other.clone(),
                dir: dir.to_owned(),
            })?;
            let scale = scales.scale(path, rank)?;
            let a = weights.tensor(tensor, &[rank, width])?.vector()?;
            let b = weights.tensor(&other, &[out, rank])?.vector()?;
            let pair = Pair {
                a,
                b: b.iter().map(|b| b * scale).collect(),
                rank,
            };
            match place {
                Some(place) => drop(lora.pairs.insert(place, pair)),
                None => lora.head = Some(pair),
            }
        }
        if lora.pairs.is_empty() && lora.head.is_none() {
            return Err(LoraError::Empty {
                dir: dir.to_owned(),
            }
            .into());
        }
        Ok(lora)
    }

    /// The adapter's name in rows and messages: its folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The adapter's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The model it was trained on, according to its configuration.
    pub fn base(&self) -> Option<&str> {
        self.base.as_deref()
    }

    /// The number of matrices with a pair, and the largest rank.
    pub fn counts(&self) -> (usize, usize) {
        let pairs = self.pairs.values().chain(&self.head);
        let ranks = pairs.clone().map(|pair| pair.rank);
        (pairs.count(), ranks.max().unwrap_or(0))
    }

    /// The number of layers it was made for, as far as its tensors tell: one more than the highest layer.
    pub fn layers(&self) -> usize {
        self.pairs
            .keys()
            .next_back()
            .map_or(0, |(layer, _)| layer + 1)
    }

    pub(crate) fn pair(&self, layer: usize, module: Module) -> Option<&Pair> {
        self.pairs.get(&(layer, module))
    }

    /// The pair for a tensor of a checkpoint, and the path of its module.
    pub(crate) fn pair_of_tensor(&self, tensor: &str) -> Option<(String, &Pair)> {
        let path = tensor.strip_suffix(".weight")?;
        if path == "lm_head" {
            return Some((path.to_owned(), self.head.as_ref()?));
        }
        let (layer, module) = Module::of_path(path)?;
        Some((module.path(layer), self.pair(layer, module)?))
    }

    /// An error unless a model has used all pairs.
    pub(crate) fn check_used(&self, used: usize, n_layers: usize, fused: bool) -> Result<()> {
        if used == self.pairs.len() {
            return Ok(());
        }
        let is_part = |module: Module| match module {
            Module::Qkv | Module::GateUp => fused,
            Module::Q | Module::K | Module::V | Module::Gate | Module::Up => !fused,
            Module::O | Module::Down => true,
        };
        let mut keys = self.pairs.keys();
        let left = keys.find(|(layer, module)| *layer >= n_layers || !is_part(*module));
        Err(LoraError::Module {
            dir: self.dir.clone(),
            module: left.map_or_else(String::new, |(layer, module)| module.path(*layer)),
            n_layers,
        }
        .into())
    }
}

/// The ranks and scales in a configuration.
struct Scales {
    path: PathBuf,
    rank: usize,
    alpha: f64,
    root: bool,
    ranks: BTreeMap<String, f64>,
    alphas: BTreeMap<String, f64>,
}

impl Scales {
    fn read(path: &Path, object: &Map<String, Value>) -> Result<Self> {
        let fields = Fields::new(path, object);
        let kind = fields.text("peft_type")?.unwrap_or("LORA");
        if kind != "LORA" {
            return Err(fields.refuse("peft_type", "expected LORA"));
        }
        for field in UNSUPPORTED {
            if !fields.get(field).is_none_or(is_nothing) {
                return Err(fields.refuse(
                    field,
                    "expected no such option: only plain LoRA is supported",
                ));
            }
        }
        if fields.text("bias")?.is_some_and(|bias| bias != "none") {
            return Err(fields.refuse("bias", "expected none"));
        }
        if let Some(Value::String(init)) = fields.get("init_lora_weights")
            && CHANGES_BASE.iter().any(|name| init.starts_with(name))
        {
            return Err(fields.refuse(
                "init_lora_weights",
                "expected an initialization that does not change the base model; convert the adapter with \
                 PEFT's path_initial_model_for_weight_conversion",
            ));
        }
        let rank = fields.integer("r", 1..=1 << 16)?;
        let alpha = fields.positive("lora_alpha")?;
        Ok(Self {
            path: path.to_owned(),
            rank: rank.ok_or_else(|| fields.missing("r"))?,
            alpha: alpha.ok_or_else(|| fields.missing("lora_alpha"))?,
            root: fields.flag("use_rslora")?.unwrap_or(false),
            ranks: patterns(&fields, "rank_pattern")?,
            alphas: patterns(&fields, "alpha_pattern")?,
        })
    }

    /// The scale of a module's product. Its rank must be the one in the configuration.
    fn scale(&self, path: &str, rank: usize) -> Result<f32> {
        let said = find(&self.ranks, path).map_or(self.rank, |rank| rank as usize);
        if rank != said {
            return Err(LoraError::Rank {
                path: self.path.clone(),
                module: path.to_owned(),
                said,
                found: rank,
            }
            .into());
        }
        let alpha = find(&self.alphas, path).unwrap_or(self.alpha);
        let rank = rank as f64;
        Ok((alpha / if self.root { rank.sqrt() } else { rank }) as f32)
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Numbers by module. A key is a module's name or the end of its path. PEFT takes regular expressions; other patterns
/// than such names are refused.
fn patterns(fields: &Fields<'_>, name: &str) -> Result<BTreeMap<String, f64>> {
    let Some(object) = fields.object_value(name) else {
        return Ok(BTreeMap::new());
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._".contains(c);
    object
        .iter()
        .map(|(key, value)| {
            let key = key.strip_prefix('^').unwrap_or(key);
            let number = value.as_f64().filter(|_| key.chars().all(is_name));
            let number = number
                .ok_or_else(|| fields.refuse(name, "expected a number for each module name"))?;
            Ok((key.to_owned(), number))
        })
        .collect()
}

/// The number of the pattern that a path ends with.
fn find(patterns: &BTreeMap<String, f64>, path: &str) -> Option<f64> {
    let is_end = |key: &str| {
        let before = path.strip_suffix(key);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    patterns
        .iter()
        .find(|(key, _)| is_end(key))
        .map(|(_, number)| *number)
}

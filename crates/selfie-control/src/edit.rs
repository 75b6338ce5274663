//! Edit files, and applying them to models.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use selfie_kernels::{Backend, DType};
use selfie_llama::{HostTensor, Llama, LlamaConfig, MlpWeights};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{ControlError, Figure, OutputFile, Result};

/// The metadata key of an edit file. A single key, so that equal edits have equal bytes.
const META_KEY: &str = "selfie_edit";

/// The new tensors of one layer's MLP, and where they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Edit {
    /// The tensors in the dtype that the model ran in. An applied edit is bit for bit the one that was evaluated.
    pub mlp: MlpWeights,
    /// How they were made.
    pub meta: EditMeta,
}

/// The metadata of an edit file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EditMeta {
    /// The program that made it, with its version.
    pub tool: String,
    /// `supervised` or `reinforcement`.
    pub method: String,
    /// The embeddings that were controlled: `hidden_states[layer]`. The MLP is that of layer `layer - 1`.
    pub layer: usize,
    /// The shape of the model it was made on.
    pub base: BaseShape,
    /// The SHA-256 of each replaced tensor, in the same dtype, values little-endian.
    pub base_sha256: BTreeMap<String, String>,
    /// All options of the run.
    pub options: Value,
    /// The number of updates in the tensors.
    pub updates: usize,
    /// Why the run ended.
    pub end: String,
    /// The loss before each update.
    pub losses: Vec<f64>,
    /// The keep loss before each update; empty without reference prompts.
    pub keep_losses: Vec<f64>,
    /// The drift before each update; empty without reference prompts.
    pub drifts: Vec<f64>,
    /// The loss after all updates, if it needs no further interpretation.
    pub final_loss: Option<f64>,
    /// The keep loss after all updates.
    pub final_keep_loss: Option<f64>,
    /// The drift after all updates.
    pub final_drift: Option<f64>,
    /// The mean reward before each update; empty in supervised control.
    #[serde(default)]
    pub rewards: Vec<f64>,
    /// The mean reward after all updates.
    #[serde(default)]
    pub final_reward: Option<f64>,
    /// What was measured at the end, without and with the edit.
    #[serde(default)]
    pub report: Vec<Figure>,
}

/// The numbers that distinguish models by shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseShape {
    /// Number of layers.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the MLP.
    pub ffn: usize,
    /// Size of the vocabulary.
    pub vocab_size: usize,
}

impl BaseShape {
    /// The shape of a configuration.
    pub fn new(config: &LlamaConfig) -> Self {
        Self {
            n_layers: config.n_layers,
            d_model: config.d_model,
            ffn: config.ffn,
            vocab_size: config.vocab_size,
        }
    }
}

impl Edit {
    /// Reads an edit file.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| ControlError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&bytes).map_err(|reason| ControlError::NotAnEdit {
            path: path.to_owned(),
            reason,
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| e.to_string())?;
        let json = header.metadata().as_ref().and_then(|m| m.get(META_KEY));
        let json = json.ok_or_else(|| format!("its metadata has no {META_KEY}"))?;
        let meta: EditMeta =
            serde_json::from_str(json).map_err(|e| format!("its {META_KEY} is damaged: {e}"))?;
        let Some(layer) = meta.layer.checked_sub(1) else {
            return Err("its layer is 0; edits start at layer 1".to_owned());
        };
        let mut tensors = Vec::new();
        for name in MLP_TENSORS {
            let name = format!("model.layers.{layer}.mlp.{name}");
            let Ok(view) = file.tensor(&name) else {
                continue;
            };
            let dtype = dtype(view.dtype()).ok_or(format!(
                "tensor {name} has dtype {:?}; expected F32, F16 or BF16",
                view.dtype()
            ))?;
            if !meta.base_sha256.contains_key(&name) {
                return Err(format!("it has no base hash for tensor {name}"));
            }
            let (shape, bytes) = (view.shape().to_vec(), view.data().to_vec());
            tensors.push(HostTensor {
                name,
                dtype,
                shape,
                bytes,
            });
        }
        if tensors.len() != file.len() || tensors.len() != meta.base_sha256.len() {
            return Err(format!(
                "it has {} tensors, {} of them from the MLP of layer {layer}, and {} base hashes",
                file.len(),
                tensors.len(),
                meta.base_sha256.len()
            ));
        }
        if tensors.is_empty() {
            return Err("it has no tensors".to_owned());
        }
        Ok(Self {
            mlp: MlpWeights { layer, tensors },
            meta,
        })
    }

    /// Writes the edit to a file, as [`OutputFile`] does.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut out = OutputFile::new(path)?;
        let mut file = out.file()?;
        let written = self.to_bytes().and_then(|bytes| file.write_all(&bytes));
        written.map_err(|source| out.failed(source))?;
        out.finish()
    }

    /// The bytes of the edit file.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let meta = serde_json::to_string(&self.meta)?;
        let meta = HashMap::from([(META_KEY.to_owned(), meta)]);
        let mut views = Vec::new();
        for tensor in &self.mlp.tensors {
            let (dtype, shape) = (file_dtype(tensor.dtype), tensor.shape.clone());
            let view = TensorView::new(dtype, shape, &tensor.bytes).map_err(io::Error::other)?;
            views.push((&tensor.name, view));
        }
        safetensors::serialize(views, Some(meta)).map_err(io::Error::other)
    }

    /// The dtype of the matrices.
    pub fn dtype(&self) -> DType {
        self.mlp.tensors.first().map_or(DType::F32, |t| t.dtype)
    }

    /// An error unless the edit was made for a model of this shape, computed in this dtype. Messages call the edit
    /// `name`.
    pub fn check(&self, name: &str, config: &LlamaConfig, dtype: DType) -> Result<()> {
        self.check_shape(name, config)?;
        if self.dtype() != dtype {
            return Err(ControlError::EditDType {
                edit: name.to_owned(),
                of_edit: self.dtype(),
                of_model: dtype,
            });
        }
        Ok(())
    }

    /// An error unless the edit was made for a model of this shape.
    pub fn check_shape(&self, name: &str, config: &LlamaConfig) -> Result<()> {
        let (edit, model) = (self.meta.base, BaseShape::new(config));
        for (field, of_edit, of_model) in [
            ("n_layers", edit.n_layers, model.n_layers),
            ("d_model", edit.d_model, model.d_model),
            ("ffn", edit.ffn, model.ffn),
            ("vocab_size", edit.vocab_size, model.vocab_size),
        ] {
            if of_edit != of_model {
                return Err(ControlError::BaseShape {
                    edit: name.to_owned(),
                    field,
                    of_edit,
                    of_model,
                });
            }
        }
        Ok(())
    }

    /// An error unless `tensor` is the one this edit replaces.
    pub(crate) fn check_base(&self, name: &str, tensor: &HostTensor) -> Result<()> {
        let found = sha256(tensor);
        match self.meta.base_sha256.get(&tensor.name) {
            Some(expected) if *expected == found => Ok(()),
            expected => Err(ControlError::BaseHash {
                edit: name.to_owned(),
                tensor: tensor.name.clone(),
                found,
                expected: expected.map_or("no such tensor".to_owned(), String::clone),
            }),
        }
    }
}

/// The SHA-256 of a tensor's bytes, in hexadecimal.
pub(crate) fn sha256(tensor: &HostTensor) -> String {
    let mut hex = String::new();
    for byte in Sha256::digest(&tensor.bytes) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// The hashes of an MLP's tensors, by name.
pub(crate) fn hashes(mlp: &MlpWeights) -> BTreeMap<String, String> {
    let hash = |tensor: &HostTensor| (tensor.name.clone(), sha256(tensor));
    mlp.tensors.iter().map(hash).collect()
}

/// The tensors of an MLP, in the order of [`MlpWeights`].
const MLP_TENSORS: [&str; 6] = [
    "gate_proj.weight",
    "gate_proj.bias",
    "up_proj.weight",
    "up_proj.bias",
    "down_proj.weight",
    "down_proj.bias",
];

fn dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::BF16 => Some(DType::Bf16),
        Dtype::F16 => Some(DType::F16),
        _ => None,
    }
}

pub(crate) fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
    }
}

/// The edits applied to a model, in order.
#[derive(Debug, Default)]
pub struct EditStack {
    applied: Vec<Applied>,
}

#[derive(Debug)]
struct Applied {
    name: String,
    before: MlpWeights,
    after: BTreeMap<String, String>,
}

impl EditStack {
    /// An empty stack.
    pub fn new() -> Self {
        Self::default()
    }

    /// The names of the edits in the order they were applied.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.applied.iter().map(|applied| applied.name.as_str())
    }

    /// Applies an edit on top of the others. If a tensor it replaces is not the one it was made from, this is an error
    /// and the model does not change. Messages call the edit `name`.
    pub fn apply<B: Backend>(
        &mut self,
        model: &mut Llama<B>,
        name: &str,
        edit: &Edit,
    ) -> Result<()> {
        edit.check(name, model.config(), model.dtype())?;
        let before = model.mlp(edit.mlp.layer)?;
        for tensor in &before.tensors {
            edit.check_base(name, tensor)?;
        }
        model.set_mlp(&edit.mlp)?;
        self.applied.push(Applied {
            name: name.to_owned(),
            before,
            after: hashes(&edit.mlp),
        });
        Ok(())
    }

    /// Reverts the edit at `index`, and restores the exact bytes that it replaced. Edits of other layers may have been
    /// applied since; a later edit of the same layer must be reverted first.
    pub fn revert<B: Backend>(&mut self, model: &mut Llama<B>, index: usize) -> Result<()> {
        let Some(applied) = self.applied.get(index) else {
            return Err(ControlError::NotApplied {
                index,
                applied: self.applied.len(),
            });
        };
        let layer = applied.before.layer;
        let mut later = self.applied[index + 1..].iter();
        if let Some(later) = later.find(|later| later.before.layer == layer) {
            return Err(ControlError::Covered {
                edit: applied.name.clone(),
                later: later.name.clone(),
            });
        }
        for tensor in &model.mlp(layer)?.tensors {
            if applied.after.get(&tensor.name) != Some(&sha256(tensor)) {
                return Err(ControlError::ChangedSince {
                    edit: applied.name.clone(),
                    tensor: tensor.name.clone(),
                });
            }
        }
        model.set_mlp(&applied.before)?;
        self.applied.remove(index);
        Ok(())
    }
}

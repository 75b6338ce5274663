//! Readers' folders as others release them, built from the public parts of their formats. `reference.py` has built the
//! same folders and recorded PyTorch's results in `reference.json`.

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use selfie_interp::{Cell, Embeddings, Options, Released, Row, interpret_by};
use selfie_kernels::{Backend, Cpu, DType};
use selfie_llama::{ChatTemplate, Checkpoint, Llama, LlamaConfig, PromptSite, Site, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::interp::dir;
use crate::llama::{cpu, ids};

const PARTS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// The data recorded by `reference.py`.
pub fn reference() -> Value {
    serde_json::from_str(include_str!("reference.json")).unwrap()
}

/// A golden checkpoint with a token " ?" and a chat template, and PyTorch's results for readers on it.
pub struct Built<'a> {
    /// The name of the golden checkpoint.
    pub name: String,
    /// The checkpoint, in f32.
    pub model: Llama<Cpu>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The prompt to read.
    pub prompt: String,
    /// What was recorded with this checkpoint.
    pub case: &'a Value,
    reference: &'a Value,
    folder: TempDir,
}

impl<'a> Built<'a> {
    /// One for each checkpoint of the reference.
    pub fn all(reference: &'a Value) -> impl Iterator<Item = Built<'a>> {
        let families = reference["families"].as_object().unwrap().iter();
        families.map(|(name, case)| Self::new(name, case, reference))
    }

    fn new(name: &str, case: &'a Value, reference: &'a Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("model");
        fs::create_dir(&copy).unwrap();
        for file in fs::read_dir(dir(name)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
        let path = copy.join("tokenizer.json");
        let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        // The last merge is replaced to make room for a token " ?".
        let merge = tokenizer["model"]["merges"]
            .as_array_mut()
            .unwrap()
            .last_mut()
            .unwrap();
        let old = match &*merge {
            Value::Array(pair) => pair.iter().map(|part| part.as_str().unwrap()).collect(),
            text => text.as_str().unwrap().replace(' ', ""),
        };
        *merge = if merge.is_array() {
            json!(["Ġ", "?"])
        } else {
            json!("Ġ ?")
        };
        let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove(&old).unwrap();
        vocab.insert("Ġ?".to_owned(), id);
        fs::write(&path, tokenizer.to_string()).unwrap();
        fs::write(
            copy.join("chat_template.jinja"),
            reference["template"].as_str().unwrap(),
        )
        .unwrap();
        Self {
            name: name.to_owned(),
            model: load(&copy),
            tokenizer: Tokenizer::open(&copy).unwrap(),
            prompt: reference["prompt"].as_str().unwrap().to_owned(),
            case,
            reference,
            folder,
        }
    }

    /// The checkpoint's folder.
    pub fn model_dir(&self) -> PathBuf {
        self.path("model")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its chat template.
    pub fn template(&self) -> ChatTemplate {
        ChatTemplate::open(&self.path("model"), &self.tokenizer)
            .unwrap()
            .unwrap()
    }

    /// Numbers in `[-scale / 2, scale / 2)`, each a hash of its index.
    pub fn noise(&self, seed: u64, len: usize, scale: f64) -> Vec<f32> {
        let one = |i: u64| {
            let mut x = (i + seed * 1_000_003) as u32;
            x = x.wrapping_mul(2_654_435_761);
            x ^= x >> 15;
            x = x.wrapping_mul(2_246_822_519);
            x ^= x >> 13;
            ((f64::from(x) / 4_294_967_296.0 - 0.5) * scale) as f32
        };
        (0..len as u64).map(one).collect()
    }

    /// A state of the prompt.
    pub fn state(&self, layer: usize, token: usize) -> Vec<f32> {
        let prompts = [self.tokenizer.encode(&self.prompt).unwrap()];
        let site = PromptSite {
            prompt: 0,
            site: Site::HiddenStates(layer),
            token,
        };
        let states = Embeddings::capture(&self.model, &prompts, &[site]).unwrap();
        states.to_host(self.model.backend()).unwrap()
    }

    /// Writes a map of selfie-adapters: `scalar_affine` and `full_rank` in the flat form, the others with
    /// `config_json`.
    pub fn write_map(&self, kind: &str) -> PathBuf {
        let (d, r) = (self.model.config().d_model, 3);
        let mut tensors = Tensors::default();
        if kind.starts_with("scal") {
            tensors.add("log_scale", &[1], vec![1.25]);
        }
        if kind != "scale_only" {
            tensors.add("bias", &[d], self.noise(11, d, 0.3));
        }
        if kind.contains("low_rank") {
            tensors.add("U", &[d, r], self.noise(12, d * r, 1.0));
            tensors.add("V", &[d, r], self.noise(13, d * r, 1.0));
        }
        if kind == "full_rank" {
            tensors.add("weight", &[d, d], self.noise(14, d * d, 0.5));
        }
        let flat = ["scalar_affine", "full_rank"].contains(&kind);
        let mut header = HashMap::from([("model_dim".to_owned(), d.to_string())]);
        if flat {
            header.insert("projection_type".to_owned(), kind.to_owned());
            header.insert("normalize_input".to_owned(), "True".to_owned());
        } else {
            let rank = kind.contains("low_rank").then_some(r);
            let projection = json!({"type": kind, "normalize_input": false, "init_scale": 30.0, "low_rank_rank": rank});
            header.insert(
                "config_json".to_owned(),
                json!({"projection": projection}).to_string(),
            );
        }
        tensors.write(&self.path(&format!("{kind}.safetensors")), Some(header))
    }

    /// Writes affine maps from `hidden_states[1]` and `[3]` to layer 2.
    pub fn write_affine(&self, from: usize, to: usize) -> PathBuf {
        let mut tensors = Tensors::default();
        for (at, source) in [1, 3].into_iter().enumerate() {
            let seed = 30 + 2 * at as u64;
            tensors.add(
                &format!("{source}.2.weight"),
                &[to, from],
                self.noise(seed, to * from, 0.5),
            );
            tensors.add(
                &format!("{source}.2.bias"),
                &[to],
                self.noise(seed + 1, to, 1.0),
            );
        }
        tensors.write(&self.path("affine.safetensors"), None)
    }

    /// Writes a LoRA as peft does.
    pub fn write_lora(&self, name: &str, head: bool) -> PathBuf {
        let folder = self.path(name);
        fs::create_dir_all(&folder).unwrap();
        let config = self.model.config();
        let (d, ffn) = (config.d_model, config.ffn);
        let (q, kv) = (config.attn.q_dim(), config.attn.kv_dim());
        let shapes = [
            (q, d),
            (kv, d),
            (kv, d),
            (d, q),
            (ffn, d),
            (ffn, d),
            (d, ffn),
        ];
        let mut tensors = Tensors::default();
        for l in 0..config.n_layers {
            for (index, (part, (out, width))) in PARTS.into_iter().zip(shapes).enumerate() {
                let r = if part.ends_with("down_proj") { 2 } else { 4 };
                let seed = (100 + 20 * l + 2 * index) as u64;
                let name = format!("base_model.model.model.layers.{l}.{part}");
                tensors.add(
                    &format!("{name}.lora_A.weight"),
                    &[r, width],
                    self.noise(seed, r * width, 0.5),
                );
                tensors.add(
                    &format!("{name}.lora_B.weight"),
                    &[out, r],
                    self.noise(seed + 1, out * r, 0.5),
                );
            }
        }
        if head {
            let (vocab, name) = (config.vocab_size, "base_model.model.lm_head");
            tensors.add(
                &format!("{name}.lora_A.weight"),
                &[4, d],
                self.noise(900, 4 * d, 0.5),
            );
            tensors.add(
                &format!("{name}.lora_B.weight"),
                &[vocab, 4],
                self.noise(901, vocab * 4, 0.5),
            );
        }
        tensors.write(&folder.join("adapter_model.safetensors"), None);
        let mut json = self.case["lora"].clone();
        json["peft_type"] = json!("LORA");
        json["bias"] = json!("none");
        json["base_model_name_or_path"] = json!("a/base");
        json["modules_to_save"] = Value::Null;
        json["use_dora"] = json!(false);
        fs::write(folder.join("adapter_config.json"), json.to_string()).unwrap();
        folder
    }

    /// Writes an adapter for the queries of two layers, with the names of a multimodal model.
    pub fn write_other_lora(&self) -> PathBuf {
        let folder = self.path("other");
        fs::create_dir_all(&folder).unwrap();
        let config = self.model.config();
        let (d, q) = (config.d_model, config.attn.q_dim());
        let mut tensors = Tensors::default();
        for l in 1..3 {
            let name = format!("base_model.model.model.language_model.layers.{l}.self_attn.q_proj");
            tensors.add(
                &format!("{name}.lora_A.weight"),
                &[20, d],
                self.noise(40 + l, 20 * d, 1.0),
            );
            tensors.add(
                &format!("{name}.lora_B.weight"),
                &[q, 20],
                self.noise(50 + l, q * 20, 1.0),
            );
        }
        tensors.write(&folder.join("adapter_model.safetensors"), None);
        let json = json!({"peft_type": "LORA", "r": 20, "lora_alpha": 20});
        fs::write(folder.join("adapter_config.json"), json.to_string()).unwrap();
        folder
    }

    /// Writes an Activation Oracle.
    pub fn write_oracle(&self) -> PathBuf {
        self.write_oracle_of("oracle", json!([[0], [1], [2]]))
    }

    /// Writes an Activation Oracle trained on these layers, in its own numbering.
    pub fn write_oracle_of(&self, name: &str, combinations: Value) -> PathBuf {
        let folder = self.write_lora(name, false);
        let config = json!({
            "hook_onto_layer": 1, "special_token": " ?", "steering_coefficient": self.case["oracle"]["coefficient"],
            "prefix_template": "Layer: {layer}\\n{special_token} * {num_positions} \\n",
            "act_layer_combinations": combinations,
        });
        fs::write(folder.join("ao_config.json"), config.to_string()).unwrap();
        folder
    }

    /// Writes a checkpoint's sidecar as EasyNLA copies it from its data set, modified by `change`, into `folder`.
    pub fn write_easynla(&self, folder: &Path, change: &dyn Fn(String) -> String) {
        let case = &self.case["easynla"];
        let neighbors = ids(&case["neighbor_ids"]);
        // As Python's yaml.safe_dump writes them.
        let quoted = |name: &str| serde_json::to_string(&self.reference[name]).unwrap();
        let meta = format!(
            "dataset_id: rl_0\nstage: rl\nrow_count: 9\nextraction:\n  base_model: a/base\n  d_model: {}\n  \
             layer_index: {}\n  norm: none\nkind: nla_dataset\nschema_version: 1\ntokens:\n  injection_char: '~'\n  \
             injection_token_id: {}\n  injection_left_neighbor_id: {}\n  injection_right_neighbor_id: {}\n  \
             critic_suffix_ids: {:?}\nprompt_templates:\n  actor: {}\n  critic: {}\n",
            self.model.config().d_model,
            case["layer"].as_u64().unwrap() - 1,
            case["marker_id"],
            neighbors[0],
            neighbors[1],
            ids(&self.case["reconstructor"]["suffix"]),
            quoted("easy"),
            quoted("ar"),
        );
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("nla_meta.yaml"), change(meta)).unwrap();
    }

    /// Writes a verbalizer's sidecar, modified by `change`.
    pub fn write_sidecar(&self, role: &str, change: &dyn Fn(String) -> String) -> PathBuf {
        let case = &self.case["verbalizer"];
        let neighbors = ids(&case["neighbor_ids"]);
        let template = self.reference["av"].as_str().unwrap();
        let indented: Vec<String> = template.lines().map(|line| format!("    {line}")).collect();
        let meta = format!(
            "kind: nla_model\nschema_version: 2\nrole: {role}\nd_model: {}\nextraction:\n  injection_scale: {}\n  \
             mse_scale: sqrt_d_model\ntokens:\n  injection_char: '~'\n  injection_token_id: {}\n  \
             injection_left_neighbor_id: {}\n  injection_right_neighbor_id: {}\n  critic_suffix_ids: null\n\
             prompt_templates:\n  {role}: |-\n{}\ncritic:\n  \
             extraction_layer_index: {}\n",
            self.model.config().d_model,
            case["scale"],
            case["marker_id"],
            neighbors[0],
            neighbors[1],
            indented.join("\n"),
            case["layer"].as_u64().unwrap() - 1,
        );
        let folder = self.path("verbalizer");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("nla_meta.yaml"), change(meta)).unwrap();
        folder
    }

    /// Writes a reconstructor with this many layers, without the tensors of the final norm and the head.
    pub fn write_reconstructor(&self, role: &str, layers: usize) -> PathBuf {
        let folder = self.path("reconstructor");
        fs::create_dir_all(&folder).unwrap();
        let path = self.path("model");
        let mut config: Value =
            serde_json::from_slice(&fs::read(path.join("config.json")).unwrap()).unwrap();
        config["num_hidden_layers"] = json!(layers);
        if let Some(types) = config["layer_types"].as_array_mut() {
            types.truncate(layers);
        }
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let mut tensors = Tensors::default();
        for (name, info) in checkpoint.tensors() {
            if name != "model.norm.weight" && name != "lm_head.weight" {
                let tensor = checkpoint.tensor(name, info.shape).unwrap();
                tensors.add(name, info.shape, tensor.vector().unwrap());
            }
        }
        tensors.write(&folder.join("model.safetensors"), None);
        let d = self.model.config().d_model;
        let mut head = Tensors::default();
        head.add("weight", &[d, d], self.noise(16, d * d, 1.0));
        head.write(&folder.join("value_head.safetensors"), None);
        let suffix = ids(&self.case["reconstructor"]["suffix"]);
        let meta = format!(
            "kind: nla_model\nrole: {role}\nd_model: {d}\nextraction:\n  injection_scale: null\n  mse_scale: {}\n\
             tokens:\n  critic_suffix_ids: {suffix:?}\nprompt_templates:\n  {role}: '{}'\n{role}:\n  \
             num_hidden_layers: {}\n",
            (d as f64).sqrt(),
            self.reference["ar"].as_str().unwrap(),
            layers - 1
        );
        // The sidecar's own section is called ar, critic or reconstructor.
        fs::write(folder.join("nla_meta.yaml"), meta).unwrap();
        folder
    }

    /// Asks a reader the question of the recorded Activation Oracle in `dir`. The embeddings come from the unchanged
    /// checkpoint.
    pub fn ask_oracle<B: Backend>(&self, dir: &Path, reader: &Llama<B>) -> Row {
        let case = &self.case["oracle"];
        let layer = case["layer"].as_u64().unwrap() as usize;
        let tokens = ids(&case["tokens"]);
        let options = Options {
            max_new_tokens: 6,
            eos: vec![],
            relevancy: false,
            span: tokens.len(),
            ..Options::new(self.model.config()).unwrap()
        };
        let oracle = Released::open(dir, None).unwrap().unwrap();
        let question = self.reference["question"].as_str();
        let options = oracle
            .configure(
                options,
                &[layer],
                question,
                &self.tokenizer,
                self.template(),
            )
            .unwrap();
        let cell = Cell {
            prompt: 0,
            layer,
            token: tokens[tokens.len() - 1] as usize,
        };
        let mut rows: Vec<Row> = Vec::new();
        let swept = interpret_by(
            (&self.model, &self.tokenizer),
            (reader, &self.tokenizer),
            &[self.prompt.as_str()],
            &[cell],
            &options,
            &mut |row: Row| {
                rows.push(row);
                ControlFlow::Continue(())
            },
        );
        assert_eq!(swept.unwrap().rows, 1);
        rows.remove(0)
    }

    /// Loads the layers of a reconstructor's folder.
    pub fn backbone(&self, dir: &Path) -> Llama<Cpu> {
        let config = LlamaConfig::open(dir).unwrap();
        let checkpoint = Checkpoint::open(dir).unwrap();
        Llama::load_backbone(cpu(2), config, &checkpoint, Some(DType::F32), |_| {}).unwrap()
    }
}

fn load(dir: &Path) -> Llama<Cpu> {
    let config = LlamaConfig::open(dir).unwrap();
    let checkpoint = Checkpoint::open(dir).unwrap();
    Llama::load(cpu(2), config, &checkpoint, Some(DType::F32), |_| {}).unwrap()
}

/// Tensors for a file, in f32.
#[derive(Default)]
pub struct Tensors(Vec<(String, Vec<usize>, Vec<u8>)>);

impl Tensors {
    /// Adds a tensor.
    pub fn add(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.0.push((name.to_owned(), shape.to_vec(), bytes));
    }

    /// Writes the file; returns its path.
    pub fn write(&self, path: &Path, header: Option<HashMap<String, String>>) -> PathBuf {
        let views = self.0.iter().map(|(name, shape, bytes)| {
            (
                name.clone(),
                TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
            )
        });
        serialize_to_file(views, header, path).unwrap();
        path.to_owned()
    }
}

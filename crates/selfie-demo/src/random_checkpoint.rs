//! Checkpoints with random weights for benchmarks and tests: the cost of a real model without its download.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensorError, View};
use selfie_kernels::{AttnShape, DType};
use serde_json::{Map, Value, json};

use selfie_llama::{LlamaConfig, LlamaError, ModelType, Result, TensorRole, TensorShape};

/// The file of the weights, or the index of the shards.
const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// The increment of SplitMix64's state.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The shape of a LLaMA with random weights, and how to write its files.
///
/// A weight matrix `[out, in]` is normal with standard deviation `in^-0.5`, the embedding table with 1, biases with
/// 0.5. So activations keep their size, and a forgotten bias shows.
///
/// Value `i` of a tensor depends only on the seed, the tensor's name and `i`. It is the sum of eight uniform 16-bit
/// integers, the words of two SplitMix64 outputs (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014), centred and scaled in f32, then rounded to `dtype`. The values are the same on every machine,
/// and close to a normal distribution with tails that end at 4.9 standard deviations.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomCheckpoint {
    /// The family. It decides the tensors and what the layers compute.
    pub family: ModelType,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of the MLP's hidden layer.
    pub ffn: usize,
    /// Number of layers.
    pub n_layers: usize,
    /// Heads of each layer; `heads * head_dim` may differ from `d_model`.
    pub attn: AttnShape,
    /// Rows of the embedding table and of the head; may exceed the tokenizer's.
    pub vocab_size: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// `max_position_embeddings`.
    pub max_positions: usize,
    /// The epsilon that RMSNorm adds to the mean square.
    pub rms_norm_eps: f64,
    /// Whether the head shares the embedding table.
    pub tie_word_embeddings: bool,
    /// Biases on queries, keys, values and attention's output, in families that read `attention_bias`.
    pub attention_bias: bool,
    /// Biases on the MLP's three projections, in families that read `mlp_bias`.
    pub mlp_bias: bool,
    /// Standard deviation of the norms' weights around 1.
    pub norm_spread: f32,
    /// The dtype of the stored weights.
    pub dtype: DType,
    /// Whether to write one file per layer, one for the rest, and an index, instead of a single file.
    pub sharded: bool,
    /// The seed of the weights.
    pub seed: u64,
}

impl RandomCheckpoint {
    /// The names that [`shape`](Self::shape) accepts.
    pub const SHAPES: [&str; 6] = [
        "smollm2-135m",
        "tinyllama-1.1b",
        "llama-3.2-1b",
        "llama-2-7b",
        "llama-3.1-8b",
        "llama-2-13b",
    ];

    /// The shape of a known model, in bf16 and in shards, with norms of 1 and 4096 positions. It leaves out LLaMA 3's
    /// frequency scaling, which costs nothing.
    pub fn shape(name: &str) -> Option<Self> {
        let shape = |d_model, ffn, n_layers, heads, kv_heads, head_dim| RandomCheckpoint {
            family: ModelType::Llama,
            d_model,
            ffn,
            n_layers,
            attn: AttnShape {
                heads,
                kv_heads,
                head_dim,
            },
            vocab_size: 32000,
            rope_theta: 10000.0,
            max_positions: 4096,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            norm_spread: 0.0,
            dtype: DType::Bf16,
            sharded: true,
            seed: 0,
        };
        let llama3 = |shape| RandomCheckpoint {
            vocab_size: 128256,
            rope_theta: 500000.0,
            ..shape
        };
        Some(match name {
            "smollm2-135m" => RandomCheckpoint {
                vocab_size: 49152,
                rope_theta: 100000.0,
                max_positions: 8192,
                tie_word_embeddings: true,
                ..shape(576, 1536, 30, 9, 3, 64)
            },
            "tinyllama-1.1b" => shape(2048, 5632, 22, 32, 4, 64),
            "llama-3.2-1b" => RandomCheckpoint {
                tie_word_embeddings: true,
                ..llama3(shape(2048, 8192, 16, 32, 8, 64))
            },
            "llama-2-7b" => shape(4096, 11008, 32, 32, 32, 128),
            "llama-3.1-8b" => llama3(shape(4096, 14336, 32, 32, 8, 128)),
            "llama-2-13b" => shape(5120, 13824, 40, 40, 40, 128),
            _ => return None,
        })
    }

    /// Three layers of width 64 in one f32 file, with grouped heads whose total width is not `d_model`: a starting
    /// point for tests.
    pub fn tiny() -> Self {
        RandomCheckpoint {
            family: ModelType::Llama,
            d_model: 64,
            ffn: 172,
            n_layers: 3,
            attn: AttnShape {
                heads: 4,
                kv_heads: 2,
                head_dim: 24,
            },
            vocab_size: 600,
            rope_theta: 10000.0,
            max_positions: 512,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            attention_bias: false,
            mlp_bias: false,
            norm_spread: 0.1,
            dtype: DType::F32,
            sharded: false,
            seed: 0,
        }
    }

    /// Writes the model into the folder `dir`, with the tokenizer files of `tokenizer_from`.
    ///
    /// Creates `dir` if it does not exist, and replaces files of the same names. `config.json` is written last, so a
    /// folder that has one is complete. Token ids 1 and 2 begin and end a text. Memory holds one tensor at a time.
    ///
    /// Fails if [`LlamaConfig`] refuses the shape (before writing anything), if the tokenizer cannot be read, or if a
    /// file cannot be written.
    pub fn write(&self, dir: &Path, tokenizer_from: &Path) -> Result<()> {
        let config_path = dir.join("config.json");
        let config = pretty(&self.config());
        let parsed = LlamaConfig::parse(&config, &config_path)?;
        fs::create_dir_all(dir).map_err(|source| write_error(dir, source))?;

        let one_plus_weight = parsed.spec.one_plus_weight;
        let tensors = parsed.tensors().into_iter();
        let tensors = tensors
            .map(|tensor| self.tensor(tensor, one_plus_weight))
            .collect();
        let single = dir.join(SINGLE_FILE);
        if self.sharded {
            // A single file from an earlier run would hide the shards.
            if exists(&single)? {
                fs::remove_file(&single).map_err(|source| write_error(&single, source))?;
            }
            let index = self.write_shards(dir, tensors)?;
            write_file(&dir.join(INDEX_FILE), pretty(&index).as_bytes())?;
        } else {
            write_shard(&single, tensors)?;
        }
        copy_tokenizer(tokenizer_from, dir)?;
        write_file(&config_path, config.as_bytes())
    }

    fn config(&self) -> Value {
        let mut config = json!({
            "architectures": [self.family.architecture()],
            "model_type": self.family.name(),
            "hidden_size": self.d_model,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.attn.heads,
            "num_key_value_heads": self.attn.kv_heads,
            "head_dim": self.attn.head_dim,
            "vocab_size": self.vocab_size,
            "rope_theta": self.rope_theta,
            "max_position_embeddings": self.max_positions,
            "rms_norm_eps": self.rms_norm_eps,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": self.attention_bias,
            "mlp_bias": self.mlp_bias,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": match self.dtype {
                DType::F32 => "float32",
                DType::Bf16 => "bfloat16",
                DType::F16 => "float16",
            },
        });
        // Each family's own fields, as in its published checkpoints. Fields left out have their defaults.
        let own = match self.family {
            ModelType::Gemma2 | ModelType::Gemma3 => json!({
                "hidden_activation": "gelu_pytorch_tanh",
                "query_pre_attn_scalar": self.attn.head_dim,
            }),
            ModelType::Granite => json!({
                "hidden_act": "silu",
                "embedding_multiplier": 12.0,
                "attention_multiplier": (self.attn.head_dim as f64).recip(),
                "residual_multiplier": 0.22,
                "logits_scaling": 8.0,
            }),
            ModelType::Mistral | ModelType::Ministral | ModelType::Phi3 => json!({
                "hidden_act": "silu",
                "sliding_window": 4096,
            }),
            _ => json!({ "hidden_act": "silu" }),
        };
        if let (Value::Object(config), Value::Object(own)) = (&mut config, own) {
            config.extend(own);
        }
        config
    }

    /// Writes one file per layer and one for the rest; returns their index.
    fn write_shards(&self, dir: &Path, tensors: Vec<RandomTensor>) -> Result<Value> {
        let count = self.n_layers + 1;
        let mut shards: Vec<Vec<RandomTensor>> = (0..count).map(|_| Vec::new()).collect();
        for tensor in tensors {
            let layer = (0..self.n_layers)
                .find(|layer| tensor.name.starts_with(&format!("model.layers.{layer}.")));
            shards[layer.unwrap_or(self.n_layers)].push(tensor);
        }
        let mut weight_map = Map::new();
        let mut total_size = 0;
        for (shard, tensors) in shards.into_iter().enumerate() {
            let file = format!("model-{:05}-of-{count:05}.safetensors", shard + 1);
            for tensor in &tensors {
                weight_map.insert(tensor.name.clone(), json!(file));
                total_size += tensor.data_len();
            }
            write_shard(&dir.join(file), tensors)?;
        }
        Ok(json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map }))
    }

    fn tensor(&self, tensor: TensorShape, one_plus_weight: bool) -> RandomTensor {
        let (mean, std) = match tensor.role {
            TensorRole::Embedding => (0.0, 1.0),
            TensorRole::Matrix => (0.0, (tensor.shape[1] as f64).sqrt().recip() as f32),
            TensorRole::Bias => (0.0, 0.5),
            TensorRole::Norm if one_plus_weight => (0.0, self.norm_spread),
            TensorRole::Norm => (1.0, self.norm_spread),
        };
        RandomTensor {
            key: tensor_key(self.seed, &tensor.name),
            name: tensor.name,
            shape: tensor.shape,
            dtype: self.dtype,
            mean,
            std,
        }
    }
}

/// A tensor whose values are generated while it is written.
struct RandomTensor {
    name: String,
    shape: Vec<usize>,
    dtype: DType,
    key: u64,
    mean: f32,
    std: f32,
}

impl RandomTensor {
    /// Generates the values from index `first` on.
    fn fill(&self, first: usize, bytes: &mut [u8]) {
        let scale = self.std / SUM_STD;
        let values = (first as u64..)
            .map(|index| self.mean + scale * centred_sum(self.key.wrapping_add(2 * index)) as f32);
        match self.dtype {
            DType::F32 => {
                for (out, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                    *out = value.to_le_bytes();
                }
            }
            DType::Bf16 => {
                for (out, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                    *out = bf16::from_f32(value).to_le_bytes();
                }
            }
            DType::F16 => {
                for (out, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                    *out = f16::from_f32(value).to_le_bytes();
                }
            }
        }
    }
}

impl View for RandomTensor {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            DType::F32 => Dtype::F32,
            DType::Bf16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        const CHUNK: usize = 1 << 16;
        let mut bytes = vec![0; self.data_len()];
        bytes
            .par_chunks_mut(CHUNK * self.dtype.size())
            .enumerate()
            .for_each(|(chunk, bytes)| self.fill(chunk * CHUNK, bytes));
        bytes.into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// The standard deviation of [`centred_sum`]: the square root of `8 * (2^32 - 1) / 12`.
const SUM_STD: f32 = 53509.918;

/// The sum of eight uniform 16-bit integers minus its mean. The counter advances by two steps.
fn centred_sum(counter: u64) -> i32 {
    let (a, b) = (splitmix64(counter), splitmix64(counter.wrapping_add(1)));
    let lane = 0x0000_ffff_0000_ffff;
    let halves = (a & lane) + ((a >> 16) & lane) + (b & lane) + ((b >> 16) & lane);
    let sum = (halves & 0xffff_ffff) + (halves >> 32);
    sum as i32 - 4 * 0xffff
}

/// The output of SplitMix64 for a state.
fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What SplitMix64 puts out after `counter` steps from a state of 0.
fn splitmix64(counter: u64) -> u64 {
    mix(counter.wrapping_mul(GAMMA))
}

/// Where a tensor's counter starts, spread over all of u64.
fn tensor_key(seed: u64, name: &str) -> u64 {
    name.bytes().fold(splitmix64(seed), |key, byte| {
        splitmix64(key ^ u64::from(byte))
    })
}

fn write_shard(path: &Path, tensors: Vec<RandomTensor>) -> Result<()> {
    let named = tensors.into_iter().map(|t| (t.name.clone(), t));
    // transformers requires this entry.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(named, Some(metadata), path).map_err(|error| {
        let source = match error {
            SafeTensorError::IoError(source) => source,
            other => io::Error::other(other),
        };
        write_error(path, source)
    })
}

fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    for (name, is_required) in [("tokenizer.json", true), ("tokenizer_config.json", false)] {
        let source = from.join(name);
        if is_required || exists(&source)? {
            let bytes = fs::read(&source).map_err(|error| read_error(&source, error))?;
            write_file(&to.join(name), &bytes)?;
        }
    }
    Ok(())
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|source| write_error(path, source))
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|source| read_error(path, source))
}

fn read_error(path: &Path, source: io::Error) -> LlamaError {
    LlamaError::Read {
        path: path.to_owned(),
        source,
    }
}

fn write_error(path: &Path, source: io::Error) -> LlamaError {
    LlamaError::Write {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::{SUM_STD, centred_sum, splitmix64};

    /// The first outputs for seed 0, from the generator's published tests.
    #[test]
    fn splitmix64_sequence() {
        let outputs = [1, 2, 3, 4].map(splitmix64);
        assert_eq!(
            outputs,
            [
                0xe220_a839_7b1d_cdaf,
                0x6e78_9e6a_a1b9_65f4,
                0x06c4_5d18_8009_454f,
                0xf88b_b8a8_724c_81ec
            ]
        );
    }

    /// The words of the first two outputs, added by hand.
    #[test]
    fn sum_of_words() {
        let words = [
            0xe220, 0xa839, 0x7b1d, 0xcdaf, 0x6e78, 0x9e6a, 0xa1b9, 0x65f4,
        ];
        assert_eq!(centred_sum(1), words.iter().sum::<i32>() - 262_140,);
        assert_eq!(
            SUM_STD,
            (8.0f64 * (2f64.powi(32) - 1.0) / 12.0).sqrt() as f32
        );
    }
}

"""Writes rope_reference.json: what transformers computes for some rotary embeddings, in f32 on CPU.

    pip install torch transformers==4.57.1 && python rope_reference.py
"""

import json
from pathlib import Path

import torch
import transformers
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

POSITIONS = [0, 1, 100, 4001]
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
# name, head_dim, rope_theta, max_position_embeddings, rope_scaling
CASES = [
    ("none", 128, 10000.0, 4096, None),
    ("none, odd number of pairs", 6, 500000.0, 4096, None),
    ("default", 16, 1000000.0, 4096, {"rope_type": "default"}),
    ("linear", 64, 10000.0, 16384, {"type": "linear", "factor": 4.0}),
    ("dynamic, within the context", 64, 10000.0, 4096, {"type": "dynamic", "factor": 2.0}),
    ("dynamic, another factor", 16, 500000.0, 8192, {"rope_type": "dynamic", "factor": 2.3}),
    ("llama 3.1", 128, 500000.0, 131072, LLAMA3 | {"factor": 8.0, "original_max_position_embeddings": 8192}),
    ("llama 3.2", 64, 500000.0, 131072, LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 8192}),
    ("llama3, other bounds", 32, 10000.0, 512, LLAMA3 | {"factor": 3.0, "low_freq_factor": 0.5, "high_freq_factor": 9.0, "original_max_position_embeddings": 64}),
    ("yarn of qwen 2.5", 128, 1000000.0, 131072, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
    ("yarn, original from max_position_embeddings", 64, 10000.0, 2048, YARN),
    ("yarn, truncate off", 64, 10000.0, 16384, YARN | {"original_max_position_embeddings": 4096, "truncate": False}),
    ("yarn, betas", 64, 10000.0, 16384, YARN | {"original_max_position_embeddings": 4096, "beta_fast": 20.0, "beta_slow": 2.0}),
    ("yarn, mscales", 64, 10000.0, 163840, YARN | {"factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 0.707}),
    ("yarn, one mscale", 32, 10000.0, 163840, YARN | {"factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.707, "mscale_all_dim": 0}),
    ("yarn, attention_factor", 32, 10000.0, 16384, YARN | {"original_max_position_embeddings": 4096, "attention_factor": 1.25}),
    ("yarn, factor below 1", 32, 10000.0, 4096, YARN | {"factor": 0.5, "original_max_position_embeddings": 8192}),
    ("yarn, ramp of no width", 32, 10000.0, 16384, YARN | {"original_max_position_embeddings": 4096, "beta_fast": 2.0, "beta_slow": 2.0, "truncate": False}),
    ("yarn, ramp cut at both ends", 8, 100.0, 16384, YARN | {"original_max_position_embeddings": 4096, "beta_fast": 5000.0, "beta_slow": 0.1}),
]


def case(name, head_dim, theta, max_positions, scaling):
    config = {
        "head_dim": head_dim,
        "rope_theta": theta,
        "max_position_embeddings": max_positions,
        "rope_scaling": scaling,
    }
    # A copy: transformers adds keys to the dictionary that it is given.
    rotary = LlamaRotaryEmbedding(LlamaConfig(**json.loads(json.dumps(config))))
    cos, sin = rotary(torch.zeros(1), torch.tensor([POSITIONS]))
    half = head_dim // 2
    return {
        "name": name,
        "config": config,
        "inv_freq": rotary.inv_freq.tolist(),
        "attention_factor": rotary.attention_scaling,
        "table": torch.cat((cos[0, :, :half], sin[0, :, :half]), dim=1).tolist(),
    }


def short(values):
    """Nine digits tell any two f32 apart."""
    if isinstance(values, list):
        return [short(value) for value in values]
    return float(f"{values:.9g}") if isinstance(values, float) else values


cases = [case(*arguments) for arguments in CASES]
for one in cases:
    for key in ("inv_freq", "table"):
        one[key] = short(one[key])
made_by = f"rope_reference.py, transformers {transformers.__version__}, torch {torch.__version__}"
body = ",\n".join(json.dumps(one) for one in cases)
text = f'{{"made_by": "{made_by}",\n"positions": {POSITIONS},\n"cases": [\n{body}\n]}}\n'
Path(__file__).with_name("rope_reference.json").write_text(text)

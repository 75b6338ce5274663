"""A small LLaMA in plain PyTorch, over flat tokens: only attention sees the padded batch."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn


@dataclass
class Shape:
    vocab: int
    d: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 512
    positions: int = 256
    theta: float = 10000.0
    eps: float = 1e-5


class Norm(nn.Module):
    def __init__(self, d, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d)), eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class Batch:
    """Sequences of different lengths, as flat tokens `[N]` and back to `[B, T]` for attention."""

    def __init__(self, sequences):
        lengths = torch.tensor([len(s) for s in sequences])
        self.ids = torch.tensor([i for s in sequences for i in s])
        self.size, self.longest = len(sequences), int(lengths.max())
        self.first = torch.cumsum(lengths, 0) - lengths
        self.position = torch.arange(len(self.ids)) - torch.repeat_interleave(self.first, lengths)
        self.padded = torch.repeat_interleave(torch.arange(self.size) * self.longest, lengths) + self.position

    def pad(self, x):
        out = x.new_zeros(self.size * self.longest, x.shape[-1])
        return out.index_copy(0, self.padded, x).view(self.size, self.longest, -1)

    def flat(self, x):
        return x.reshape(self.size * self.longest, -1).index_select(0, self.padded)


class Layer(nn.Module):
    def __init__(self, s):
        super().__init__()
        self.s = s
        self.input_norm, self.mlp_norm = Norm(s.d, s.eps), Norm(s.d, s.eps)
        self.qkv = nn.Linear(s.d, (s.heads + 2 * s.kv_heads) * s.head_dim, bias=False)
        self.o = nn.Linear(s.heads * s.head_dim, s.d, bias=False)
        self.gate_up = nn.Linear(s.d, 2 * s.ffn, bias=False)
        self.down = nn.Linear(s.ffn, s.d, bias=False)

    def forward(self, x, batch, cos, sin):
        s = self.s
        qkv = batch.pad(self.qkv(self.input_norm(x))).view(batch.size, batch.longest, -1, s.head_dim).transpose(1, 2)
        q, k, v = qkv.split([s.heads, s.kv_heads, s.kv_heads], dim=1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        group = s.heads // s.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(batch.flat(mixed.transpose(1, 2)))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Llama(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.vocab, shape.d)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.d, shape.eps)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                small = name.endswith(("o.weight", "down.weight"))
                nn.init.normal_(p, std=0.05 if "embed" in name else 0.04 / (2 * shape.layers) ** 0.5 if small else 0.04)
        inverse = shape.theta ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        angles = torch.outer(torch.arange(shape.positions).float(), inverse)
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, batch, inject=None):
        """`hidden_states`: the residual stream `[N, d]` at the input of each layer, and after the final norm.

        `inject` is `(layers [M], tokens [M], vectors [M, d])`: vector i replaces flat token i's row at layer i.
        """
        cos, sin = self.cos[:batch.longest], self.sin[:batch.longest]
        x = self.embed(batch.ids)
        states = []
        for index, layer in enumerate(self.layers):
            if inject is not None:
                here = inject[0] == index
                if here.any():
                    x = x.index_copy(0, inject[1][here], inject[2][here])
            states.append(x)
            x = layer(x, batch, cos, sin)
        states.append(self.norm(x))
        return states

    @torch.no_grad()
    def emphasize_tokens(self, table, first_layer):
        """Scales the embedding table's part of the residual stream by `table`, and the first layer's part by
        `first_layer`, so that the head can read both a token and the layers' output for it."""
        self.embed.weight *= table
        self.norm.weight /= table
        for matrix in (self.layers[0].o.weight, self.layers[0].down.weight):
            matrix *= first_layer

    def stacked(self):
        """The layers' matrices, with the heights of the matrices stacked in each."""
        s = self.shape
        kv = s.kv_heads * s.head_dim
        for layer in self.layers:
            yield layer.qkv.weight, [s.heads * s.head_dim, kv, kv]
            yield layer.o.weight, [s.d]
            yield layer.gate_up.weight, [s.ffn, s.ffn]
            yield layer.down.weight, [s.d]

    def logits(self, rows):
        return rows @ self.embed.weight.T

    def export(self, folder, dtype=torch.bfloat16):
        """Writes config.json, generation_config.json and model.safetensors in Hugging Face's format."""
        folder, s = Path(folder), self.shape
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"model.embed_tokens.weight": self.embed.weight, "model.norm.weight": self.norm.weight}
        for l, layer in enumerate(self.layers):
            name = f"model.layers.{l}."
            kv = s.kv_heads * s.head_dim
            q, k, v = layer.qkv.weight.split([s.heads * s.head_dim, kv, kv])
            gate, up = layer.gate_up.weight.chunk(2)
            tensors |= {name + "self_attn.q_proj.weight": q, name + "self_attn.k_proj.weight": k,
                        name + "self_attn.v_proj.weight": v, name + "self_attn.o_proj.weight": layer.o.weight,
                        name + "mlp.gate_proj.weight": gate, name + "mlp.up_proj.weight": up,
                        name + "mlp.down_proj.weight": layer.down.weight,
                        name + "input_layernorm.weight": layer.input_norm.weight,
                        name + "post_attention_layernorm.weight": layer.mlp_norm.weight}
        tensors = {k: v.detach().to(dtype).contiguous().clone() for k, v in tensors.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = {"architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2,
                  "head_dim": s.head_dim, "hidden_act": "silu", "hidden_size": s.d, "initializer_range": 0.02,
                  "intermediate_size": s.ffn, "max_position_embeddings": s.positions, "mlp_bias": False,
                  "model_type": "llama", "num_attention_heads": s.heads, "num_hidden_layers": s.layers,
                  "num_key_value_heads": s.kv_heads, "rms_norm_eps": s.eps, "rope_scaling": None, "rope_theta": s.theta,
                  "tie_word_embeddings": True, "torch_dtype": str(dtype).removeprefix("torch."), "vocab_size": s.vocab}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        generation = {"bos_token_id": 1, "eos_token_id": 2}
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")


def save(model, path, **more):
    torch.save({"shape": asdict(model.shape), "weights": model.state_dict(), **more}, path)


def load(path):
    saved = torch.load(path, weights_only=True)
    model = Llama(Shape(**saved["shape"]))
    model.load_state_dict(saved["weights"])
    return model

"""What PyTorch does with released readers on the golden checkpoints of selfie-llama, in f32.

    python reference.py GOLDEN SELFIE_ADAPTERS > reference.json

GOLDEN is crates/selfie-llama/tests/golden; SELFIE_ADAPTERS a checkout of agencyenterprise/selfie-adapters at 7158081, whose
own loader reads the maps. Made with torch 2.11, transformers 5.17, peft 0.21. Folders are built here and in readers.rs from
the same numbers (`noise`), by what is public of each format; nothing else of them is committed.
"""

import contextlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment
from peft import PeftModel
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
GOLDEN = Path(sys.argv[1])
sys.path.insert(0, sys.argv[2])
from selfie_adapters.inference import SelfIEAdapter  # noqa: E402

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n"
    "{% if enable_thinking is defined and not enable_thinking %}(no thoughts) {% endif %}{% endif %}"
)
PROMPT = "My grandma used to tell me stories about the sea."
MARKER = "<|end_of_text|>"
MEANING = f'What is the meaning of "{MARKER}"? The meaning of "{MARKER}" is "'
QUESTION = "What is it about"
AV = "We pass a vector:\n\n<concept>{injection_char}</concept>\n\nThe char ~ may come again. {{Explain}} it."
EASY = "We pass a vector:\n\n<concept>{injection_char}</concept>\n\n{{Explain}} it."
AR = "<text>{explanation}</text> <summary>"
NEW = 6
KINDS = ["scale_only", "scalar_affine", "scalar_affine_plus_low_rank", "low_rank_only", "full_rank"]
PARTS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
         "mlp.down_proj"]


def noise(seed, shape, scale):
    """Numbers in [-scale / 2, scale / 2), each a hash of its place."""
    x = (np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(seed * 1000003)) & np.uint64(0xFFFFFFFF)
    x = (x * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(15)
    x = (x * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(13)
    return torch.tensor(((x.astype(np.float64) / 2**32 - 0.5) * scale).astype(np.float32)).reshape(shape)


class Subject:
    def __init__(self, name, folder, layers=None):
        self.dir = folder / (name.replace("/", "-") + f"-{layers}")
        shutil.copytree(GOLDEN / name, self.dir)
        config = json.loads((self.dir / "config.json").read_text())
        if "query_pre_attn_scalar" in config:
            config["query_pre_attn_scalar"] = int(config["query_pre_attn_scalar"])
        if layers is not None:
            config["num_hidden_layers"] = layers
            if "layer_types" in config:
                config["layer_types"] = config["layer_types"][:layers]
        (self.dir / "config.json").write_text(json.dumps(config))
        tokenizer = json.loads((self.dir / "tokenizer.json").read_text())
        # The last merge makes way for a token " ?".
        model = tokenizer["model"]
        pair = model["merges"][-1]
        old = "".join(pair) if isinstance(pair, list) else pair.replace(" ", "")
        model["merges"][-1] = ["Ġ", "?"] if isinstance(pair, list) else "Ġ ?"
        model["vocab"] = {("Ġ?" if token == old else token): id for token, id in model["vocab"].items()}
        (self.dir / "tokenizer.json").write_text(json.dumps(tokenizer))
        self.tokenizer = Tokenizer.from_file(str(self.dir / "tokenizer.json"))
        self.model = AutoModelForCausalLM.from_pretrained(self.dir, dtype=torch.float32, attn_implementation="eager").eval()
        self.layers = self.model.model.layers
        self.d = config["hidden_size"]

    def ids(self, text, special=False):
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    def chat(self, messages, **values):
        template = Environment().from_string(TEMPLATE)
        return self.ids(template.render(bos_token="<|begin_of_text|>", messages=messages, add_generation_prompt=True, **values))

    @torch.no_grad()
    def states(self, ids):
        return self.model(torch.tensor([ids]), output_hidden_states=True).hidden_states


@torch.no_grad()
def greedy(subject, model, ids, layer, write):
    """Continues `ids`; `write` changes the residual stream at the input of `layer`, of the prompt's rows."""
    if layer == 0:
        hook = subject.model.get_input_embeddings().register_forward_hook(lambda m, i, out: write(out))
    else:
        def after(module, inputs, output):
            return (write(output[0]), *output[1:]) if isinstance(output, tuple) else write(output)
        hook = subject.layers[layer - 1].register_forward_hook(after)
    ids, first, logprobs, margin = list(ids), len(ids), [], 9.0
    for _ in range(NEW):
        logits = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        top = logits.topk(2)
        margin = min(margin, (top.values[0] - top.values[1]).item())
        ids.append(int(top.indices[0]))
        logprobs.append(round(top.values[0].item(), 6))
    hook.remove()
    assert margin > 3e-4, f"a tie, within {margin}"
    return {"prompt_ids": ids[:first], "new_ids": ids[first:], "logprobs": logprobs}


def replace(vectors, positions):
    def write(h):
        h = h.clone()
        h[0, positions] = vectors
        return h
    return write


def add_matched(vectors, positions, coefficient):
    def write(h):
        h = h.clone()
        own = h[0, positions]
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        h[0, positions] = unit * own.norm(dim=-1, keepdim=True) * coefficient + own
        return h
    return write


def neighbors(right, wrong):
    """With what neighbouring layers give: readers.rs asks that it is something else."""
    return right | {"neighbors": [other["new_ids"] for other in wrong],
                    "neighbor_logprobs": [other["logprobs"] for other in wrong]}


def write_map(path, kind, d, flat):
    r, tensors = 3, {}
    if kind in ("scale_only", "scalar_affine", "scalar_affine_plus_low_rank"):
        tensors["log_scale"] = torch.tensor([1.25])
    if kind != "scale_only":
        tensors["bias"] = noise(11, (d,), 0.3)
    if "low_rank" in kind:
        tensors |= {"U": noise(12, (d, r), 1.0), "V": noise(13, (d, r), 1.0)}
    if kind == "full_rank":
        tensors["weight"] = noise(14, (d, d), 0.5)
    normalize = kind in ("scalar_affine", "full_rank")
    if flat:
        header = {"projection_type": kind, "normalize_input": str(normalize), "model_dim": str(d)}
    else:
        projection = {"type": kind, "normalize_input": normalize, "init_scale": 30.0,
                      "low_rank_rank": r if "low_rank" in kind else None, "low_rank_init_factor": 0.01}
        header = {"config_json": json.dumps({"projection": projection}), "model_dim": str(d)}
    save_file(tensors, path, metadata=header)


def maps(s):
    layer, token = 2, 4
    states = s.states(s.ids(PROMPT, True))
    ids = s.ids(MEANING, True)
    marker = s.tokenizer.token_to_id(MARKER)
    positions = [i for i, id in enumerate(ids) if id == marker]
    cases = []
    for kind in KINDS:
        path = s.dir / f"{kind}.safetensors"
        # Their loader reads the flat form only of maps without a low rank.
        write_map(path, kind, s.d, flat=kind in ("scalar_affine", "full_rank"))
        adapter = SelfIEAdapter(str(path), device="cpu")
        read = lambda l: adapter.transform(states[l][0, token])
        text = lambda l: greedy(s, s.model, ids, 0, replace(read(l), positions))
        case = neighbors(text(layer), [text(layer + 1)])
        cases.append(case | {"kind": kind, "positions": positions, "values": [round(x, 6) for x in read(layer)[:8].tolist()]})
    # With a mean subtracted first.
    adapter = SelfIEAdapter(str(s.dir / "scalar_affine.safetensors"), device="cpu")
    vector = adapter.transform(states[layer][0, token] - noise(15, (s.d,), 1.0))
    subtracted = greedy(s, s.model, ids, 0, replace(vector, positions))
    return {"layer": layer, "token": token, "cases": cases, "subtracted": subtracted}


def write_lora(folder, s, config, head):
    folder.mkdir(exist_ok=True)
    tensors = {}
    shapes = dict(s.model.named_modules())
    for l in range(len(s.layers)):
        for index, part in enumerate(PARTS):
            weight = shapes[f"model.layers.{l}.{part}"].weight
            r = config["rank_pattern"].get(part.split(".")[-1], config["r"])
            name, seed = f"base_model.model.model.layers.{l}.{part}", 100 + 20 * l + 2 * index
            tensors[f"{name}.lora_A.weight"] = noise(seed, (r, weight.shape[1]), 0.5)
            tensors[f"{name}.lora_B.weight"] = noise(seed + 1, (weight.shape[0], r), 0.5)
    targets = [part.split(".")[-1] for part in PARTS]
    if head:
        weight = s.model.lm_head.weight
        tensors["base_model.model.lm_head.lora_A.weight"] = noise(900, (config["r"], weight.shape[1]), 0.5)
        tensors["base_model.model.lm_head.lora_B.weight"] = noise(901, (weight.shape[0], config["r"]), 0.5)
        targets.append("lm_head")
    save_file(tensors, folder / "adapter_model.safetensors")
    full = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "target_modules": targets,
            "base_model_name_or_path": "a/base", "lora_dropout": 0.05} | config
    (folder / "adapter_config.json").write_text(json.dumps(full))


def lora_config(name):
    return {"r": 4, "lora_alpha": 8, "use_rslora": name.endswith("gemma3"), "rank_pattern": {"down_proj": 2},
            "alpha_pattern": {"q_proj": 16}, "fan_in_fan_out": False}


def with_lora(s, name, head, run):
    """Calls `run` with the model and its LoRA."""
    folder = s.dir / f"lora-{head}"
    write_lora(folder, s, lora_config(name), head)
    model = PeftModel.from_pretrained(s.model, folder).eval()
    result = run(model)
    s.model = model.unload()
    s.layers = s.model.model.layers
    return result


def oracle(s, name):
    hook, coefficient, layer, tokens = 1, 1.5, 2, [3, 4, 5]
    states = s.states(s.ids(PROMPT, True))
    text = f"Layer: {layer - 1}\n" + " ?" * len(tokens) + f" \n{QUESTION}"
    ids = s.chat([{"role": "user", "content": text}], enable_thinking=False)
    marker, = s.ids(" ?")
    positions = [i for i, id in enumerate(ids) if id == marker]
    assert len(positions) == len(tokens)

    def run(model, plain=None):
        def at(read, write):
            return greedy(s, plain or model, ids, write, add_matched(states[read][0, tokens], positions, coefficient))
        return neighbors(at(layer, hook + 1), [at(layer - 1, hook + 1), at(layer + 1, hook + 1), at(layer, hook), at(layer, hook + 2)])

    without = greedy(s, s.model, ids, hook + 1, add_matched(states[layer][0, tokens], positions, coefficient))
    case = with_lora(s, name, False, run)
    assert without["new_ids"] != case["new_ids"]
    return case | {"layer": layer, "tokens": tokens, "coefficient": coefficient, "positions": positions, "without": without}


def oracle_of_layers(s, name):
    """An oracle that reads several layers at once: a block of placeholders each."""
    hook, coefficient, layers, tokens = 1, 1.5, [1, 3], [3, 4, 5]
    states = s.states(s.ids(PROMPT, True))
    text = "".join(f"Layer: {layer - 1}\n" + " ?" * len(tokens) + " \n" for layer in layers) + QUESTION
    ids = s.chat([{"role": "user", "content": text}], enable_thinking=False)
    marker, = s.ids(" ?")
    positions = [i for i, id in enumerate(ids) if id == marker]
    assert len(positions) == len(layers) * len(tokens)

    def run(model):
        def at(vectors, write):
            return greedy(s, model, ids, write, add_matched(vectors, positions, coefficient))

        def read(layers):
            return torch.cat([states[layer][0, tokens] for layer in layers])

        by_token = torch.stack([states[layer][0, token] for token in tokens for layer in layers])
        return neighbors(at(read(layers), hook + 1), [
            at(read([1, 2]), hook + 1), at(read([2, 3]), hook + 1), at(read([3, 1]), hook + 1), at(by_token, hook + 1),
            at(read(layers), hook), at(read(layers), hook + 2)])

    case = with_lora(s, name, False, run)
    return case | {"layers": layers, "tokens": tokens, "coefficient": coefficient, "positions": positions}


def latent(s, name):
    layer = 3
    prompt = s.ids(PROMPT, True)
    states = s.states(prompt)
    k = len(prompt) - 1
    template = "{% for m in messages %}{% set role = 'reflect' if m.role == 'assistant' else m.role %}{% set content = " \
        "'<|start_header_id|>' + role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}" \
        "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{{ '<|start_header_id|>reflect<|end_header_id|>\n\n' }}"
    messages = [{"role": "user", "content": "? " * k}, {"role": "assistant", "content": "Sure, I've analyzed the assistant."},
                {"role": "user", "content": QUESTION + "?"}]
    ids = s.ids(Environment().from_string(template).render(bos_token="<|begin_of_text|>", messages=messages))
    first = ids.index(s.tokenizer.token_to_id("?"))
    positions = list(range(first, first + k))

    def run(model):
        at = lambda read, write: greedy(s, model, ids, write, replace(states[read][0, 1:], positions))
        return neighbors(at(layer, 1), [at(layer - 1, 1), at(layer + 1, 1), at(layer, 2)])

    return with_lora(s, name, True, run) | {"layer": layer, "token": k, "positions": positions}


def verbalizer(s):
    layer, token, scale = 2, 4, 7.5
    states = s.states(s.ids(PROMPT, True))
    ids = s.chat([{"role": "user", "content": AV.format(injection_char="~")}])
    marker, = s.ids("~")
    left, right = s.ids(">")[0], s.ids("<")[0]
    positions = [i for i in range(1, len(ids) - 1) if ids[i] == marker and (ids[i - 1], ids[i + 1]) == (left, right)]
    assert len(positions) == 1 and ids.count(marker) == 2

    def at(read, write):
        v = states[read][0, token]
        return greedy(s, s.model, ids, write, replace(v / (v.norm().clamp_min(1e-12) / scale), positions))

    case = neighbors(at(layer, 0), [at(layer - 1, 0), at(layer + 1, 0), at(layer, 1)])
    return case | {"layer": layer, "token": token, "scale": scale, "positions": positions, "marker_id": marker,
                   "neighbor_ids": [left, right]}


def easynla(s, name):
    """EasyNLA's verbalizer: its own prompt, and the vector itself added at the output of layer 1 as an oracle does."""
    layer, token = 3, 4
    states = s.states(s.ids(PROMPT, True))
    ids = s.chat([{"role": "user", "content": EASY.format(injection_char="~")}])
    marker, = s.ids("~")
    positions = [i for i, id in enumerate(ids) if id == marker]
    assert len(positions) == 1

    def at(model, read, write):
        return greedy(s, model, ids, write, add_matched(states[read][:, token], positions, 1.0))

    def run(model):
        return neighbors(at(model, layer, 2), [at(model, layer - 1, 2), at(model, layer + 1, 2), at(model, layer, 1),
                                               at(model, layer, 3)])

    whole = at(s.model, layer, 2)
    case = with_lora(s, name, False, run)
    assert whole["new_ids"] != case["new_ids"]
    return case | {"layer": layer, "token": token, "positions": positions, "marker_id": marker,
                   "neighbor_ids": [ids[positions[0] - 1], ids[positions[0] + 1]], "whole": whole}


@torch.no_grad()
def reconstructor(name, folder, s):
    layer, token = 2, 4
    own = Subject(name, folder, layers=layer)
    text = "It is about the sea"
    ids = own.ids(AR.format(explanation=text), True)
    kept = {}
    hook = own.layers[-1].register_forward_hook(
        lambda m, i, out: kept.__setitem__("h", (out[0] if isinstance(out, tuple) else out)[0, -1]))
    own.model(torch.tensor([ids]))
    head = noise(16, (s.d, s.d), 1.0)
    vector = head @ kept["h"]
    states = s.states(s.ids(PROMPT, True))

    def cosine(state):
        return torch.nn.functional.cosine_similarity(vector, state, dim=0).item()

    # EasyNLA adds no bos, and scales the state before the head.
    own.model(torch.tensor([own.ids(AR.format(explanation=text))]))
    scaled = kept["h"] / (kept["h"].norm() / s.d**0.5)
    easy = torch.nn.functional.cosine_similarity(head @ scaled, states[layer][0, token], dim=0).item()
    hook.remove()
    right, wrong = cosine(states[layer][0, token]), cosine(states[layer + 1][0, token])
    normed = torch.nn.functional.cosine_similarity(head @ own.states(ids)[-1][0, -1], states[layer][0, token], dim=0).item()
    without_bos = own.ids(AR.format(explanation=text))
    apart = all(abs(other - right) > 1e-3 for other in [wrong, normed])
    assert apart and without_bos != ids, (right, wrong, normed)
    return {"layer": layer, "token": token, "text": text, "cosine": right, "neighbor": wrong, "with_final_norm": normed,
            "easynla": easy, "vector": [round(x, 5) for x in vector[:8].tolist()], "suffix": ids[-3:]}


def main():
    out = {"template": TEMPLATE, "prompt": PROMPT, "question": QUESTION, "marker": MARKER, "meaning": MEANING, "av": AV, "easy": EASY,
           "ar": AR, "kinds": KINDS, "families": {}}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        folder = Path(folder)
        for name in ["families/qwen3", "families/gemma3", "llama3-gqa"]:
            s = Subject(name, folder)
            out["families"][name] = {
                "maps": maps(s),
                "verbalizer": verbalizer(s),
                "reconstructor": reconstructor(name, folder, s),
                "lora": lora_config(name),
                "oracle": oracle(s, name),
                "oracle_of_layers": oracle_of_layers(s, name),
                "easynla": easynla(s, name),
                "latent": latent(s, name),
            }
    cases = [family["reconstructor"] for family in out["families"].values()]
    assert any(abs(case["easynla"] - case["cosine"]) > 1e-3 for case in cases), "bos makes no difference"
    print(json.dumps(out, separators=(",", ":")).replace('},"', '},\n"').replace('],"', '],\n"'))


main()

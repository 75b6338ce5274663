"""Trains selfie-adapters' scalar affine and full-rank maps on the demo checkpoint, and measures their effect:

    python map.py ../../crates/selfie-demo --layer 1 --out maps --selfie ../../target/release/selfie

A map turns hidden_states[layer] at the end of a question into the vector to write over the placeholders, at layer 0. The
model itself does not change. The map is trained on the countries that are not held out, and on the invented lands.
Recall is the share of questions about held-out countries whose interpretation names the country, and the same for the
interpretations under each control. Takes a few minutes.
"""

import argparse
import json
import subprocess
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

ATTRIBUTES = ["capital", "language", "continent", "landmark"]
PARTS = ["[INST]", 0, 0, 0, 0, 0, "[/INST] Sure, I will summarize the message:"]


def questions(world, held_out):
    countries = [c for c in world["countries"] if (c["name"] in world["held_out"]) == held_out]
    for country in countries if held_out else countries + world["lands"]:
        for template in world["templates"]["one_hop"][:1 if held_out else 3]:
            for attribute in ATTRIBUTES:
                message = template.replace("{a}", attribute).replace("{x}", country["name"])
                yield f"[INST] {message} [/INST]", f"The message asks for the {attribute} of {country['name']}.", country["name"]


class Map(torch.nn.Module):
    def __init__(self, kind, d):
        super().__init__()
        self.kind = kind
        self.bias = torch.nn.Parameter(torch.zeros(d))
        if kind == "full_rank":
            self.weight = torch.nn.Parameter(torch.eye(d))
        else:
            self.log_scale = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        y = x @ self.weight.T if self.kind == "full_rank" else self.log_scale.exp() * x
        return y + self.bias

    def save(self, path):
        config = {"projection": {"type": self.kind, "normalize_input": False, "init_scale": 1.0}}
        header = {"config_json": json.dumps(config), "model_dim": str(len(self.bias))}
        save_file({name: p.detach().contiguous() for name, p in self.named_parameters()}, path, metadata=header)


def train(model, tokenizer, states, targets, kind, steps, batch):
    torch.manual_seed(0)
    embed = model.get_input_embeddings()
    begin = "".join("_ " if part == 0 else part for part in PARTS)
    prompt = tokenizer.encode(begin).ids
    mark = {i for i, id in enumerate(prompt) if tokenizer.id_to_token(id).strip("▁Ġ") == "_"}
    ends = [tokenizer.encode(f"{begin} {target}").ids[len(prompt):] + [2] for target in targets]
    this = Map(kind, states.shape[1])
    rate = 3e-3 if kind == "full_rank" else 3e-2
    adam = torch.optim.Adam(this.parameters(), lr=rate)
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = rate * (1 - step / steps)
        picked = torch.randint(len(targets), (batch,))
        longest = max(len(ends[i]) for i in picked)
        ids = torch.tensor([prompt + ends[i] + [2] * (longest - len(ends[i])) for i in picked])
        labels = torch.tensor([[-100] * len(prompt) + ends[i] + [-100] * (longest - len(ends[i])) for i in picked])
        where = torch.zeros(ids.shape[1], dtype=torch.bool)
        where[list(mark)] = True
        rows = torch.where(where[None, :, None], this(states[picked])[:, None], embed(ids))
        loss = torch.nn.functional.cross_entropy(
            model(inputs_embeds=rows).logits[:, len(prompt) - 1:-1].flatten(0, 1), labels[:, len(prompt):].flatten())
        adam.zero_grad()
        loss.backward()
        adam.step()
        if step % 50 == 49:
            print(f"{kind}: step {step + 1}, loss {loss.item():.3f}", flush=True)
    return this


def recall(selfie, world, layer, out, *options):
    asked = list(questions(world, True))
    prompts = out / "held-out.txt"
    prompts.write_text("".join(json.dumps(prompt) + "\n" for prompt, _, _ in asked))
    line = [selfie, "interpret", "--quiet", "--prompts", prompts, "--layers", str(layer), "--no-relevancy", "--format", "jsonl",
            "--controls", "none,random,shuffled", "--interpretation-prompt", json.dumps(PARTS)]
    line += options
    rows = [json.loads(row) for row in subprocess.run(line, capture_output=True, check=True).stdout.splitlines()]
    shares = {}
    for field in ["interpretation", "none_interpretation", "random_interpretation", "shuffled_interpretation"]:
        hits = sum(country in row[field] for row, (_, _, country) in zip(rows, asked, strict=True))
        shares[field.split("_")[0]] = f"{hits} of {len(rows)}"
    return shares


def main():
    args = argparse.ArgumentParser()
    args.add_argument("crate", type=Path)
    args.add_argument("--layer", type=int, default=1)
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--selfie", required=True)
    args.add_argument("--steps", type=int, default=200)
    args.add_argument("--batch", type=int, default=32)
    args.add_argument("--threads", type=int, default=1)
    args = args.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    world = json.loads((args.crate / "world.json").read_text())
    folder = args.crate / "checkpoint"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)
    seen = list(questions(world, False))
    with torch.no_grad():
        last = lambda prompt: model(torch.tensor([tokenizer.encode(prompt).ids]), output_hidden_states=True).hidden_states
        states = torch.stack([last(prompt)[args.layer][0, -1] for prompt, _, _ in seen])
    for at in ["0", "1"]:
        told = recall(args.selfie, world, args.layer, args.out, "--inject-layer", at)
        print(f"without a map, written at layer {at}:", told, flush=True)
    for kind in ["scalar_affine", "full_rank"]:
        file = args.out / f"{kind}.safetensors"
        train(model, tokenizer, states, [target for _, target, _ in seen], kind, args.steps, args.batch).save(file)
        print(f"{kind}:", recall(args.selfie, world, args.layer, args.out, "--map", file), flush=True)


main()

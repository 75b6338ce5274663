"""Trains the demo checkpoint.

    python train.py --out RUN                     trains, evaluates, keeps RUN/last.pt and RUN/best.pt
    python train.py --export RUN/best.pt --out crates/selfie-demo   writes checkpoint/ and world.json
"""

import argparse
import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Parallel over halves of the batch (see Trainer.step). Threads inside an op would wait for each other, which is
# expensive on a shared machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import torch
import torch.nn.functional as F

import evaluate
import facts as world_facts
import tokenizer as bpe
from muon import Muon
from model import Batch, Llama, Shape, load, save
from samples import EMPTY, EOS, Encoder, chat, describe, located
from texts import World, templates


# The number of threads, each with a part of the batch and its own random draws.
PARTS = 2


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--export", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--muon-lr", type=float, default=0.02, help="of the layers' matrices")
    parser.add_argument("--decay", type=float, default=0.0, help="weight decay of the layers' matrices")
    parser.add_argument("--lr", type=float, default=2e-3, help="of the rest (Adam)")
    parser.add_argument("--inject-from", type=float, default=0.08, help="share of the steps before the second loss")
    parser.add_argument("--injected", type=float, default=0.8, help="embeddings of a text")
    parser.add_argument("--eval-every", type=int, default=400)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--warm", type=Path, help="begin a new run with the weights of another")
    parser.add_argument("--table-scale", type=float, default=1.0, help="see Llama.emphasize_tokens")
    parser.add_argument("--first-layer-scale", type=float, default=1.0)
    parser.add_argument("--resume", type=Path, help="resume from RUN/last.pt")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def losses(model, batch, samples, states):
    """Mean cross-entropy of the targets; a sample is (ids, first target, weight)."""
    rows, ids, weights = [], [], []
    for i, (sequence, first, weight) in enumerate(samples):
        start = int(batch.first[i])
        rows += range(start + first - 1, start + len(sequence) - 1)
        ids += sequence[first:]
        weights += [weight] * (len(sequence) - first)
    loss = F.cross_entropy(model.logits(states[-1][rows]), torch.tensor(ids), reduction="none")
    weights = torch.tensor(weights)
    return (loss * weights).sum() / weights.sum()


class Trainer:
    def __init__(self, args):
        self.args = args
        self.rngs = [random.Random(args.seed * 1000 + part) for part in range(PARTS)]
        self.pool = ThreadPoolExecutor(PARTS)
        torch.manual_seed(args.seed)
        facts = world_facts.build()
        args.out.mkdir(parents=True, exist_ok=True)
        tokenizer = bpe.train(facts)
        self.world, self.encode = World(facts), Encoder(tokenizer)
        self.prompts = {(n, mode): located(self.encode, n, mode)
                        for n in range(1, 9) for mode in ("summary", "repeat", "materials")}
        self.model = Llama(Shape(tokenizer.get_vocab_size(), layers=args.layers))
        self.parameters = list(self.model.parameters())
        stacked = list(self.model.stacked())
        if args.warm:
            self.model.load_state_dict(torch.load(args.warm, weights_only=True)["weights"])
            self.model.emphasize_tokens(args.table_scale, args.first_layer_scale)
        norms = [p for layer in self.model.layers for p in (layer.input_norm.weight, layer.mlp_norm.weight)]
        adam = lambda parameter, lr: torch.optim.Adam([parameter] if torch.is_tensor(parameter) else parameter, lr, betas=(0.9, 0.98))
        # The table's steps grow as the table did, and those of the final norm shrink accordingly.
        self.optimizers = [Muon(stacked, args.muon_lr, decay=args.decay), adam(self.model.embed.weight, args.lr * args.table_scale),
                           adam(self.model.norm.weight, args.lr / args.table_scale), adam(norms, args.lr)]
        self.best, self.first = -1.0, 0
        if args.resume:
            saved = torch.load(args.resume, weights_only=True)
            self.model.load_state_dict(saved["weights"])
            for optimizer, state in zip(self.optimizers, saved["optimizers"]):
                optimizer.load_state_dict(state)
            self.first = saved["step"]
            for part, rng in enumerate(self.rngs):
                rng.seed((args.seed + self.first) * 1000 + part)

    def chat_samples(self, rng):
        texts, samples = [], []
        for _ in range(self.args.batch // PARTS - 1):
            text = self.world.draw(rng)
            mode = rng.choices(list(text.modes), text.modes.values())[0]
            texts.append(text)
            samples.append((*chat(self.encode, text, mode), 2.0 if mode == "reply" else 1.0))
        # Placeholders that are not overwritten.
        mode = rng.choice(["summary", "summary", "repeat", "materials"])
        ids, _ = self.prompts[rng.choice([1, 2, 3, 4, 5, 5, 5, 6, 7, 8]), mode]
        nothing = {"summary": EMPTY, "repeat": "nothing", "materials": "none"}[mode]
        samples.append((ids + self.encode(nothing) + [EOS], len(ids), 1.0))
        return texts, samples

    def injected_samples(self, rng, texts, batch, states):
        """Embeddings of this step's texts, detached: the second loss teaches reading them, not producing them."""
        samples, layers, rows, vectors = [], [], [], []
        n_layers = self.model.shape.layers
        for i, text in enumerate(texts):
            if text.held_out:
                continue
            for _ in range(int(self.args.injected + rng.random())):
                layer, token, mode, answer = describe(rng, text, n_layers)
                placeholders = 5 if rng.random() < 0.5 else rng.randint(1, 8)
                inject_layer = rng.choices([0, 1, 2, 3], [5, 60, 25, 10])[0]
                ids, places = self.prompts[placeholders, mode]
                vector = states[layer][batch.first[i] + token].detach()
                samples.append((ids + self.encode(answer) + [EOS], len(ids), 1.0))
                layers += [inject_layer] * len(places)
                rows += [(len(samples) - 1, place) for place in places]
                vectors += [vector] * len(places)
        batch = Batch([s[0] for s in samples])
        tokens = torch.tensor([int(batch.first[i]) + place for i, place in rows])
        return batch, samples, (torch.tensor(layers), tokens, torch.stack(vectors))

    def gradients(self, rng, second):
        """Both losses on a part of the batch, and the gradient of their sum."""
        texts, samples = self.chat_samples(rng)
        batch = Batch([s[0] for s in samples])
        states = self.model(batch)
        chat_loss = losses(self.model, batch, samples, states)
        injected_loss = torch.zeros(())
        if second:
            injected, samples, inject = self.injected_samples(rng, texts, batch, states)
            injected_loss = losses(self.model, injected, samples, self.model(injected, inject))
        return torch.autograd.grad(chat_loss + injected_loss, self.parameters), float(chat_loss), float(injected_loss)

    def step(self, index):
        args = self.args
        scale = min((index + 1) / 100, 1.0 - index / args.steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * scale
        second = index >= args.inject_from * args.steps
        parts = list(self.pool.map(lambda rng: self.gradients(rng, second), self.rngs))
        for p, *gradients in zip(self.parameters, *(part[0] for part in parts)):
            p.grad = torch.stack(gradients).mean(0)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        return [sum(part[i] for part in parts) / PARTS for i in (1, 2)]

    def evaluate(self, index):
        facts, held = self.world.facts["countries"], self.world.held_out
        groups = {"seen": [c for c in facts if c["name"] not in held][::2], "held": [c for c in facts if c["name"] in held]}
        report = {"step": index, "one": evaluate.answers(self.model, self.world, self.encode, 1),
                  "two": evaluate.answers(self.model, self.world, self.encode, 2)}
        said = {}
        for group, lands in groups.items():
            for hops in (1, 2):
                shares, texts = evaluate.named(self.model, self.world, self.encode, lands, hops)
                report[f"{group} {hops}"] = [round(share, 2) for share in shares]
                said[f"{group} {hops}"] = texts[2][:4]
        score = report["one"] + report["two"] + sum(max(report[f"{g} {h}"]) for g in groups for h in (1, 2))
        save(self.model, self.args.out / "last.pt", optimizers=[o.state_dict() for o in self.optimizers], step=index)
        if score >= self.best:
            self.best = score
            save(self.model, self.args.out / "best.pt")
        print(json.dumps(report), flush=True)
        print("   ", json.dumps(said), flush=True)

    def run(self):
        parameters = sum(p.numel() for p in self.model.parameters())
        print(f"{parameters} parameters, vocabulary {self.model.shape.vocab}", flush=True)
        start, sums = time.time(), [0.0, 0.0]
        for index in range(self.first, self.args.steps):
            for i, loss in enumerate(self.step(index)):
                sums[i] += loss
            if (index + 1) % 100 == 0:
                print(f"step {index + 1}  chat {sums[0] / 100:.4f}  injected {sums[1] / 100:.4f}  "
                      f"{time.time() - start:.0f} s", flush=True)
                sums = [0.0, 0.0]
            if (index + 1) % self.args.eval_every == 0 or index + 1 == self.args.steps:
                self.evaluate(index + 1)


def main():
    args = parse()
    if args.export:
        load(args.export).export(args.out / "checkpoint")
        facts = world_facts.build()
        bpe.save(bpe.train(facts), args.out / "checkpoint")
        world = facts | {"templates": templates()}
        (args.out / "world.json").write_text(json.dumps(world, indent=1, ensure_ascii=False) + "\n")
    else:
        Trainer(args).run()


if __name__ == "__main__":
    main()

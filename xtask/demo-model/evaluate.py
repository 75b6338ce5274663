"""Measures how well a model answers, and how often it names a country from an embedding."""

import random

import torch

from model import Batch
from samples import EOS, FIRST, chat, located
from texts import ATTRIBUTES, ONE_HOP, TWO_HOP


@torch.no_grad()
def greedy_exact(model, samples):
    """The share of samples whose targets are the greedy continuation."""
    batch = Batch([ids for ids, _ in samples])
    hidden = model(batch)[-1]
    right = 0
    for i, (ids, first) in enumerate(samples):
        rows = hidden[batch.first[i] + first - 1:batch.first[i] + len(ids) - 1]
        right += bool((model.logits(rows).argmax(-1) == torch.tensor(ids[first:])).all())
    return right / len(samples)


@torch.no_grad()
def generate(model, prompts, inject, steps=14):
    """Greedy continuations of equally long prompts; `inject` is `(layer, rows, vectors [B, d])` or None."""
    sequences, done = [list(p) for p in prompts], [False] * len(prompts)
    for _ in range(steps):
        batch = Batch(sequences)
        where = None
        if inject is not None:
            layer, rows, vectors = inject
            tokens = (batch.first[:, None] + torch.tensor(rows)).flatten()
            where = torch.full_like(tokens, layer), tokens, vectors.repeat_interleave(len(rows), 0)
        last = model(batch, where)[-1].view(len(sequences), -1, model.shape.d)[:, -1]
        for i, token in enumerate(model.logits(last).argmax(-1).tolist()):
            done[i] |= token == EOS
            sequences[i].append(token)
        if all(done):
            break
    length = len(prompts[0])
    return [s[length:s.index(EOS, length)] if EOS in s[length:] else s[length:] for s in sequences]


def answers(model, world, encode, hops):
    draw, templates = (world.one_hop, ONE_HOP) if hops == 1 else (world.two_hop, TWO_HOP)
    rng = random.Random(0)
    texts = []
    for land in world.facts["countries"]:
        for attribute in ATTRIBUTES:
            vias = [None] if hops == 1 else [v for v in ("landmark", "capital", "city") if v != attribute]
            texts += [draw(rng, land, attribute, rng.choice(templates), *([v] if v else [])) for v in vias]
    return greedy_exact(model, [chat(encode, t, "reply") for t in texts])


@torch.no_grad()
def named(model, world, encode, lands, hops, layers=(1, 2, 3, 4, 5), inject_layer=1):
    """For each layer, the share of lands named by the interpretation of the entity's last token; and the texts."""
    rng = random.Random(1)
    texts = []
    for i, land in enumerate(lands):
        attribute = ATTRIBUTES[i % 3]
        texts.append(world.one_hop(rng, land, attribute, ONE_HOP[0]) if hops == 1
                     else world.two_hop(rng, land, attribute, TWO_HOP[0], "landmark"))
    batch = Batch([encode.message(t) for t in texts])
    states = model(batch)
    at = batch.first + torch.tensor([FIRST + t.entity for t in texts])
    ids, rows = located(encode, 5, "summary")
    shares, said = [], []
    for layer in layers:
        out = generate(model, [ids] * len(texts), (inject_layer, rows, states[layer][at]))
        out = [encode.tokenizer.decode(o) for o in out]
        shares.append(sum(t.country in o for t, o in zip(texts, out)) / len(texts))
        said.append(out)
    return shares, said

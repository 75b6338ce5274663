"""Writes sampling_reference.json: what the processors of transformers leave of some logits, and draws of SplitMix64.

    pip install torch transformers==4.57.1 && python sampling_reference.py

`generate` itself puts the processors in order (`_get_logits_processor`), from a GenerationConfig.
"""

import itertools
import json
from pathlib import Path

import torch
import transformers
from transformers import GenerationConfig, GenerationMixin

# Whether the logits have both signs, then temperature, top_k, top_p, min_p, repetition_penalty.
CASES = [
    (False, 1.0, 0, 1.0, 0.0, 1.0),
    (False, 0.5, 0, 1.0, 0.0, 1.0),
    (False, 2.0, 0, 1.0, 0.0, 1.0),
    (False, 1.0, 5, 1.0, 0.0, 1.0),
    (False, 1.0, 1, 1.0, 0.0, 1.0),
    (False, 1.0, 1000, 1.0, 0.0, 1.0),
    (False, 1.0, 0, 0.9, 0.0, 1.0),
    (False, 1.0, 0, 0.5, 0.0, 1.0),
    (False, 1.0, 0, 0.05, 0.0, 1.0),
    (False, 0.7, 8, 0.8, 0.0, 1.0),
    (False, 1.5, 6, 0.95, 0.0, 1.0),
    (False, 3.0, 20, 0.6, 0.0, 1.0),
    (False, 1.0, 0, 1.0, 0.3, 1.0),
    (False, 1.0, 0, 1.0, 1.0, 1.0),
    (False, 0.6, 0, 1.0, 0.4, 1.0),
    (False, 2.5, 0, 1.0, 0.6, 1.0),
    (False, 0.8, 9, 0.9, 0.5, 1.0),
    (False, 1.0, 0, 1.0, 0.0, 1.2),
    (True, 1.0, 0, 1.0, 0.0, 1.2),
    (True, 1.0, 0, 1.0, 0.0, 0.8),
    (True, 0.7, 7, 1.0, 0.0, 1.5),
    (True, 1.0, 0, 0.8, 0.0, 1.3),
    (True, 1.0, 0, 1.0, 0.3, 2.0),
    (True, 0.6, 12, 0.9, 0.1, 1.1),
    (True, 1.5, 10, 0.95, 0.3, 0.7),
]
# Repeated ids count once.
CONTEXT = [3, 11, 11, 16, 22, 3, 3, 23]
MASK = (1 << 64) - 1


def processed(logits, context, **config):
    context = torch.tensor([context])
    config = GenerationConfig(**config)
    processors = GenerationMixin()._get_logits_processor(config, context.shape[1], context)
    return processors(context, logits[None])[0]


def case(logits, temperature, top_k, top_p, min_p, repetition_penalty):
    config = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "repetition_penalty": repetition_penalty}
    if min_p > 0:
        config["min_p"] = min_p
    if top_p < 1.0:
        before = processed(logits.double(), CONTEXT, do_sample=True, **config | {"top_p": 1.0, "min_p": None})
        falling = before.softmax(-1).sort(descending=True).values.cumsum(-1)
        assert (falling - top_p).abs().min() > 1e-3, "a mass so close to top_p that rounding decides"
    if min_p > 0:
        before = processed(logits.double(), CONTEXT, do_sample=True, **config | {"min_p": None}).softmax(-1)
        assert min_p == 1 or (before / before.max() - min_p).abs().min() > 1e-3, "rounding decides about min_p"
    probabilities = processed(logits.double(), CONTEXT, do_sample=True, **config).softmax(-1)
    assert probabilities[probabilities > 0].min() > 3e-4, "too rare to be sure of a draw"
    return config | {"min_p": min_p, "probabilities": probabilities.tolist()}


def greedy(logits):
    """The token that is chosen without drawing, for contexts and penalties."""
    found = []
    by_rank = logits.argsort(descending=True).tolist()
    for count, penalty in itertools.product(range(13), (1.05, 1.5, 3.0, 0.6)):
        # All of the likeliest but some, so that one of those comes first.
        context = [token for rank, token in enumerate(by_rank[: count + 3]) if rank % 5 != count % 5] + by_rank[-2:]
        scores = processed(logits, context, do_sample=False, repetition_penalty=penalty)
        best, second = scores.topk(2).values.tolist()
        assert best - second > 1e-4
        found.append({"context": context, "repetition_penalty": penalty, "token": scores.argmax().item()})
    return found


def splitmix64(state):
    """The first output of java.util.SplittableRandom(state).nextLong()."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def draw(seed, sequence, step):
    key = splitmix64(splitmix64(splitmix64(seed) ^ sequence) ^ step)
    return {"seed": str(seed), "sequence": str(sequence), "step": str(step), "of_65536": key >> 48}


# Known outputs, from https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64 (state 1234567).
assert splitmix64(1234567) == 6457827717110365317
assert splitmix64((1234567 + 0x9E3779B97F4A7C15) & MASK) == 3203168211198807973

torch.manual_seed(7)
negative = torch.randn(24) * 0.7 - 3.0
sets = [torch.tensor([float(f"{value:.9g}") for value in one.tolist()]) for one in (negative, negative + 2.75)]
cases = [{"both_signs": both} | case(sets[both], *arguments) for both, *arguments in CASES]
counters = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (42, 7, 3), (MASK, MASK, MASK), (1 << 40, 1 << 50, 1 << 60)]
made_by = f"sampling_reference.py, transformers {transformers.__version__}, torch {torch.__version__}"
text = json.dumps(
    {
        "made_by": made_by,
        "logits": [[float(f"{value:.9g}") for value in one.tolist()] for one in sets],
        "logprobs": sets[0].double().log_softmax(-1).tolist(),
        "context": CONTEXT,
        "cases": cases,
        "greedy": greedy(sets[1]),
        "draws": [draw(*counter) for counter in counters],
    }
)
# One case a line.
Path(__file__).with_name("sampling_reference.json").write_text(text.replace("}, {", "},\n{") + "\n")

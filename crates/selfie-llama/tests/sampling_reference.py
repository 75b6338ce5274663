"""Writes sampling_reference.json: what transformers' warpers leave of some logits, and draws of SplitMix64.

    pip install torch transformers==4.57.1 && python sampling_reference.py
"""

import json
from pathlib import Path

import torch
import transformers
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

# temperature, top_k, top_p
CASES = [
    (1.0, 0, 1.0),
    (0.5, 0, 1.0),
    (2.0, 0, 1.0),
    (1.0, 5, 1.0),
    (1.0, 1, 1.0),
    (1.0, 1000, 1.0),
    (1.0, 0, 0.9),
    (1.0, 0, 0.5),
    (1.0, 0, 0.05),
    (0.7, 8, 0.8),
    (1.5, 6, 0.95),
    (3.0, 20, 0.6),
]
MASK = (1 << 64) - 1


def case(logits, temperature, top_k, top_p):
    scores = logits[None].double()
    scores = TemperatureLogitsWarper(temperature)(None, scores)
    if top_k > 0:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1.0:
        falling = scores.softmax(-1).sort(descending=True).values.cumsum(-1)
        assert (falling - top_p).abs().min() > 1e-3, "a mass so close to top_p that rounding decides"
        scores = TopPLogitsWarper(top_p)(None, scores)
    probabilities = scores.softmax(-1)[0]
    assert probabilities[probabilities > 0].min() > 4e-4, "too rare to be sure of a draw"
    return {"temperature": temperature, "top_k": top_k, "top_p": top_p, "probabilities": probabilities.tolist()}


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
logits = torch.randn(24) * 0.7 - 3.0
cases = [case(logits, *arguments) for arguments in CASES]
counters = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (42, 7, 3), (MASK, MASK, MASK), (1 << 40, 1 << 50, 1 << 60)]
made_by = f"sampling_reference.py, transformers {transformers.__version__}, torch {torch.__version__}"
lines = ",\n".join(json.dumps(one) for one in cases)
draws = ",\n".join(json.dumps(draw(*counter)) for counter in counters)
text = f"""{{"made_by": "{made_by}",
"logits": {json.dumps([float(f"{value:.9g}") for value in logits.tolist()])},
"logprobs": {logits.double().log_softmax(-1).tolist()},
"cases": [
{lines}
],
"draws": [
{draws}
]}}
"""
Path(__file__).with_name("sampling_reference.json").write_text(text)

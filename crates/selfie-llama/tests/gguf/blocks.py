"""Writes blocks.json: random blocks of each type that is read, and what they stand for.

    pip install gguf==0.19.0 numpy && python blocks.py

The values are those of the `gguf` package, whose `dequantize` llama.cpp tests bit for bit against ggml's
`dequantize_row_*` (gguf-py/tests/test_quants.py). Scales are random finite f16 bits: subnormal, negative, zero and huge
ones too.
"""

import json
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize

# Where the f16 scales of a block lie.
SCALES = {
    Type.Q4_0: [0],
    Type.Q4_1: [0, 2],
    Type.Q5_0: [0],
    Type.Q5_1: [0, 2],
    Type.Q8_0: [0],
    Type.Q2_K: [80, 82],
    Type.Q3_K: [108],
    Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2],
    Type.Q6_K: [208],
    Type.IQ4_NL: [0],
}
ODD = [0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x3C00, 0xBC01]


def finite_half(rng):
    while True:
        bits = int(rng.integers(0, 1 << 16))
        if bits >> 10 & 31 != 31:
            return bits


def blocks(kind, rng, n):
    _, size = GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for row in range(n):
        for place, at in enumerate(SCALES[kind]):
            bits = ODD[(row + place) % len(ODD)] if row < len(ODD) else finite_half(rng)
            data[row, at : at + 2] = np.frombuffer(bits.to_bytes(2, "little"), dtype=np.uint8)
    return data


def plain(kind, rng, n):
    """Finite values of a type that is no block."""
    if kind == Type.F32:
        return rng.standard_normal((1, n), dtype=np.float32).view(np.uint8)
    halves = np.array([finite_half(rng) for _ in range(n)], dtype=np.uint16)
    if kind == Type.BF16:
        halves[halves >> 7 & 255 == 255] = 0x3F80
    return halves.reshape(1, n).view(np.uint8)


def main():
    rng = np.random.default_rng(20261127)
    cases = []
    for kind in [Type.F32, Type.F16, Type.BF16, *SCALES]:
        long = GGML_QUANT_SIZES[kind][0] == 256
        data = blocks(kind, rng, 10 if long else 16) if kind in SCALES else plain(kind, rng, 32)
        values = dequantize(data, kind).astype(np.float32).reshape(-1)
        assert np.isfinite(values).all(), kind
        bits = values.view(np.uint32)
        cases.append({
            "type": kind.name,
            "id": int(kind),
            "blocks": data.tobytes().hex(),
            "f32": "".join(f"{int(word):08x}" for word in bits),
        })
    lines = ",\n".join(json.dumps(case) for case in cases)
    Path(__file__).with_name("blocks.json").write_text(f"[\n{lines}\n]\n")


main()

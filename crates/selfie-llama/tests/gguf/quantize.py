"""Writes quantize.json: rows of values, and the blocks that ggml makes of them.

    pip install numpy && pip download --no-deps pywhispercpp && unzip pywhispercpp-*.whl && python quantize.py libggml-base.so

ggml is the shared library of that package's wheel (ggml 0.13.1), its function `ggml_quantize_chunk` without an importance
matrix.
"""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np

# Number in ggml, values of a block, bytes of a block.
FORMATS = {
    "q4_0": (2, 32, 18),
    "q4_1": (3, 32, 20),
    "q5_0": (6, 32, 22),
    "q5_1": (7, 32, 24),
    "q8_0": (8, 32, 34),
    "q4_k": (12, 256, 144),
    "q5_k": (13, 256, 176),
    "q6_k": (14, 256, 210),
}

rng = np.random.default_rng(5)
rows = [
    rng.standard_normal(256) * 0.02,
    rng.uniform(-1, 1, 256),
    rng.uniform(0.5, 1.5, 256),
    -rng.exponential(1, 256),
    # Outliers, a block of zeros, and one of a constant.
    np.concatenate([rng.standard_t(2, 160), np.zeros(32), np.full(32, 0.37), rng.standard_normal(32) * 1e-6]),
]
x = np.array(rows, dtype=np.float32)

ggml = ctypes.CDLL(sys.argv[1])
ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
ggml.ggml_quantize_chunk.argtypes = [
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
]
blocks = {}
for name, (number, values, size) in FORMATS.items():
    out = np.zeros(x.size // values * size, dtype=np.uint8)
    written = ggml.ggml_quantize_chunk(number, x.ctypes.data, out.ctypes.data, 0, len(x), x.shape[1], None)
    assert written == out.size, (name, written, out.size)
    blocks[name] = out.tobytes().hex()
result = {"columns": x.shape[1], "values": x.astype("<f4").tobytes().hex(), "blocks": blocks}
Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")

"""What the sweep of `cargo xtask bench` is compared with: the same cells in PyTorch and transformers, on the CPU.

    python sweep.py MODEL_DIR --prompt TEXT --cells 64 --layers 22 --tokens 4,5,6,7 --new 20 [--dtype bfloat16] [--batch 64] [--threads N]

Cells go through the tokens first, then the layers, and begin again after the last one. Prints a JSON line: seconds of the
sweep, load_s, and peak_rss_mib of the process.
"""

import argparse
import json
import resource
import time

import torch

from hooks import open_model, sweep


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--cells", type=int, required=True)
    parser.add_argument("--layers", type=int, required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--new", type=int, required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    start = time.perf_counter()
    model, tokenizer = open_model(args.model, args.dtype, "cpu")
    load = time.perf_counter() - start
    tokens = [int(token) for token in args.tokens.split(",")]
    cells = [(i // len(tokens) % args.layers, tokens[i % len(tokens)]) for i in range(args.cells)]
    start = time.perf_counter()
    results = sweep(model, tokenizer, args.prompt, cells, args.new, args.batch)
    seconds = time.perf_counter() - start
    assert sum(len(text) for text, _ in results) == args.cells
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"seconds": seconds, "load_s": load, "peak_rss_mib": peak}))


if __name__ == "__main__":
    main()

"""The baseline of the sweep in `cargo xtask bench`: the same cells in PyTorch and transformers, on the CPU.

    python sweep.py MODEL_DIR --prompt TEXT --cells 64 --layers 22 --tokens 4,5,6,7 --new 20 [--dtype bfloat16] [--batch 64] [--threads N]
        [--original CHECKOUT]

With --original, the package in that checkout of tonychenxyz/selfie runs instead, which needs transformers 4.34.

Cells go through the tokens first, then through the layers, and start over after the last one. Prints a JSON line:
seconds of the sweep, load_s, and peak_rss_mib of the process.
"""

import argparse
import json
import resource
import sys
import time

import torch

import hooks


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
    parser.add_argument("--original")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    start = time.perf_counter()
    model, tokenizer = hooks.open_model(args.model, args.dtype, "cpu")
    load = time.perf_counter() - start
    tokens = [int(token) for token in args.tokens.split(",")]
    cells = [(i // len(tokens) % args.layers, tokens[i % len(tokens)]) for i in range(args.cells)]
    sweep = original_sweep(args.original) if args.original else hooks.sweep
    start = time.perf_counter()
    results = sweep(model, tokenizer, args.prompt, cells, args.new, args.batch)
    seconds = time.perf_counter() - start
    assert sum(relevancies.numel() for _, relevancies in results) == args.cells * args.new
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"seconds": seconds, "load_s": load, "peak_rss_mib": peak}))


def original_sweep(checkout):
    """The original package's interpret(), with the signature of hooks.sweep()."""
    sys.path.insert(0, checkout)
    from selfie.interpret import InterpretationPrompt, interpret

    def sweep(model, tokenizer, prompt, cells, new_tokens, batch):
        results = interpret(
            original_prompt=prompt,
            tokenizer=tokenizer,
            interpretation_prompt=InterpretationPrompt(tokenizer, hooks.INTERPRETATION),
            model=model,
            tokens_to_interpret=cells,
            bs=batch,
            max_new_tokens=new_tokens,
            k=hooks.INJECT_LAYER,
        )
        return [(text, torch.tensor(scores)) for text, scores in zip(results["interpretation"], results["relevancy_score"])]

    return sweep


if __name__ == "__main__":
    main()

"""What `gpu-bench` is compared with: the same work in PyTorch and transformers on the same GPU.

    python gpu.py MODEL_DIR --out FILE [--device cuda] [--tokens 19] [--new 30] [--batches 64,128,256,608]

Writes an object of name and value, with the names of gpu-bench.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

from hooks import greedy, open_model, sweep

PROMPT = "[INST] What's highest mountain in the world? [/INST] "


class Clock:
    """Times of work on a device."""

    def __init__(self, device):
        self.device = device

    def wait(self):
        if self.device != "cpu":
            torch.cuda.synchronize()

    def once(self, work):
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def median(self, work, samples=7, sample_s=0.05):
        """The median time of short work, many of which are timed together."""
        for _ in range(3):
            work()
        count = max(1, min(4000, int(sample_s / self.once(work))))

        def many():
            for _ in range(count):
                work()

        return statistics.median(self.once(many) / count for _ in range(samples))


def limits(clock):
    """The copy and the matrix product that gpu-bench begins with."""
    source = torch.randn(1 << 29, device=clock.device)
    target = torch.empty_like(source)
    seconds = clock.median(lambda: target.copy_(source))
    figures = {"device copy, bytes read and written": 2 * 4 * (1 << 29) / seconds / 1e9}
    a, b = (torch.randn(8192, 8192, device=clock.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = clock.median(lambda: a @ b.T)
    figures["bf16 matrix product 8192^3, f32 out"] = 2 * 8192**3 / seconds / 1e12
    return figures


def attention(clock):
    """Flash attention of 32 heads of 128 over 8 heads of keys and values."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    figures = {}
    for branches, tokens in [(64, 32), (64, 512), (8, 4096)]:

        def heads(n, length):
            return torch.randn(branches, n, length, 128, device=clock.device, dtype=torch.bfloat16)

        keys, values = heads(8, tokens), heads(8, tokens)
        for name, queries, causal in [("prompt", heads(32, tokens), True), ("decode", heads(32, 1), False)]:

            def attend():
                F.scaled_dot_product_attention(queries, keys, values, is_causal=causal, enable_gqa=True)

            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                figures[f"attention_{name} {branches} x {tokens}"] = clock.median(attend) * 1e6
    return figures


@torch.no_grad()
def decode_steps(model, clock):
    """Milliseconds of a greedy step after prompts of 19 tokens."""
    figures = {}
    vocab = model.config.vocab_size
    for batch in [1, 8]:
        ids = torch.tensor([[(31 * i + 7 * j + 5) % vocab for j in range(19)] for i in range(batch)], device=clock.device)
        times = []
        for steps in [20, 148]:
            times.append(min(clock.once(lambda: greedy(model, ids, steps)) for _ in range(3)))
        figures[f"decode step, batch {batch}"] = (times[1] - times[0]) / 128 * 1e3
    return figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--out", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tokens", type=int, default=19)
    parser.add_argument("--new", type=int, default=30)
    parser.add_argument("--batches", default="64,128,256,608")
    parser.add_argument("--show", action="store_true", help="print the text and relevancies of each cell")
    args = parser.parse_args()
    clock = Clock(args.device)
    figures = {}
    if args.device != "cpu":
        figures |= limits(clock) | attention(clock)
    model, tokenizer = open_model(args.model, args.dtype, args.device)
    if args.device != "cpu":
        figures |= decode_steps(model, clock)
    cells = [(layer, token) for layer in range(model.config.num_hidden_layers) for token in range(args.tokens)]
    prompt = PROMPT
    while len(tokenizer(prompt)["input_ids"]) < args.tokens:
        prompt += PROMPT
    best = None
    for batch in map(int, args.batches.split(",")):
        try:

            def run(new_tokens):
                return sweep(model, tokenizer, prompt, cells, new_tokens, batch)

            if args.device != "cpu":
                run(2)
            seconds = clock.once(lambda: run(args.new))
        except torch.OutOfMemoryError:
            print(f"sweep, batch {batch}: out of memory")
            torch.cuda.empty_cache()
            continue
        print(f"sweep, batch {batch}: {seconds:.2f} s")
        best = seconds if best is None else min(best, seconds)
        if args.show:
            for text, relevancy in run(args.new):
                for ids, scores in zip(text.tolist(), relevancy.tolist()):
                    print(json.dumps({"new_ids": ids, "relevancy_score": scores}))
    figures[f"sweep, {len(cells)} cells x {args.new} tokens, relevancy on"] = best
    with open(args.out, "w") as file:
        json.dump({name: value for name, value in figures.items() if value is not None}, file, indent=2)


if __name__ == "__main__":
    main()

"""The baseline of `gpu-bench`: the same work in PyTorch and transformers on the same GPU.

    python gpu.py MODEL_DIR --out FILE [--device cuda] [--tokens 19] [--new 30] [--batches 64,128,256,608]

Writes an object of name and value, with the names of gpu-bench, after each part.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

from hooks import greedy, open_model, sweep

PROMPT = "[INST] What's highest mountain in the world? [/INST] "

# Outputs and inputs of the products in a llama-2-7b's layer, and its head.
PRODUCTS = [(12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008), (32000, 4096)]


class Clock:
    """Times of work on a device."""

    def __init__(self, device):
        self.device = device

    def wait(self):
        if self.device != "cpu":
            torch.cuda.synchronize()

    def once(self, work):
        """Host time in seconds, for work with many steps."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def median(self, work, samples=5, sample_s=0.03):
        """Device time in seconds for short work, which gets the number of its round. A graph of many rounds is
        replayed between two events."""
        for i in range(3):
            work(i)
        count = max(1, min(500, int(sample_s / self.once(lambda: work(0)))))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(count):
                work(i)
        graph.replay()
        times = []
        for _ in range(samples):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3 / count)
        return statistics.median(times)


def limits(clock):
    """The copy and the matrix product that gpu-bench starts with."""
    source = torch.randn(1 << 29, device=clock.device)
    target = torch.empty_like(source)
    seconds = clock.median(lambda _: target.copy_(source))
    yield "device copy, bytes read and written", 2 * 4 * (1 << 29) / seconds / 1e9
    a, b = (torch.randn(8192, 8192, device=clock.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = clock.median(lambda _: a @ b.T)
    yield "bf16 matrix product, f32 out", 2 * 8192**3 / seconds / 1e12


def products(clock):
    """Products of few and of many rows, bf16 in and out, with alternating weights."""
    for n, k in PRODUCTS:
        sets = max(1, min(8, (256 << 20) // (2 * n * k)))
        weights = [torch.randn(n, k, device=clock.device, dtype=torch.bfloat16) for _ in range(sets)]
        for m in [1, 8, 16, 64, 608, 4096]:
            x = torch.randn(m, k, device=clock.device, dtype=torch.bfloat16)
            yield f"product {m} x {n} x {k}", clock.median(lambda i: x @ weights[i % sets].T) * 1e6


def attention(clock):
    """Attention of 32 heads of 128 over 8 heads of keys and values: the faster of flash attention and cuDNN."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    for branches, tokens in [(64, 32), (64, 512), (8, 4096)]:

        def heads(n, length):
            return torch.randn(branches, n, length, 128, device=clock.device, dtype=torch.bfloat16)

        keys, values = heads(8, tokens), heads(8, tokens)
        for name, queries, causal in [("prompt", heads(32, tokens), True), ("decode", heads(32, 1), False)]:

            def attend(_):
                F.scaled_dot_product_attention(queries, keys, values, is_causal=causal, enable_gqa=True)

            times = {}
            for backend in [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]:
                try:
                    with sdpa_kernel(backend):
                        times[backend.name] = clock.median(attend) * 1e6
                except RuntimeError as error:
                    print(f"{backend.name} refuses attention_{name} {branches} x {tokens}: {str(error).splitlines()[0]}")
            for backend, microseconds in times.items():
                print(f"attention_{name} {branches} x {tokens}: {microseconds:.1f} us by {backend}")
            if times:
                yield f"attention_{name} {branches} x {tokens}", min(times.values())


@torch.no_grad()
def decode_steps(model, clock):
    """Milliseconds per greedy step after prompts of 19 tokens."""
    vocab = model.config.vocab_size
    for batch in [1, 8, 64]:
        ids = torch.tensor([[(31 * i + 7 * j + 5) % vocab for j in range(19)] for i in range(batch)], device=clock.device)
        greedy(model, ids, 4)
        times = []
        for steps in [8, 40]:
            times.append(min(clock.once(lambda: greedy(model, ids, steps)) for _ in range(2)))
        yield f"decode step, batch {batch}", (times[1] - times[0]) / 32 * 1e3


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

    def keep(named):
        for name, value in named:
            print(f"{name}: {value:.3f}", flush=True)
            figures[name] = value
            with open(args.out, "w") as file:
                json.dump(figures, file, indent=2)

    model, tokenizer = open_model(args.model, args.dtype, args.device)
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
        best = seconds if best is None else min(best, seconds)
        keep([(f"sweep, batch {batch}", seconds), (f"sweep, {len(cells)} cells x {args.new} tokens, relevancy on", best)])
        if args.show:
            for text, relevancy in run(args.new):
                for ids, scores in zip(text.tolist(), relevancy.tolist()):
                    print(json.dumps({"new_ids": ids, "relevancy_score": scores}))
    if args.device != "cpu":
        keep(decode_steps(model, clock))
        del model
        keep(limits(clock))
        keep(products(clock))
        keep(attention(clock))


if __name__ == "__main__":
    main()

"""What `gpu-bench` is compared with: the same work in PyTorch and transformers on the same GPU.

    python gpu.py MODEL_DIR --out FILE [--device cuda] [--tokens 19] [--new 30] [--batches 64,128,256,608]

Writes an object of name and value, with the names of gpu-bench. A sweep is done as programs with hooks do it: a batch of
cells decodes with a KV cache while a hook writes each cell's embedding over the placeholders in the prompt pass; relevancies
take two more passes over prompt and text, one of them with the hook.
"""

import argparse
import json
import os
import statistics
import time

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

PROMPT = "[INST] What's highest mountain in the world? [/INST] "
INTERPRETATION = ["[INST]", 0, 0, 0, 0, 0, "[/INST] Sure, I will summarize the message:"]
INJECT_LAYER = 1


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


def greedy(model, ids, new_tokens):
    """The next `new_tokens` ids of each row."""
    out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
    chosen = [out.logits[:, -1].argmax(-1)]
    while len(chosen) < new_tokens:
        out = model(input_ids=chosen[-1][:, None], past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)
        chosen.append(out.logits[:, -1].argmax(-1))
    return torch.stack(chosen, 1)


def located(tokenizer):
    """The ids of the interpretation prompt, and where its placeholders are."""
    text, places = "", []
    for part in INTERPRETATION:
        before = len(tokenizer(text)["input_ids"])
        text += "_ " if part == 0 else part
        if part == 0:
            places += range(before, len(tokenizer(text)["input_ids"]))
    return tokenizer(text)["input_ids"], places


@torch.no_grad()
def sweep(model, tokenizer, device, tokens, new_tokens, batch, layers):
    """Texts and relevancies of all cells: one tensor `[batch, new_tokens]` of each for each batch."""
    prompt = PROMPT
    while len(tokenizer(prompt)["input_ids"]) < tokens:
        prompt += PROMPT
    source = torch.tensor([tokenizer(prompt)["input_ids"]], device=device)
    states = model.model(input_ids=source, output_hidden_states=True).hidden_states
    cells = [(layer, token) for layer in range(layers) for token in range(tokens)]
    ids, places = located(tokenizer)
    ids, places = torch.tensor([ids], device=device), torch.tensor(places, device=device)
    vectors = None

    def inject(_, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        if vectors is not None and hidden.shape[1] > 1:
            hidden[:, places] = vectors[:, None]

    hook = model.model.layers[INJECT_LAYER].register_forward_pre_hook(inject, with_kwargs=True)
    results = []
    for at in range(0, len(cells), batch):
        group = cells[at : at + batch]
        vectors = torch.stack([states[layer][0, token] for layer, token in group])
        prompts = ids.expand(len(group), -1)
        text = greedy(model, prompts, new_tokens)
        whole = torch.cat([prompts, text], 1)
        with_it = probabilities(model, whole, text)
        vectors = None
        without = probabilities(model, whole, text)
        results.append((text, (with_it - without).abs()))
    hook.remove()
    return results


def probabilities(model, whole, text):
    """Of each token of a text, after all that comes before it."""
    logits = model(input_ids=whole[:, :-1], use_cache=False, logits_to_keep=text.shape[1]).logits
    logprobs = torch.stack([row.float().log_softmax(-1) for row in logits])
    return logprobs.gather(-1, text[..., None])[..., 0].exp()


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
    with open(os.path.join(args.model, "tokenizer_config.json")) as file:
        names = json.load(file)
    special = {name: names[name] for name in ["bos_token", "eos_token"] if isinstance(names.get(name), str)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=os.path.join(args.model, "tokenizer.json"), **special)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).eval().to(args.device)
    if args.device != "cpu":
        figures |= decode_steps(model, clock)
    layers = model.config.num_hidden_layers
    cells = layers * args.tokens
    best = None
    for batch in map(int, args.batches.split(",")):
        try:

            def run(new_tokens):
                return sweep(model, tokenizer, args.device, args.tokens, new_tokens, batch, layers)

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
    figures[f"sweep, {cells} cells x {args.new} tokens, relevancy on"] = best
    with open(args.out, "w") as file:
        json.dump({name: value for name, value in figures.items() if value is not None}, file, indent=2)


if __name__ == "__main__":
    main()

"""The baseline of `cargo xtask bench --only control`: forward, backward and Adam of one MLP in PyTorch, on the CPU.

    python mlp_step.py --d-model 4096 --ffn 11008 --rows 1 --steps 5 [--threads N] [--adam default|fused]

Prints a JSON line: step_s, the time of each step after a first one that allocates; peak_rss_mib of the process.
"""

import argparse
import json
import resource
import time

import torch


class Mlp(torch.nn.Module):
    def __init__(self, d_model, ffn):
        super().__init__()
        self.gate_proj = torch.nn.Linear(d_model, ffn, bias=False)
        self.up_proj = torch.nn.Linear(d_model, ffn, bias=False)
        self.down_proj = torch.nn.Linear(ffn, d_model, bias=False)

    def forward(self, x):
        return self.down_proj(torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--d-model", type=int, default=4096)
    parser.add_argument("--ffn", type=int, default=11008)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--adam", choices=["default", "fused"], default="default")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    mlp = Mlp(args.d_model, args.ffn)
    x, residual, target = (torch.randn(args.rows, args.d_model) for _ in range(3))
    adam = torch.optim.Adam(mlp.parameters(), lr=3e-4, fused=args.adam == "fused" or None)
    times = []
    for _ in range(args.steps + 1):
        start = time.perf_counter()
        loss = torch.nn.functional.mse_loss(mlp(x) + residual, target)
        adam.zero_grad()
        loss.backward()
        adam.step()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"step_s": times[1:], "peak_rss_mib": peak, "torch": torch.__version__, "adam": args.adam}))


if __name__ == "__main__":
    main()

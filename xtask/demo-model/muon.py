"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum with orthogonalized matrices.

It learns rare facts in far fewer steps than AdamW, and steps are expensive here.
"""

import torch


def orthogonal(m, steps=5):
    """Approximates `U V^T` for `m = U S V^T`, by a Newton-Schulz iteration of degree five."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = m if m.shape[0] <= m.shape[1] else m.T
    x = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if m.shape[0] <= m.shape[1] else x.T


class Muon(torch.optim.Optimizer):
    """For `(parameter, heights of the matrices stacked in it)` pairs."""

    def __init__(self, stacked, lr, momentum=0.95, decay=0.0):
        self.heights = [heights for _, heights in stacked]
        super().__init__([p for p, _ in stacked], {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p, heights in zip(group["params"], self.heights):
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(state["momentum"], group["momentum"])
                parts = [orthogonal(m) * max(1, m.shape[0] / m.shape[1]) ** 0.5 for m in update.split(heights)]
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(torch.cat(parts), alpha=-group["lr"])

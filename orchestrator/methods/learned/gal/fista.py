"""FISTA: accelerated proximal steps on non-negative gates under an l1 penalty (GAL)."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def fista(gates: Tensor, before: Tensor, gradient: Tensor, *, momentum: float, rate: float, weight: float) -> Tensor:
    """Return max(0, soft(y - rate * gradient, rate * weight)) with y = gates + momentum (gates - before)."""
    moved = gates + momentum * (gates - before) - rate * gradient
    return (moved - rate * weight).clamp(min=0)


def momenta(a: float) -> tuple[float, float]:
    """Return FISTA's factor (a - 1) / a' and its next a' = (1 + sqrt(1 + 4 a^2)) / 2."""
    following = (1 + (1 + 4 * a * a) ** 0.5) / 2
    return (a - 1) / following, following

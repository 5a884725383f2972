"""Masked weights: a layer's weight, its mask, and the thresholds that change the mask (DNS)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.methods.parts.reparametrization import straight_through


class MaskedWeight:
    """A layer's weight, its mask, and the thresholds that change the mask."""

    def __init__(self, name: str, layer: nn.Conv2d | nn.Linear, c: float) -> None:
        self.name = name
        self.layer = layer
        self.weight = layer.weight
        size = self.weight.detach().abs()
        count = (size > 0).sum().clamp(min=1)
        self.mean = size.sum() / count
        self.deviation = (size.square().sum() / count - self.mean.square()).clamp(min=1e-24).sqrt()
        self.c = c
        self.quota: int | None = None
        """Number of weights to mask for the target; None where ``c`` decides."""
        self.mask = torch.ones_like(self.weight, requires_grad=False)

    def effective(self, weight: Tensor) -> Tensor:
        return straight_through(weight, self.mask)

    def threshold(self) -> Tensor:
        if self.quota is None:
            return (self.mean + self.c * self.deviation).clamp(min=0)
        if self.quota == 0:
            return torch.zeros_like(self.mean)
        return self.weight.detach().abs().flatten().kthvalue(self.quota).values

    def update(self) -> None:
        """Mask weights up to 0.9 thresholds, restore those above 1.1, leave those between."""
        threshold, size = self.threshold(), self.weight.abs()
        self.mask = torch.where(size <= 0.9 * threshold, 0.0, torch.where(size > 1.1 * threshold, 1.0, self.mask))

    def meet_quota(self) -> None:
        """Mask exactly the ``quota`` smallest weights, where there is a quota."""
        if self.quota is not None:
            lowest = self.weight.abs().flatten().argsort(stable=True)[: self.quota]
            mask = torch.ones(self.weight.numel(), device=self.weight.device)
            self.mask = mask.index_fill(0, lowest, 0.0).view(self.weight.shape)

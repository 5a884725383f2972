"""Learned masks: numbers m of weights or filters; those with m > 0 are used by the network (AutoPrune)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from orchestrator.methods.base import filters, per_unit, unit_of_channel
from orchestrator.methods.parts.gates import gate_sites
from orchestrator.methods.parts.reparametrization import Reparametrization, straight_through
from orchestrator.surgery.groups import ChannelGroup


class WeightMask:
    """An m for every weight of one layer."""

    cost = 1.0

    def __init__(self, name: str, layer: nn.Conv2d | nn.Linear, start: float) -> None:
        self.name = name
        self.weights = [layer.weight]
        self.m = torch.full_like(layer.weight, start, requires_grad=False)
        self.through = False
        """Whether the gradient reaches unused weights."""
        self._reparametrization = Reparametrization(layer, self._effective)

    def task_term(self, gradients: list[Tensor]) -> Tensor:
        """Return dL/dt sgn(w), of the shape of m."""
        return gradients[0] * self.weights[0].sign()

    def remove(self) -> None:
        self._reparametrization.remove()

    def _effective(self, weight: Tensor) -> Tensor:
        used = (self.m > 0).to(weight.dtype)
        return straight_through(weight, used) if self.through else weight * used


class FilterMask:
    """An m for every unit of one channel group. ``cost``: the weight of its m in the regulariser."""

    def __init__(self, group: ChannelGroup, model: nn.Module, start: float, cost: float) -> None:
        self.name = group.name
        self.cost = cost
        producers = [(layer.weight, channels) for _, layer, channels in filters(group, model)]
        self.weights = [weight for weight, _ in producers]
        self._channels = [channels for _, channels in producers]
        self.m = torch.full((group.size,), start, device=self.weights[0].device)
        self.through = False
        self._handles: list[RemovableHandle] = []
        for name, channels in gate_sites(model, group):
            site = model.get_submodule(name)
            units = unit_of_channel(channels, len(site.get_parameter("weight"))).to(self.m.device)
            self._handles.append(site.register_forward_hook(_Gating(self, units)))

    def task_term(self, gradients: list[Tensor]) -> Tensor:
        """Return dL/dt sgn(w) summed over the weights of each unit. Shape (units,)."""
        products = [g * w.sign() for g, w in zip(gradients, self.weights, strict=True)]
        parts = [per_unit(t.flatten(1).sum(1), c) for t, c in zip(products, self._channels, strict=True)]
        return torch.stack(parts).sum(0)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


@dataclass
class _Gating:
    mask: FilterMask
    unit_of_channel: Tensor
    """Index of each channel's unit; one past the last for channels of other groups, which are always used."""

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        used = torch.cat([self.mask.m > 0, self.mask.m.new_ones(1, dtype=torch.bool)])
        factor = used[self.unit_of_channel].to(output.dtype).view(1, -1, *[1] * (output.dim() - 2))
        return straight_through(output, factor) if self.mask.through else output * factor

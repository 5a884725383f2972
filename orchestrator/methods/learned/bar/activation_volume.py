"""The activation volume of a network, and the factor of the penalty on a volume near its budget (BAR)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.methods.base import filters
from orchestrator.surgery.groups import ChannelGroup

_SLOPE = 10.0
_CEILING = 1e10


@torch.no_grad()
def unit_areas(model: nn.Module, groups: Sequence[ChannelGroup], example: Tensor) -> Tensor:
    """Return the size of each unit's maps behind convolutions and linear layers. Shape (units of all groups,)."""
    producers = [[(name, len(channels[0])) for name, _, channels in filters(group, model)] for group in groups]
    positions: dict[str, int] = {}

    def record(name: str) -> Any:
        return lambda module, inputs, output: positions.update({name: output[0, 0].numel()})

    handles = [model.get_submodule(name).register_forward_hook(record(name)) for own in producers for name, _ in own]
    training = {module: module.training for module in model.modules()}
    model.eval()(example)
    for module, mode in training.items():
        module.training = mode
    for handle in handles:
        handle.remove()
    areas = [sum(positions[name] * count for name, count in own) for own in producers]
    return torch.cat([torch.full((group.size,), float(area)) for group, area in zip(groups, areas, strict=True)]).to(
        example.device
    )


def budget_factor(volume: Tensor, floor: float, budget: float) -> Tensor:
    """Return f = r^2 / (1 - r) of r = (volume - floor) / (budget - floor); 0 below the floor, 1e10 at the budget."""
    r = ((volume - floor) / (budget - floor)).clamp(min=0)
    return torch.where(r < 1, r.square() / (1 - r).clamp(min=1e-12), _CEILING).clamp(max=_CEILING)


def progress(share: float) -> float:
    """Return the budget's progress: a sigmoid of slope 10, from 0 at the training's start to 1 at its end."""
    first, now = (1 / (1 + math.exp(_SLOPE * (0.5 - x))) for x in (0.0, min(share, 1.0)))
    return (now - first) / (1 - 2 * first)

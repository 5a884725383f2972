"""Optimal brain damage (LeCun et al. 1990)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from orchestrator.methods.base import Method, PruneTask, Scores, filters, per_unit
from orchestrator.methods.one_shot.curvature import (
    from_blocks,
    layers,
    some_images,
    squared_gradients,
    weights_by_block,
)
from orchestrator.plugins import Count
from orchestrator.surgery.selection import Scope


@dataclass
class OptimalBrainDamage(Method):
    """Weights, or filters, whose removal raises the loss least by a diagonal second-order estimate are removed first.

    Paper 002, section 2.2 (OBD): saliency of a weight = h w^2 / 2 with h = E[(dL/dw)^2], the diagonal of the empirical
    Fisher matrix over single training images; all layers are ranked together. A filter's saliency is the sum of its
    weights', and channels that several layers share have the sum of their layers'.

    Differs from the paper: the empirical Fisher replaces LeCun's diagonal second derivatives; weights are removed at
    once unless the target has steps.
    """

    images: Count = 10000
    """Training images that h is the mean over; many, as few images of a well trained network have large gradients."""
    granularities: ClassVar[tuple[str, ...]] = ("weights", "channels")
    default_scope: ClassVar[Scope] = "global"
    reads_data: ClassVar[bool] = True
    paper: ClassVar[str] = "002, section 2.2"

    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        curvature = squared_gradients(model, some_images(task, self.images), task.loss)
        saliency = {
            name: from_blocks(layer, curvature[name] * weights_by_block(layer).square() / 2)[0]
            for name, layer in layers(model)
        }
        if task.target.granularity == "weights":
            return saliency
        return {
            group.name: torch.stack(
                [
                    per_unit(saliency[f"{name}.weight" if name else "weight"].flatten(1).sum(1), channels)
                    for name, _, channels in filters(group, model)
                ]
            ).sum(0)
            for group in task.groups
        }

"""Random pruning, the control for every criterion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from orchestrator.methods.base import Method, PruneTask, Scores, prunable_weights
from orchestrator.surgery.selection import Scope


@dataclass
class Random(Method):
    """Filters or weights are removed at random: scores are drawn from U(0, 1).

    Paper 001 (Network Pruning That Matters), random pruning: the same per-layer counts as the criterion it is
    compared with, scores i.i.d. uniform. With ``scope: uniform`` every layer loses the same share; with ``global`` all
    units are ranked together.
    """

    granularities: ClassVar[tuple[str, ...]] = ("channels", "weights")
    default_scope: ClassVar[Scope] = "uniform"
    paper: ClassVar[str] = "001, section 1.4"

    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        if task.target.granularity == "weights":
            return {
                name: torch.rand(weight.shape, generator=task.generator).to(weight.device)
                for name, weight in prunable_weights(model)
            }
        return {group.name: torch.rand(group.size, generator=task.generator) for group in task.groups}

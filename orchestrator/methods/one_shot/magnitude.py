"""Weight pruning by magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from orchestrator.methods.base import Method, PruneTask, Scores, prunable_weights
from orchestrator.surgery.selection import Scope


@dataclass
class Magnitude(Method):
    """Single weights with the smallest absolute value are removed first, over all layers or layer by layer.

    Paper 001, section 1.4 (weight-level magnitude): one threshold on |w| over all weights; ``target.scope: uniform``
    takes the same share of every layer instead.

    Differs from the paper: linear layers are pruned too, and in one step.
    """

    granularities: ClassVar[tuple[str, ...]] = ("weights",)
    default_scope: ClassVar[Scope] = "global"
    paper: ClassVar[str] = "001, section 1.4"

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        return {name: weight.detach().abs() for name, weight in prunable_weights(model)}

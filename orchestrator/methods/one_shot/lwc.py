"""Learning weights and connections (Han et al. 2015)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores, prunable_weights
from orchestrator.plugins import Positive
from orchestrator.surgery.selection import Scope


@dataclass
class LearningWeightsAndConnections(Method):
    """Single weights below a multiple of their layer's standard deviation go.

    Paper 002, section 2.2 (LWC, Han et al. 2015): threshold of a layer = quality * std(w). With a sparsity given, the
    quality follows from it: weights are ranked by |w| / std(w) over all layers, so that one quality holds for all.

    Differs from the paper: one quality for all layers, where the paper tunes one for each; what retraining and dropout
    do is the retraining schedule's and the model's; nothing is repeated unless the target has steps, and a layer's
    standard deviation is then that of the weights that are left.
    """

    quality: Positive = 1.0
    """Where the target has no sparsity: the threshold in standard deviations of the layer's weights."""
    granularities: ClassVar[tuple[str, ...]] = ("weights",)
    default_scope: ClassVar[Scope] = "global"
    finds_sparsity: ClassVar[bool] = True
    paper: ClassVar[str] = "002, section 2.2"

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        return {name: weight.detach().abs() / _spread(weight.detach()) for name, weight in prunable_weights(model)}

    def keep(self, scores: Scores) -> Mapping[str, Tensor]:
        return {name: score >= self.quality for name, score in scores.items()}


def _spread(weight: Tensor) -> Tensor:
    """Standard deviation of the weights that have not gone (are not zero)."""
    left = (weight != 0).to(weight.dtype)
    count = left.sum().clamp_min(1)
    centred = (weight - weight.sum() / count) * left
    # Weights that are all alike have no spread; none of them is below it then.
    return (centred.square().sum() / count).sqrt().clamp_min(torch.finfo(weight.dtype).tiny)

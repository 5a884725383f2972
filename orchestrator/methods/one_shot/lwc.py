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
    """Single weights below a multiple of their layer's standard deviation are removed.

    Paper 002, section 2.2 (LWC, Han et al. 2015): threshold of a layer = quality * std(w). With a sparsity given, the
    quality follows from it: weights are ranked by |w| / std(w) over all layers, so that one quality holds for all.

    Differs from the paper: one quality for all layers, where the paper tunes one for each; retraining and dropout are
    those of the retraining schedule and the model; pruning is not repeated unless the target has steps, and a layer's
    standard deviation is then that of the weights that remain.
    """

    quality: Positive = 1.0
    """The threshold in standard deviations of the layer's weights, where the target has no sparsity."""
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
    """Return the standard deviation of the weights that are not zero (not removed in earlier steps)."""
    remaining = (weight != 0).to(weight.dtype)
    count = remaining.sum().clamp_min(1)
    centred = (weight - weight.sum() / count) * remaining
    # Equal weights have a deviation of zero; clamped, so that the scores stay finite and none is below the threshold.
    return (centred.square().sum() / count).sqrt().clamp_min(torch.finfo(weight.dtype).tiny)

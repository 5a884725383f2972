"""Functionality transition: how many filters respond to another pattern after retraining."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from orchestrator.methods.one_shot.functionality.activation_maximisation import filter_patterns
from orchestrator.surgery.groups import channel_groups


def functionality_transition(
    before: nn.Module,
    after: nn.Module,
    clusters: Mapping[str, Tensor],
    start: Tensor,
    *,
    ascent_steps: int = 100,
    step_size: float = 0.1,
) -> dict[str, float]:
    """Return by layer the share of filters whose nearest original cluster is another one after retraining.

    ``before``, ``after``: the pruned network before and after retraining (the same shape; all their filters are
    survivors). ``clusters``: for each layer the centroids (clusters, pixels) of the dense network's patterns
    (`activation_maximisation.centroids`). ``start``: the image (1, channels, height, width) that those patterns
    started from. A layer that has one filter left is no longer a channel group and is left out.

    Paper 000, section 1.3. Differs from the paper: it states only what is plotted; the use of the nearest centroid is
    chosen here.
    """
    shares: dict[str, float] = {}
    for group in channel_groups(before, start):
        if group.name in clusters:
            labels = [
                _nearest(
                    filter_patterns(m, group, start, ascent_steps=ascent_steps, step_size=step_size),
                    clusters[group.name],
                )
                for m in (before, after)
            ]
            shares[group.name] = float((labels[0] != labels[1]).double().mean())
    return shares


def _nearest(patterns: Tensor, centroids: Tensor) -> Tensor:
    """Return the index of the nearest centroid of each pattern. Shape (units,)."""
    return torch.cdist(patterns, centroids.to(patterns)).argmin(1)

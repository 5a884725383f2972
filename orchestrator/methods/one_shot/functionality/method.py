"""Functionality-oriented filter pruning (Qin et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores
from orchestrator.methods.one_shot.functionality.activation_maximisation import (
    centroids,
    cluster,
    filter_patterns,
    shared_start,
)
from orchestrator.methods.one_shot.functionality.contribution import contribution_index
from orchestrator.methods.one_shot.functionality.filter_clusters import above_mean, cluster_counts, removed
from orchestrator.methods.one_shot.functionality.functionality_transition import functionality_transition
from orchestrator.plugins import Count, Positive
from orchestrator.surgery.selection import ChannelSelection, Scope, Selection

_LABELS, _CONTRIBUTION = "clusters/", "contribution/"


@dataclass
class Functionality(Method):
    """Filters that respond to the same pattern are redundant: of each cluster the least contributing are removed first.

    Paper 000, sections 1.1 to 1.3. The pattern that a filter responds to most is found by activation maximisation; the
    patterns of a layer are clustered by k-means; the contribution of filter i is I = (1/N) sum_n mean_hw |dz_y / dA|
    with the true class's logit z_y and the filter's feature map A, on the calibration images. To remove n filters of a
    layer, each cluster c gives up its share of them, in proportion to |c| - 1, lowest I first; where that is not
    enough, whole clusters are removed, lowest I of their best filter first. Without a sparsity in the target: every
    filter with I below ``pr`` times its cluster's mean is removed, but never all of a cluster.

    Differs from the paper: it states neither the ascent's steps nor the rule by which clusters share n, nor what its
    Pr multiplies: all are chosen here. The number of clusters, where not printed, is the elbow of Ward's sums of
    squares. Channels that several layers share are scored by the first of them.
    """

    clusters: Literal["elbow", "printed"] | dict[str, int] | list[int] = "elbow"
    """Clusters per layer: ``elbow``; ``printed``: as in the paper for layers conv1_1 to conv5_3; or numbers by layer or
    in order. Layers without a number have the elbow's."""
    pr: Positive = 0.5
    """Pr of the paper: 0.5 for configuration A; 2.5 (ConvNet) and 1 (VGG-16) for B."""
    ascent_steps: Count = 100
    step_size: Positive = 0.1
    """Root mean square of a step of the ascent, in units of normalised images."""
    restarts: Count = 10
    transition: bool = False
    """Whether to measure, after retraining, how many filters changed their cluster (section 1.3)."""
    default_scope: ClassVar[Scope] = "uniform"
    finds_sparsity: ClassVar[bool] = True
    reads_data: ClassVar[bool] = True
    paper: ClassVar[str] = "000, sections 1.1 to 1.3"

    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        """Return for each unit the share of all numbers of filters to remove for which it stays.

        Also, under ``clusters/`` and ``contribution/`` and the group's name, each unit's cluster and contribution:
        shares are not enough, because by largest remainders a cluster may give up one filter of 10 removed and none of
        11.
        """
        counts = cluster_counts(self.clusters, task.groups)
        start = shared_start(task.example, task.generator)
        contributions = contribution_index(model, task.groups, task.calibration())
        scores: dict[str, Tensor] = {}
        for group in task.groups:
            patterns = filter_patterns(
                model, group, start, ascent_steps=self.ascent_steps, step_size=self.step_size
            )  # fmt: skip
            labels = cluster(patterns, counts.get(group.name), restarts=self.restarts)
            contribution = contributions[group.name].float().cpu()
            stays = ~np.stack([removed(labels, contribution, n) for n in range(group.size)])
            scores[group.name] = torch.from_numpy(stays.mean(0))
            scores[_LABELS + group.name] = labels
            scores[_CONTRIBUTION + group.name] = contribution
        return scores

    def reselect(self, selection: Selection, scores: Scores) -> Selection:
        assert isinstance(selection, ChannelSelection)
        kept = {}
        for name, units in selection.kept.items():
            labels, contribution = scores[_LABELS + name], scores[_CONTRIBUTION + name]
            stays = ~removed(labels, contribution, len(labels) - len(units))
            kept[name] = tuple(np.flatnonzero(stays).tolist())
        return replace(selection, kept=kept)

    def keep(self, scores: Scores) -> Mapping[str, Tensor]:
        names = [name.removeprefix(_LABELS) for name in scores if name.startswith(_LABELS)]
        return {
            name: above_mean(scores[_LABELS + name].long(), scores[_CONTRIBUTION + name], self.pr) for name in names
        }

    def analyse(
        self, dense: nn.Module, before: nn.Module, after: nn.Module, task: PruneTask, scores: Scores
    ) -> dict[str, Any]:
        if not self.transition:
            return {}
        start = shared_start(task.example, task.generator)
        steps, size = self.ascent_steps, self.step_size
        clusters = {
            group.name: centroids(
                filter_patterns(dense, group, start, ascent_steps=steps, step_size=size),
                scores[_LABELS + group.name].long(),
            )
            for group in task.groups
        }
        shares = functionality_transition(before, after, clusters, start, ascent_steps=steps, step_size=size)
        return {"functionality_transition": shares}

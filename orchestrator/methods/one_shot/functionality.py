"""Functionality-oriented filter pruning (Qin et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from orchestrator.methods.base import PruneTask, Ranking, Scores, per_unit
from orchestrator.methods.one_shot.activation_maximisation import (
    centroids,
    cluster,
    filter_patterns,
    filter_site,
    shared_start,
)
from orchestrator.methods.one_shot.functionality_transition import functionality_transition
from orchestrator.plugins import Count, Positive
from orchestrator.surgery.groups import ChannelGroup
from orchestrator.surgery.selecting import ChannelSelection, Scope, Selection

PRINTED_CLUSTERS = {
    "conv1_1": 15, "conv1_2": 17, "conv2_1": 20, "conv2_2": 31, "conv3_1": 26, "conv3_2": 24, "conv3_3": 14,
    "conv4_1": 27, "conv4_2": 28, "conv4_3": 38, "conv5_1": 46, "conv5_2": 61, "conv5_3": 40,
}  # fmt: skip
"""Clusters of each layer of VGG-16 and ConvNet, tables 3 and 4 of the paper."""
_LABELS, _CONTRIBUTION = "clusters/", "contribution/"


class WrongClusters(ValueError):
    """Numbers of clusters that do not fit the network."""


@dataclass
class Functionality(Ranking):
    """Filters that look for the same thing are redundant: of each such cluster the least contributing go first.

    Paper 000, sections 1.1 to 1.3. The pattern that a filter answers to most is found by activation maximisation; the
    patterns of a layer are clustered by k-means; the contribution of filter i is I = (1/N) sum_n mean_hw |dz_y / dA|
    with the true class's logit z_y and the filter's feature map A, on the calibration images. To remove n filters of a
    layer, each cluster c gives up its share of them, in proportion to |c| - 1, lowest I first; where that is not
    enough, whole clusters go, lowest I of their best filter first. Without a sparsity in the target: every filter with
    I below ``pr`` times its cluster's mean goes, but never all of a cluster.

    Differs from the paper: it states neither the ascent's steps nor the rule by which clusters share n, nor what its
    Pr multiplies: all are chosen here. The number of clusters, where not printed, is the elbow of Ward's sums of
    squares. Channels that several layers share are judged by the first of them.
    """

    clusters: Literal["elbow", "printed"] | dict[str, int] | list[int] = "elbow"
    """Per layer: ``elbow``; ``printed``: as in the paper for layers conv1_1 to conv5_3; or numbers by layer or in
    order. Layers without a number have the elbow's."""
    pr: Positive = 0.5
    """Pr of the paper: 0.5 for configuration A; 2.5 (ConvNet) and 1 (VGG-16) for B."""
    ascent_steps: Count = 100
    step_size: Positive = 0.1
    """Root mean square of a step of the ascent, in units of normalised images."""
    restarts: Count = 10
    transition: bool = False
    """After retraining, look again at what every filter answers to: how many changed their cluster (section 1.3)."""
    default_scope: ClassVar[Scope] = "uniform"
    finds_sparsity: ClassVar[bool] = True
    reads_data: ClassVar[bool] = True
    paper: ClassVar[str] = "000, sections 1.1 to 1.3"

    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        """For each group: of all numbers of filters to remove, the share for which the unit stays. Beside them, under
        ``clusters/`` and ``contribution/`` and the group's name, each unit's cluster and contribution: shares are not
        enough, because by largest remainders a cluster may give up one filter of 10 removed and none of 11."""
        counts = _cluster_counts(self.clusters, task.groups)
        start = shared_start(task.example, task.generator)
        contributions = contribution_index(model, task.groups, task.calibration())
        found: dict[str, Tensor] = {}
        for group in task.groups:
            patterns = filter_patterns(
                model, group, start, ascent_steps=self.ascent_steps, step_size=self.step_size
            )  # fmt: skip
            labels = cluster(patterns, counts.get(group.name), restarts=self.restarts)
            contribution = contributions[group.name].float().cpu()
            stays = ~np.stack([removed(labels, contribution, n) for n in range(group.size)])
            found[group.name] = torch.from_numpy(stays.mean(0))
            found[_LABELS + group.name] = labels
            found[_CONTRIBUTION + group.name] = contribution
        return found

    def select_from(self, scores: Scores, task: PruneTask) -> Selection:
        selection = super().select_from(scores, task)
        if task.target.sparsity is None and task.target.kept is None:
            return selection
        assert isinstance(selection, ChannelSelection)
        kept = {}
        for name, units in selection.kept.items():
            labels, contribution = scores[_LABELS + name], scores[_CONTRIBUTION + name]
            stays = ~removed(labels, contribution, len(labels) - len(units))
            kept[name] = tuple(np.flatnonzero(stays).tolist())
        return replace(selection, kept=kept)

    def keep(self, scores: Scores) -> Mapping[str, Tensor]:
        names = [name.removeprefix(_LABELS) for name in scores if name.startswith(_LABELS)]
        return {name: self._above(scores[_LABELS + name].long(), scores[_CONTRIBUTION + name]) for name in names}

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

    def _above(self, labels: Tensor, contribution: Tensor) -> Tensor:
        sizes = torch.bincount(labels)
        means = torch.bincount(labels, contribution, minlength=len(sizes)) / sizes
        stays = contribution >= self.pr * means[labels]
        for label in range(len(sizes)):
            members = (labels == label).nonzero().flatten()
            stays[members[contribution[members].argmax()]] = True
        return stays


def removed(labels: Tensor, contribution: Tensor, count: int) -> NDArray[np.bool_]:
    """Which units go when ``count`` must: the rules (a) to (c) of paper 000, section 1.1 step 4.

    (a) Cluster c gives up count * (|c| - 1) / (N - k) units, largest remainders first (then the larger cluster, then
    the lower label); (b) those of lowest contribution, of equals the first; (c) what N - k leaves undone is taken from
    the clusters' last units, lowest contribution first. labels, contribution: (N,); returns booleans of shape (N,).
    """
    label = labels.long().cpu().numpy()
    value = contribution.double().cpu().numpy()
    sizes = np.bincount(label)
    spare = int((sizes - 1).sum())
    order = np.lexsort((value, label))  # by cluster, then by contribution
    place = np.empty(len(label), dtype=np.int64)  # 0: the lowest of its cluster
    place[order] = np.arange(len(label)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    within = min(count, spare)
    quotas, remainders = np.divmod(within * (sizes - 1), max(spare, 1))
    favoured = np.lexsort((-sizes, -remainders))[: within - int(quotas.sum())]
    quotas[favoured] += 1
    gone: NDArray[np.bool_] = place < quotas[label]
    last = np.flatnonzero(place == sizes[label] - 1)
    gone[last[np.argsort(value[last], kind="stable")[: count - within]]] = True
    return gone


def contribution_index(
    model: nn.Module, groups: Sequence[ChannelGroup], batches: Sequence[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Mean over images and positions of |d(true class's logit) / d(feature map)|; (units,) for each group.

    One backward pass a batch: images do not touch each other in eval mode. Feature maps are those of `filter_site`.
    Paper 000, section 1.1 step 3.
    """
    training = model.training
    model.eval()
    sites = {group.name: filter_site(group, model) for group in groups}
    maps: dict[str, Tensor] = {}
    totals: dict[str, Tensor] = {}
    handles = [_record(model, layer, maps) for layer in {layer for layer, _ in sites.values()}]
    try:
        for inputs, targets in batches:
            logits = model(inputs)
            outputs = list(maps.values())
            gradients = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), outputs) if outputs else ()
            for layer, gradient in zip(maps, gradients, strict=True):
                total = gradient.abs().flatten(2).mean(2).sum(0) if gradient.dim() > 2 else gradient.abs().sum(0)
                totals[layer] = totals[layer] + total if layer in totals else total
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    images = sum(len(targets) for _, targets in batches)
    return {name: per_unit(totals[layer] / images, channels) for name, (layer, channels) in sites.items()}


def _record(model: nn.Module, layer: str, maps: dict[str, Tensor]) -> Any:
    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        maps[layer] = output
        return output.clone()  # an activation that works in place must not change what is recorded

    return model.get_submodule(layer).register_forward_hook(keep)


def _cluster_counts(clusters: str | dict[str, int] | list[int], groups: Sequence[ChannelGroup]) -> dict[str, int]:
    names = [group.name for group in groups]
    if clusters == "printed":
        return {name: count for name, count in PRINTED_CLUSTERS.items() if name in names}
    if isinstance(clusters, str):
        return {}
    if isinstance(clusters, list):
        if len(clusters) != len(names):
            raise WrongClusters(f"method.clusters: {len(clusters)} numbers for {len(names)} layers: {', '.join(names)}")
        clusters = dict(zip(names, clusters, strict=True))
    for name, count in clusters.items():
        if name not in names:
            raise WrongClusters(f"method.clusters: no layer {name!r} among {', '.join(names)}")
        if count < 1:
            raise WrongClusters(f"method.clusters.{name}: needs 1 or more clusters, found {count}")
    return clusters

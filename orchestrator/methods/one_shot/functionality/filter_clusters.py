"""Clusters of filters: how many a layer has, and which of their members are removed (paper 000)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.spec.errors import PrunesweepError
from orchestrator.surgery.groups import ChannelGroup

PRINTED_CLUSTERS = {
    "conv1_1": 15, "conv1_2": 17, "conv2_1": 20, "conv2_2": 31, "conv3_1": 26, "conv3_2": 24, "conv3_3": 14,
    "conv4_1": 27, "conv4_2": 28, "conv4_3": 38, "conv5_1": 46, "conv5_2": 61, "conv5_3": 40,
}  # fmt: skip
"""Clusters of each layer of VGG-16 and ConvNet, tables 3 and 4 of the paper."""


class WrongClusters(PrunesweepError, ValueError):
    """Numbers of clusters that do not fit the network."""


def cluster_counts(clusters: str | dict[str, int] | list[int], groups: Sequence[ChannelGroup]) -> dict[str, int]:
    """Return the clusters of each layer for which a number is printed or stated. Raises :class:`WrongClusters`."""
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


def removed(labels: Tensor, contribution: Tensor, count: int) -> NDArray[np.bool_]:
    """Return which ``count`` units are removed, by the rules (a) to (c) of paper 000, section 1.1 step 4.

    (a) Cluster c gives up count * (|c| - 1) / (N - k) units, largest remainders first (then the larger cluster, then
    the lower label); (b) those of lowest contribution, of equals the first; (c) what exceeds N - k is taken from
    the clusters' last units, lowest contribution first. labels, contribution: (N,); returns booleans of shape (N,).
    """
    label = labels.long().cpu().numpy()
    value = contribution.double().cpu().numpy()
    sizes = np.bincount(label)
    spare = int((sizes - 1).sum())
    order = np.lexsort((value, label))  # by cluster, then by contribution
    rank = np.empty(len(label), dtype=np.int64)  # 0: the lowest of its cluster
    rank[order] = np.arange(len(label)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    within = min(count, spare)
    quotas, remainders = np.divmod(within * (sizes - 1), max(spare, 1))
    favoured = np.lexsort((-sizes, -remainders))[: within - int(quotas.sum())]
    quotas[favoured] += 1
    mask: NDArray[np.bool_] = rank < quotas[label]
    last = np.flatnonzero(rank == sizes[label] - 1)
    mask[last[np.argsort(value[last], kind="stable")[: count - within]]] = True
    return mask


def above_mean(labels: Tensor, contribution: Tensor, share: float) -> Tensor:
    """Return which units stay: those whose contribution is at least ``share`` times their cluster's mean.

    At least the best of every cluster stays. labels, contribution: (N,); returns booleans of shape (N,).
    """
    sizes = torch.bincount(labels)
    means = torch.bincount(labels, contribution, minlength=len(sizes)) / sizes
    stays = contribution >= share * means[labels]
    for label in range(len(sizes)):
        members = (labels == label).nonzero().flatten()
        stays[members[contribution[members].argmax()]] = True
    return stays

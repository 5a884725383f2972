"""Diagnostics of a selection: the histogram of the scores and the overlap with magnitude pruning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.methods.base import PruneTask, Scores, filter_norms, prunable_weights
from orchestrator.surgery.selection import ChannelSelection, Selection

_BINS = 40


def selection_diagnostics(scores: Scores, selection: Selection, network: nn.Module, task: PruneTask) -> dict[str, Any]:
    """Return the diagnostics of a selection as plain JSON; ``network`` is the network before it was pruned.

    ``histogram``: counts of all scores in equal bins (of MaskConvNet's masks: paper 004, A.2). ``magnitude_overlap``:
    by layer, the share of the kept weights or channels that magnitude would keep too if it kept as many in each layer
    (for channels: the l1 norm of the filters; paper 002, section 5.3).
    """
    names = [group.name for group in task.groups] or [name for name, _ in prunable_weights(network)]
    values = torch.cat([scores[name].detach().float().flatten().cpu() for name in names if name in scores])
    return {"histogram": histogram(values), "magnitude_overlap": magnitude_overlap(selection, network, task)}


def histogram(values: Tensor) -> dict[str, Any]:
    """Count the finite values in equal bins from the lowest to the highest."""
    finite = values[values.isfinite()]
    if not len(finite):
        return {"low": None, "high": None, "counts": []}
    low, high = float(finite.min()), float(finite.max())
    counts = torch.histc(finite.double(), bins=_BINS, min=low, max=high) if high > low else torch.tensor([len(finite)])
    return {"low": low, "high": high, "counts": [int(count) for count in counts]}


@torch.no_grad()
def magnitude_overlap(selection: Selection, network: nn.Module, task: PruneTask) -> dict[str, float]:
    """Return |kept and largest| / |kept| by layer or channel group."""
    if isinstance(selection, ChannelSelection):
        overlaps = {}
        for group in task.groups:
            kept = set(selection.kept.get(group.name, range(group.size)))
            order = filter_norms(network, group, power=1).argsort(descending=True).tolist()
            overlaps[group.name] = len(kept & set(order[: len(kept)])) / len(kept)
        return overlaps
    weights = dict(prunable_weights(network))
    shares = {}
    for name, mask in selection.masks.items():
        count = int(mask.sum())
        largest = torch.zeros_like(mask.flatten())
        largest[weights[name].detach().abs().flatten().topk(count).indices] = True
        shares[name] = float((largest & mask.flatten()).sum()) / count
    return shares

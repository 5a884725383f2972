"""What was pruned: how the scores lie, and how much of the choice magnitude would have made too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.methods.base import PruneTask, Scores, filter_norms, prunable_weights
from orchestrator.surgery.selection import ChannelSelection, Selection

_BINS = 40


def analyse(scores: Scores, selection: Selection, network: nn.Module, task: PruneTask) -> dict[str, Any]:
    """Plain JSON for the trial's record; ``network`` is the one that was pruned, as it was.

    ``histogram``: counts of all scores in equal bins (of MaskConvNet's masks: paper 004, A.2). ``magnitude_overlap``:
    by layer, the share of what stays that would stay too if each layer kept as many by its magnitude (by the l1 norm of
    its filters, for channels; paper 002, section 5.3).
    """
    known = [group.name for group in task.groups] or [name for name, _ in prunable_weights(network)]
    values = torch.cat([scores[name].detach().float().flatten().cpu() for name in known if name in scores])
    return {"histogram": histogram(values), "magnitude_overlap": magnitude_overlap(selection, network, task)}


def histogram(values: Tensor) -> dict[str, Any]:
    """Counts of the finite values in equal bins from the lowest to the highest."""
    finite = values[values.isfinite()]
    if not len(finite):
        return {"low": None, "high": None, "counts": []}
    low, high = float(finite.min()), float(finite.max())
    counts = torch.histc(finite.double(), bins=_BINS, min=low, max=high) if high > low else torch.tensor([len(finite)])
    return {"low": low, "high": high, "counts": [int(count) for count in counts]}


@torch.no_grad()
def magnitude_overlap(selection: Selection, network: nn.Module, task: PruneTask) -> dict[str, float]:
    """By layer or channel group, |kept and largest| / |kept|."""
    if isinstance(selection, ChannelSelection):
        found = {}
        for group in task.groups:
            kept = set(selection.kept.get(group.name, range(group.size)))
            order = filter_norms(network, group, power=1).argsort(descending=True).tolist()
            found[group.name] = len(kept & set(order[: len(kept)])) / len(kept)
        return found
    weights = dict(prunable_weights(network))
    shares = {}
    for name, mask in selection.masks.items():
        count = int(mask.sum())
        largest = torch.zeros_like(mask.flatten())
        largest[weights[name].detach().abs().flatten().topk(count).indices] = True
        shares[name] = float((largest & mask.flatten()).sum()) / count
    return shares

"""The size that the target asks for, before the channels to remove are known."""

from __future__ import annotations

import torch

from orchestrator.methods.base import PruneTask
from orchestrator.spec.errors import PrunesweepError
from orchestrator.surgery.costs import Counts
from orchestrator.surgery.selection import select_channels


class NoBudget(PrunesweepError, ValueError):
    """Raised where a training aims at a size and the target states none."""


def target_counts(task: PruneTask) -> Counts:
    """Return the units each group keeps where all groups lose the same share. Shape (groups,).

    Raises :class:`NoBudget` where the target has neither a sparsity nor counts to keep.
    """
    target = task.target
    assert target.quantity != "weights"
    if target.sparsity is None and target.kept is None:
        raise NoBudget("the training aims at a size: target.sparsity and target.kept are None, give one of them")
    selection = select_channels(
        {group.name: torch.zeros(group.size) for group in task.groups},
        task.groups,
        task.costs,
        quantity=target.quantity,
        sparsity=target.sparsity,
        scope="uniform",
        kept=target.kept,
    )
    return task.costs.counts({name: len(units) for name, units in selection.kept.items()})

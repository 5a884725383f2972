"""Counts of units to keep in every channel group so that the network costs what a target allows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.spec.errors import PrunesweepError
from orchestrator.surgery.costs import Costs, Counts, Quantity

TOLERANCE = 0.01
"""A target counts as met within this share of the dense quantity."""


class CannotMeetTarget(PrunesweepError, ValueError):
    """Raised where even the smallest valid network is above the target."""


def target_quantity(sparsity: float | None, dense: int) -> float:
    """Return how much of a dense quantity is left at a sparsity."""
    if sparsity is None or not 0 <= sparsity < 1:
        raise CannotMeetTarget(f"a target needs a sparsity from 0 to below 1, or counts to keep; found {sparsity!r}")
    return (1 - sparsity) * dense


def removed_share(remaining: int, dense: int) -> float:
    """Return the share of a quantity that is removed."""
    return 1 - remaining / dense if dense else 0.0


def counts_to_keep(
    scores: Sequence[NDArray[np.float64]], costs: Costs, quantity: Quantity, target: float, *, uniform: bool
) -> Counts:
    """Return the units that each group keeps so that ``quantity`` comes as near to ``target`` as whole units allow.

    ``scores``: those of each group's units. ``uniform``: every group loses the same share; else the lowest scores of
    all groups are removed. Raises :class:`CannotMeetTarget`.
    """
    smallest = np.ones_like(costs.dense_counts)
    if costs.measure(quantity, smallest) > target:
        _check_near(costs, quantity, smallest, target)
        return smallest
    return _uniform_counts(costs, quantity, target) if uniform else _global_counts(scores, costs, quantity, target)


def _check_near(costs: Costs, quantity: Quantity, smallest: Counts, target: float) -> None:
    """Raise where the target is more than one unit below the smallest valid network."""
    dense, measured = costs.dense(quantity), costs.measure(quantity, smallest)
    steps = [costs.measure(quantity, _changed(smallest, g, 1)) - measured for g in range(len(smallest))]
    if measured - target > max(TOLERANCE * dense, min(steps, default=0)):
        raise CannotMeetTarget(
            f"cannot remove {1 - target / dense:.1%} of {dense} {quantity}: with one unit left in each of "
            f"{len(smallest)} channel groups {measured} stay, which is {removed_share(measured, dense):.1%} removed"
        )


def _global_counts(scores: Sequence[NDArray[np.float64]], costs: Costs, quantity: Quantity, target: float) -> Counts:
    """Return the counts left after removing the lowest scores of all groups, but one unit of each."""
    sizes = costs.dense_counts
    owners = np.repeat(np.arange(len(sizes)), sizes)
    flat = np.concatenate(scores) if scores else np.zeros(0)
    order = np.argsort(flat, kind="stable")
    protected = np.zeros(len(flat), dtype=bool)
    for end, values in zip(np.cumsum(sizes), scores, strict=True):
        # The unit a group would lose last: the highest score, of equals the last.
        protected[end - 1 - int(np.argmax(values[::-1]))] = True
    removable = owners[order[~protected[order]]]

    def counts_after(removed: int) -> Counts:
        counts: Counts = sizes - np.bincount(removable[:removed], minlength=len(sizes))
        return counts

    low, high = 0, len(removable)  # the fewest removals that bring the quantity to the target or below
    while low < high:
        middle = (low + high) // 2
        if costs.measure(quantity, counts_after(middle)) <= target:
            high = middle
        else:
            low = middle + 1
    return _nearest([counts_after(n) for n in (max(low - 1, 0), low)], costs, quantity, target)


def _uniform_counts(costs: Costs, quantity: Quantity, target: float) -> Counts:
    """Return counts with the same share of every group removed, then single units of groups between two counts."""
    sizes = costs.dense_counts

    def counts_at(share: float) -> Counts:
        counts: Counts = sizes - np.minimum(np.floor(sizes * share + 0.5).astype(np.int64), sizes - 1)
        return counts

    low, high = 0.0, 1.0
    for _ in range(50):  # down to neighbouring shares, between which no group differs by more than a unit
        middle = (low + high) / 2
        if costs.measure(quantity, counts_at(middle)) <= target:
            high = middle
        else:
            low = middle
    counts, below = counts_at(low), counts_at(high)
    undecided = {int(g): _changed(counts, int(g), -1) for g in np.flatnonzero(counts != below)}
    gains = {g: costs.measure(quantity, counts) - costs.measure(quantity, c) for g, c in undecided.items()}
    remaining = []
    for g in sorted(gains, key=lambda g: (-gains[g], g)):
        smaller = _changed(counts, g, -1)
        if costs.measure(quantity, smaller) >= target:
            counts = smaller
        else:
            remaining.append(g)
    return _nearest([counts, *(_changed(counts, g, -1) for g in remaining)], costs, quantity, target)


def _changed(counts: Counts, group: int, by: int) -> Counts:
    changed = counts.copy()
    changed[group] += by
    return changed


def _nearest(choices: list[Counts], costs: Costs, quantity: Quantity, target: float) -> Counts:
    """Return the choice nearest to the target, of equals the first."""
    return min(choices, key=lambda counts: abs(costs.measure(quantity, counts) - target))

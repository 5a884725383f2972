"""The Pareto front of costs, all of which are to be small."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def front(costs: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the non-dominated points, in order.

    A point dominates another if it is less in one cost and at most equal in all. Equal points stand on the front
    together; a point with a cost that is not finite never does.
    """
    measured = [i for i, cost in enumerate(costs) if all(map(math.isfinite, cost))]
    return [measured[i] for i in non_dominated([costs[i] for i in measured])]


def non_dominated(costs: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other dominates, in order; a point with a NaN is never dominated."""
    comparable = [i for i, cost in enumerate(costs) if not any(map(math.isnan, cost))]
    on_front: list[int] = []
    best = np.empty((len(comparable), len(costs[comparable[0]]) if comparable else 0))
    # In this order only a point before another can dominate it, and it is enough to look at those on the front.
    for i in sorted(comparable, key=lambda i: list(costs[i])):
        cost, ahead = np.asarray(costs[i]), best[: len(on_front)]
        if not (np.all(ahead <= cost, axis=1) & np.any(ahead < cost, axis=1)).any():
            best[len(on_front)] = cost
            on_front.append(i)
    return sorted({*range(len(costs))}.difference(comparable).union(on_front))

"""Quasi-random points: a scrambled Sobol sequence over the axes of every arm, cut wherever the user likes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.spec.axes import Axis, rounded


def sobol_points(arms: Sequence[Mapping[str, Axis]], trials: int, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index of an arm and a point of its axes; the arms take turns, and each has a sequence of its own.

    More trials go on where fewer ended.
    """
    rounds = -(-trials // len(arms))
    sequences = [_sobol(len(axes), rounds, seed + index) for index, axes in enumerate(arms)]
    for number in range(trials):
        turn, index = divmod(number, len(arms))
        axes = arms[index]
        shares = zip(axes.items(), sequences[index][turn], strict=True)
        yield index, {name: value_at(axis, share) for (name, axis), share in shares}


def value_at(axis: Axis, share: float) -> Any:
    """The value of an axis at a share from 0 up to 1: the values of a list, the steps of a range have equal parts."""
    values = axis if isinstance(axis, list) else axis.values()
    if values is not None:
        return values[min(int(share * len(values)), len(values) - 1)]
    assert not isinstance(axis, list)
    if axis.whole:
        low, high = axis.low - 0.5, axis.high + 0.5
        return min(max(round(_between(low, high, share, axis.log)), int(axis.low)), int(axis.high))
    return rounded(_between(axis.low, axis.high, share, axis.log))


def _between(low: float, high: float, share: float, log: bool) -> float:
    return low * math.exp(share * math.log(high / low)) if log else low + share * (high - low)


def _sobol(dimensions: int, count: int, seed: int) -> list[list[float]]:
    if dimensions == 0:
        return [[] for _ in range(count)]
    # A second to import: only where it is asked for.
    from scipy.stats import qmc

    power = max(0, math.ceil(math.log2(count)))
    points: list[list[float]] = qmc.Sobol(dimensions, scramble=True, rng=seed).random_base2(power).tolist()
    return points

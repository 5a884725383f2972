"""The quasi-Monte Carlo search: a scrambled Sobol sequence over the axes of every arm."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.plugins import Count
from orchestrator.spec.axes import Axis, rounded
from orchestrator.sweep.search.base import ArmPoint, FixedSearch
from orchestrator.sweep.space.arms import ExpandedArm


@dataclass(frozen=True)
class QuasiMonteCarlo(FixedSearch):
    """A scrambled Sobol sequence over the axes of each arm, `trials` points in all."""

    trials: Count
    seed: int = 0

    def points(self, arms: Sequence[ExpandedArm]) -> Iterator[ArmPoint]:
        return sobol_points([arm.axes for arm in arms], self.trials, self.seed)


def sobol_points(arms: Sequence[Mapping[str, Axis]], trials: int, seed: int) -> Iterator[ArmPoint]:
    """Yield points of the arms, which take turns; each has a sequence of its own.

    A larger number of trials continues the points of a smaller one.
    """
    rounds = -(-trials // len(arms))
    sequences = [_sobol(len(axes), rounds, seed + index) for index, axes in enumerate(arms)]
    for number in range(trials):
        turn, index = divmod(number, len(arms))
        axes = arms[index]
        shares = zip(axes.items(), sequences[index][turn], strict=True)
        yield index, {name: value_at(axis, share) for (name, axis), share in shares}


def value_at(axis: Axis, share: float) -> Any:
    """Return the value of an axis at a share from 0 up to 1; values of a list and steps of a range have equal parts."""
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
    # scipy.stats takes a second to import.
    from scipy.stats import qmc

    power = max(0, math.ceil(math.log2(count)))
    points: list[list[float]] = qmc.Sobol(dimensions, scramble=True, rng=seed).random_base2(power).tolist()
    return points

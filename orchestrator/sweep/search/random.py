"""The random search, drawn by Optuna."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.plugins import Count
from orchestrator.sweep.search.base import ArmPoint, FixedSearch
from orchestrator.sweep.space.arms import ExpandedArm


@dataclass(frozen=True)
class Random(FixedSearch):
    """Independent draws from the axes, as many as `trials` says."""

    trials: Count
    seed: int = 0

    def points(self, arms: Sequence[ExpandedArm]) -> Iterator[ArmPoint]:
        # Optuna takes a second to import.
        from orchestrator.sweep.search.adaptive.random_points import random_points

        return random_points([arm.axes for arm in arms], self.trials, self.seed)

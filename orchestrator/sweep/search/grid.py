"""The grid search: the product of all axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.spec.axes import Range
from orchestrator.spec.errors import SpecError
from orchestrator.sweep.search.base import ArmPoint, FixedSearch
from orchestrator.sweep.space.arms import ExpandedArm


@dataclass(frozen=True)
class Grid(FixedSearch):
    """Every combination of the axes' values."""

    def points(self, arms: Sequence[ExpandedArm]) -> Iterator[ArmPoint]:
        for arm in arms:
            columns: list[list[Any]] = []
            for name, axis in arm.axes.items():
                values = axis.points() if isinstance(axis, Range) else axis
                if values is None:
                    problem = "a grid needs `step` or `grid` (a number of points) for a range"
                    raise SpecError(arm.axis_sources[name], problem)
                columns.append(values)
            for combination in itertools.product(*columns):
                yield arm.index, dict(zip(arm.axes, combination, strict=True))

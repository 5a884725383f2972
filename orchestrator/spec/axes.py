"""The axes of a search space: lists of values, and ranges of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from orchestrator.spec.errors import SpecError, first_problem, join, shown
from orchestrator.spec.trial import Value


class Range(Value):
    """Numbers from low to high. Grids need `step` or `grid` (a number of points); random searches draw from it."""

    low: float | int
    """The first value; a range of whole numbers has whole `low`, `high` and `step`."""
    high: float | int
    """The last value."""
    step: float | int | None = None
    """From one value to the next; None: every value between, for searches that draw."""
    log: bool = False
    """Values are spread evenly by their logarithm."""
    grid: int | None = Field(default=None, ge=2)
    """Points that a grid takes, both ends among them, in place of a step."""

    @model_validator(mode="after")
    def _consistent(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low must be below high, found {self.low} and {self.high}")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be above 0, found {self.step}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range needs low above 0, found {self.low}")
        if self.log and self.step is not None:
            raise ValueError("a logarithmic range takes grid, not step")
        if self.step is not None and self.grid is not None:
            raise ValueError("give step or grid, not both")
        return self

    @property
    def whole(self) -> bool:
        """Whether the range is one of whole numbers."""
        return all(isinstance(x, int) for x in (self.low, self.high, 1 if self.step is None else self.step))

    def points(self) -> list[float | int] | None:
        """Return the points of a grid, or None where neither `step` nor `grid` is given."""
        if self.step is not None:
            count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
            values: list[float] = [self.low + i * self.step for i in range(count)]
        elif self.grid is not None:
            steps = [i / (self.grid - 1) for i in range(self.grid)]
            if self.log:
                values = [self.low * (self.high / self.low) ** s for s in steps]
            else:
                values = [self.low + (self.high - self.low) * s for s in steps]
        else:
            return None
        if self.whole:
            return sorted({round(v) for v in values})
        return [rounded(v) for v in values]

    def values(self) -> list[float | int] | None:
        """Return every value that a search may draw, or None where the range is continuous."""
        if self.step is not None:
            return self.points()
        return list(range(int(self.low), int(self.high) + 1)) if self.whole and not self.log else None

    def endpoints(self) -> list[float | int]:
        """Return the first and the last value that a search may draw."""
        points = self.points() if self.step is not None else None
        return [points[0], points[-1]] if points else [self.low, self.high]

    def contains(self, value: Any) -> bool:
        """Return whether a search may draw this value."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        if self.whole and value != int(value):
            return False
        steps = (value - self.low) / self.step if self.step is not None else 0.0
        return abs(steps - round(steps)) < 1e-8


def rounded(value: float) -> float:
    """Round to twelve digits: 0.1 + 2 x 0.1 is 0.3 to a user, and must hash as 0.3."""
    return float(f"{value:.12g}")


Axis = list[Any] | Range
"""The values a parameter takes, or the range it is drawn from."""


def check_axes(axes: Any, path: str) -> None:
    """Refuse axes that are neither lists nor ranges; pydantic's messages on a union of the two are hard to read."""
    if not isinstance(axes, Mapping):
        raise SpecError(path, f"must be a mapping of dotted paths to values, found {shown(axes)}")
    for name, axis in axes.items():
        where = join(path, str(name))
        if isinstance(axis, list):
            if not axis:
                raise SpecError(where, "an axis needs at least one value, found []")
            previous: list[Any] = []
            for i, value in enumerate(axis):
                if value in previous and not isinstance(value, bool):
                    raise SpecError(join(where, i), f"repeats the value {shown(value)}")
                previous.append(value)
        elif isinstance(axis, Mapping):
            try:
                Range.model_validate(dict(axis))
            except ValidationError as error:
                location, message = first_problem(error, Range)
                kinds = {"float", "int"}
                raise SpecError(join(where, *(p for p in location if p not in kinds)), message) from None
        else:
            raise SpecError(where, f"an axis is a list of values or a range with low and high, found {shown(axis)}")

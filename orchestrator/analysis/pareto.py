"""Compare points in several objectives: Pareto front, hypervolume, knee, and the best within a budget."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from orchestrator.metrics import pareto
from orchestrator.spec.errors import PrunesweepError

Direction = Literal["max", "min"]
Point = Sequence[float | None]

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


class BadObjectives(PrunesweepError, ValueError):
    """Directions, points, a reference or a budget that are invalid or do not match."""


def pareto_front(points: Sequence[Point], directions: Sequence[Direction]) -> list[int]:
    """Return the indices of the points that no other point dominates.

    Equal points are on the front together; a point with a missing or non-finite value never is.
    """
    return pareto.front([(math.nan,) if cost is None else cost for cost in _costs(points, directions)])


def hypervolume(points: Sequence[Point], reference: Sequence[float], directions: Sequence[Direction]) -> float:
    """Return the exact volume between the points and the reference point, for two or three objectives.

    Points that are not better than the reference in every objective are ignored.

    Raises:
        BadObjectives: another number of objectives, or a reference that is not finite.
    """
    if len(directions) not in (2, 3):
        raise BadObjectives(f"directions: the hypervolume is of 2 or 3 objectives, found {len(directions)}")
    (corner,) = _costs([reference], directions)
    if corner is None:
        raise BadObjectives(f"reference: must be finite, found {list(reference)!r}")
    inside = [
        cost
        for cost in _costs(points, directions)
        if cost is not None and all(a < b for a, b in zip(cost, corner, strict=True))
    ]
    return _area(inside, corner) if len(directions) == 2 else _volume(inside, corner)


def knee(points: Sequence[Point], directions: Sequence[Direction]) -> int | None:
    """Return the index of the point of the front furthest beyond the line (plane) through the ends of the front.

    Every objective is scaled to 0..1 over the front (Das 1999, normal-boundary intersection). None if the front has
    no point between its ends, or none beyond the line.
    """
    front = pareto_front(points, directions)
    costs = [cost for cost in _costs([points[i] for i in front], directions) if cost is not None]
    spans = [(min(column), max(column)) for column in zip(*costs, strict=True)]
    if len(set(costs)) < 3 or any(low == high for low, high in spans):
        return None
    gains = [sum((high - c) / (high - low) for c, (low, high) in zip(cost, spans, strict=True)) for cost in costs]
    best = max(range(len(front)), key=gains.__getitem__)
    # The ends have a gain of 1 (with two objectives); the tolerance keeps rounding from making a knee of a line.
    return front[best] if gains[best] > 1 + 1e-9 else None


def best_under(
    rows: Sequence[Mapping[str, Any]],
    budget: Mapping[str, str],
    metric: str = "val_accuracy",
    direction: Direction = "max",
) -> Mapping[str, Any] | None:
    """Return the best finished row within the budget, e.g. ``{"latency_ms": "<= 12"}``; None if none is within it.

    Choosing by validation accuracy leaves the test accuracy of the chosen row an unbiased estimate. To choose among
    settings rather than seeds, pass `Setting.mean_row`s. A row without a budgeted metric is not within the budget.

    Raises:
        BadObjectives: a budget is not a comparison.
    """
    limits = {name: _comparison(name, text) for name, text in budget.items()}
    sign = 1.0 if direction == "max" else -1.0
    fitting = [
        (sign * row[metric], row)
        for row in rows
        if row["status"] == "done"
        and _is_number(row.get(metric))
        and all(_is_number(row.get(name)) and within(row[name]) for name, within in limits.items())
    ]
    return max(fitting, key=operator.itemgetter(0))[1] if fitting else None


def _comparison(name: str, text: str) -> Callable[[float], bool]:
    match = re.fullmatch(r"\s*(<=|>=|<|>)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*", text)
    if not match:
        raise BadObjectives(f"budget.{name}: must be a comparison such as '<= 12', found {text!r}")
    compare, limit = _COMPARISONS[match[1]], float(match[2])
    return lambda value: compare(value, limit)


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _costs(points: Sequence[Point], directions: Sequence[Direction]) -> list[tuple[float, ...] | None]:
    """Convert every objective to one to minimise; None for a point with a missing or non-finite value."""
    for direction in directions:
        if direction not in ("max", "min"):
            raise BadObjectives(f"directions: must be 'max' or 'min', found {direction!r}")
    costs: list[tuple[float, ...] | None] = []
    for i, point in enumerate(points):
        if len(point) != len(directions):
            raise BadObjectives(f"points[{i}]: {len(directions)} objectives, found {list(point)!r}")
        values = [value for value in point if value is not None and math.isfinite(value)]
        signed = tuple(-v if d == "max" else float(v) for v, d in zip(values, directions, strict=False))
        costs.append(signed if len(values) == len(directions) else None)
    return costs


def _area(costs: Sequence[tuple[float, ...]], corner: Sequence[float]) -> float:
    area, top = 0.0, corner[1]
    for x, y in sorted(cost[:2] for cost in costs):
        if y < top:
            area += (corner[0] - x) * (top - y)
            top = y
    return area


def _volume(costs: Sequence[tuple[float, ...]], corner: Sequence[float]) -> float:
    """Sum slices along the third objective: between two levels the dominated area is constant."""
    levels = sorted({cost[2] for cost in costs})
    total = 0.0
    for level, above in zip(levels, [*levels[1:], corner[2]], strict=True):
        total += (above - level) * _area([cost for cost in costs if cost[2] <= level], corner)
    return total

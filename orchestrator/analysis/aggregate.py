"""Replicates folded: mean and sample standard deviation over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation (n - 1) of n values; the deviation of one value is None."""

    mean: float
    sd: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.sd is None else f"{self.mean:.4f} ± {self.sd:.4f}"


def mean_of(values: Iterable[float | None]) -> Mean | None:
    """None where there is no value."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    return Mean(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


@dataclass(frozen=True)
class Setting:
    """Trials that differ by their seed alone."""

    arm: str
    point: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    """The finished ones."""
    ended_badly: int

    def metric(self, name: str) -> Mean | None:
        return mean_of(row.get(name) for row in self.rows)


def settings(rows: Iterable[Mapping[str, Any]], axes: Sequence[str]) -> list[Setting]:
    """Group rows by arm and by every axis but the seed, in the order they first appear."""
    names = [name for name in axes if name != "seed"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        key = json.dumps([row.get("arm"), [_axis(row, name) for name in names]], default=str)
        groups.setdefault(key, []).append(row)
    found = []
    for members in groups.values():
        first = members[0]
        point = {name: _axis(first, name) for name in names if _axis(first, name) is not None}
        done = tuple(row for row in members if row["status"] == "done")
        found.append(Setting(str(first.get("arm") or first["method"]), point, done, len(members) - len(done)))
    return found


def _axis(row: Mapping[str, Any], name: str) -> Any:
    """Axes whose name is a fixed column of the table stand there."""
    return row.get(name, row.get(name.replace(".", "_")))

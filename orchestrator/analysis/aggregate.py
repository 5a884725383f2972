"""Replicates folded: means with their intervals, and differences paired by seed."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from scipy.special import stdtr, stdtrit

from orchestrator.spec.errors import PrunesweepError

LEVEL = 0.95
"""The confidence level of every interval of a mean."""

Interval = Literal["t", "bca"]


class Unpairable(PrunesweepError, ValueError):
    """Rows that cannot be paired by seed, or names that no row has."""


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation (n - 1) of n values; the deviation and interval of one value are None."""

    mean: float
    sd: float | None
    n: int
    low: float | None = None
    high: float | None = None
    """The 95 % interval of the mean."""

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.sd is None else f"{self.mean:.4f} ± {self.sd:.4f}"


def mean_of(values: Iterable[float | None], interval: Interval = "t") -> Mean | None:
    """Mean of the values that are there; None where there is none.

    Args:
        interval: ``t``: Student's, exact for normal values; ``bca``: bias-corrected and accelerated bootstrap (Efron
            1987), for skewed values; with fewer than about ten it is too narrow.
    """
    found = [float(value) for value in values if value is not None]
    if not found:
        return None
    mean = statistics.fmean(found)
    if len(found) == 1:
        return Mean(mean, None, 1)
    low, high = t_interval(found) if interval == "t" else bca_interval(found)
    return Mean(mean, _deviation(found, mean), len(found), low, high)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of two or more values by Student's t."""
    mean = statistics.fmean(values)
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * _deviation(values, mean) / math.sqrt(len(values))
    return mean - half, mean + half


def _deviation(values: Sequence[float], mean: float) -> float:
    """Sample standard deviation; the one of `statistics` reckons with fractions, at ten times the price."""
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def bca_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of two or more values by the BCa bootstrap, 9999 resamples."""
    # Half a second to import, and nobody needs it for a table of means.
    from scipy.stats import bootstrap

    if len(set(values)) == 1:
        return values[0], values[0]
    found = bootstrap((values,), statistic=_mean, confidence_level=LEVEL, method="BCa", rng=seed).confidence_interval
    return float(found.low), float(found.high)


def _mean(values: Any, axis: int) -> Any:
    return values.mean(axis=axis)


@dataclass(frozen=True)
class Setting:
    """Trials that differ by their seed alone."""

    arm: str
    point: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    """The finished ones."""
    ended_badly: int
    statuses: Mapping[str, int] = field(default_factory=dict)
    """How many of the others were stopped, failed, diverged."""

    def metric(self, name: str, interval: Interval = "t") -> Mean | None:
        return mean_of((row.get(name) for row in self.rows), interval)


def settings(rows: Iterable[Mapping[str, Any]], axes: Sequence[str]) -> list[Setting]:
    """Group rows by arm and by every axis but the seed, in the order they first appear."""
    names = [name for name in axes if name != "seed"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        key = json.dumps([row.get("arm"), [axis_value(row, name) for name in names]], default=str)
        groups.setdefault(key, []).append(row)
    found = []
    for members in groups.values():
        first = members[0]
        point = {name: axis_value(first, name) for name in names if axis_value(first, name) is not None}
        done = tuple(row for row in members if row["status"] == "done")
        lost = Counter(str(row["status"]) for row in members if row["status"] != "done")
        found.append(Setting(arm_of(first), point, done, len(members) - len(done), dict(lost)))
    return found


def folded(rows: Iterable[Mapping[str, Any]], axes: Sequence[str], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """One plain row a setting: arm, point, the metrics' means, and ``n`` and ``ended_badly``.

    Its status is ``done`` where a trial finished, else ``failed``; so it goes wherever rows of trials go.
    """
    found = []
    for setting in settings(rows, axes):
        means = {name: setting.metric(name) for name in metrics}
        values = {name: None if mean is None else mean.mean for name, mean in means.items()}
        status = {"status": "done" if setting.rows else "failed"}
        counts = {"n": len(setting.rows), "ended_badly": setting.ended_badly}
        found.append({"arm": setting.arm, **setting.point, **values, **status, **counts})
    return found


def arm_of(row: Mapping[str, Any]) -> str:
    """A sweep without named arms has its methods for arms."""
    return str(row.get("arm") or row.get("method"))


def axis_value(row: Mapping[str, Any], name: str) -> Any:
    """Axes whose name is a fixed column of the table stand there."""
    return row.get(name, row.get(name.replace(".", "_")))


@dataclass(frozen=True)
class Difference:
    """``first - second`` of one metric, over the seeds that both finished; with fewer than two, only the mean."""

    first: str
    second: str
    point: Mapping[str, Any]
    """What both have in common."""
    metric: str
    n: int
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    effect_size: float | None = None
    """Cohen's d_z: mean / sd. None where every difference is the same."""
    p_value: float | None = None
    """Of the paired t-test, two-sided. None where every difference is the same."""
    p_holm: float | None = None
    """The same, corrected for all differences of the family."""
    ended_badly: Mapping[str, int] = field(default_factory=dict)
    """Trials of either side that gave no pair because they were stopped, failed or diverged."""
    unpaired: int = 0
    """Finished trials of either side whose seed the other has not finished, or without a value of the metric."""


def paired(
    rows: Iterable[Mapping[str, Any]], axes: Sequence[str], metric: str, *, against: Any, by: str = "arm"
) -> list[Difference]:
    """Every other value of ``by`` minus the value ``against``, all else equal; one family for Holm's correction.

    Args:
        axes: the sweep's axes.
        against: the reference, e.g. ``random``, or ``fine_tune`` with ``by="retrain"``; a dense network trained under
            the same recipe is an arm like another.
        by: ``arm``, or an axis, whose own parameters (``retrain.epochs`` of ``retrain``) may then differ too. Arms are
            paired where the axes that both have, and the quantity removed, are equal.

    Raises:
        Unpairable: no setting has the value ``against``, or a setting holds a seed twice.
    """
    # Nine tenths of the weights and nine tenths of the MACs are not the same point.
    found = settings(rows, list(dict.fromkeys([*axes, "target.quantity"])))
    reference = [setting for setting in found if _value(setting, by) == against]
    if not reference:
        known = sorted({str(_value(setting, by)) for setting in found})
        raise Unpairable(f"{by}: no setting has {against!r}; found: {', '.join(known)}")
    differences = []
    for first in found:
        value = _value(first, by)
        if value is None or value == against:
            continue
        for second in reference:
            same_arm = by == "arm" or first.arm == second.arm
            own = [name for name in first.point if name == by or name.startswith(f"{by}.")]
            common = [name for name in first.point if name not in own and (name in second.point or by != "arm")]
            if same_arm and all(first.point[name] == second.point.get(name) for name in common):
                point = {**({} if by == "arm" else {"arm": first.arm}), **first.point}
                point.pop(by, None)
                one, other = (_by_seed(setting.rows, metric) for setting in (first, second))
                lost = dict(Counter(first.statuses) + Counter(second.statuses))
                names = (str(value), str(against))
                differences.append(_difference(names, point, metric, one, other, lost, first, second))
    return holm_corrected(differences)


def paired_with_dense(rows: Iterable[Mapping[str, Any]], axes: Sequence[str], metric: str) -> list[Difference]:
    """Every setting minus the dense networks that its own trials started from (column ``dense_<metric>``)."""
    differences = []
    for setting in settings(rows, axes):
        one, other = (_by_seed(setting.rows, name) for name in (metric, f"dense_{metric}"))
        names = (setting.arm, "dense")
        differences.append(
            _difference(names, setting.point, metric, one, other, dict(setting.statuses), setting, setting)
        )
    return holm_corrected(differences)


def between(first: Setting, second: Setting, metric: str) -> Difference:
    """One setting minus another, paired by seed, alone in its family; see :func:`holm_corrected`.

    Raises:
        Unpairable: a setting holds a seed twice.
    """
    one, other = (_by_seed(setting.rows, metric) for setting in (first, second))
    lost = dict(Counter(first.statuses) + Counter(second.statuses))
    point = {name: value for name, value in first.point.items() if second.point.get(name) == value}
    return _difference((first.arm, second.arm), point, metric, one, other, lost, first, second)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (1979) of the values that are there."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[i] = highest
    return corrected


def holm_corrected(family: Sequence[Difference]) -> list[Difference]:
    """The same differences with ``p_holm`` over all of them: call it on what was gathered from several calls."""
    corrected = holm([difference.p_value for difference in family])
    return [replace(difference, p_holm=p) for difference, p in zip(family, corrected, strict=True)]


def _value(setting: Setting, by: str) -> Any:
    return setting.arm if by == "arm" else setting.point.get(by)


def _by_seed(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[Any, float]:
    found: dict[Any, float] = {}
    for row in rows:
        seed = row.get("seed")
        if seed in found:
            raise Unpairable(f"seed: {seed!r} occurs twice in one setting of {arm_of(row)}; name every axis")
        value = row.get(metric)
        if value is not None and math.isfinite(value):
            found[seed] = float(value)
    return found


def _difference(
    names: tuple[str, str],
    point: Mapping[str, Any],
    metric: str,
    one: Mapping[Any, float],
    other: Mapping[Any, float],
    lost: Mapping[str, int],
    first: Setting,
    second: Setting,
) -> Difference:
    shared = [seed for seed in one if seed in other]
    sides = (first,) if first is second else (first, second)
    unpaired = sum(len(setting.rows) - len(shared) for setting in sides)
    bare = Difference(*names, point, metric, len(shared), ended_badly=lost, unpaired=unpaired)
    values = [one[seed] - other[seed] for seed in shared]
    if len(values) < 2:
        return replace(bare, mean=values[0] if values else None)
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    low, high = t_interval(values)
    bare = replace(bare, mean=mean, sd=sd, low=low, high=high)
    # Equal differences (rounding aside) have no spread to test against: a p of 0 from two seeds would be a lie.
    if sd <= 1e-12 * max(1.0, abs(mean)):
        return bare
    p_value = 2 * float(stdtr(len(values) - 1, -abs(mean) / sd * math.sqrt(len(values))))
    return replace(bare, effect_size=mean / sd, p_value=p_value)

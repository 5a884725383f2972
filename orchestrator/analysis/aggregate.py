"""Aggregate trials over seeds: means with confidence intervals, and differences paired by seed."""

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
    """Rows that cannot be paired by seed, or a reference that no row has."""


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation (n - 1) of n values; with n = 1, deviation and interval are None."""

    mean: float
    sd: float | None
    n: int
    low: float | None = None
    high: float | None = None
    """Upper end of the 95 % interval of the mean; ``low`` is its lower end."""

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.sd is None else f"{self.mean:.4f} ± {self.sd:.4f}"


def mean_of(values: Iterable[float | None], interval: Interval = "t") -> Mean | None:
    """Return the mean of the values that are not None; None if all are.

    Args:
        interval: ``t``: Student's, exact for normal values; ``bca``: bias-corrected and accelerated bootstrap (Efron
            1987), for skewed values; with fewer than about ten it is too narrow.
    """
    known = [float(value) for value in values if value is not None]
    if not known:
        return None
    mean = statistics.fmean(known)
    if len(known) == 1:
        return Mean(mean, None, 1)
    low, high = t_interval(known) if interval == "t" else bca_interval(known)
    return Mean(mean, _deviation(known, mean), len(known), low, high)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of two or more values by Student's t."""
    mean = statistics.fmean(values)
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * _deviation(values, mean) / math.sqrt(len(values))
    return mean - half, mean + half


def _deviation(values: Sequence[float], mean: float) -> float:
    """Return the sample standard deviation, ten times as fast as `statistics.stdev`, which computes in fractions."""
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def bca_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the mean of two or more values by the BCa bootstrap, 9999 resamples."""
    # Imported here because it takes half a second, and tables of means do not need it.
    from scipy.stats import bootstrap

    if len(set(values)) == 1:
        return values[0], values[0]
    interval = bootstrap((values,), statistic=_mean, confidence_level=LEVEL, method="BCa", rng=seed).confidence_interval
    return float(interval.low), float(interval.high)


def _mean(values: Any, axis: int) -> Any:
    return values.mean(axis=axis)


@dataclass(frozen=True)
class Setting:
    """Trials that differ only in their seed."""

    arm: str
    point: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    """Rows of the finished trials."""
    unfinished: int
    """Number of trials that were stopped, failed or diverged."""
    statuses: Mapping[str, int] = field(default_factory=dict)
    """Number of those by status."""

    def metric(self, name: str, interval: Interval = "t") -> Mean | None:
        """Return the mean of a metric over the finished trials; None if none has it."""
        return mean_of((row.get(name) for row in self.rows), interval)

    def mean_row(self, metrics: Sequence[str]) -> dict[str, Any]:
        """Return one row for the setting: arm, point, means of the metrics, ``n`` and ``unfinished``.

        Its ``status`` is ``done`` if a trial finished, else ``failed``, so that it can replace rows of trials.
        """
        means = {name: self.metric(name) for name in metrics}
        values = {name: None if mean is None else mean.mean for name, mean in means.items()}
        counts = {"n": len(self.rows), "unfinished": self.unfinished}
        return {"arm": self.arm, **self.point, **values, "status": "done" if self.rows else "failed", **counts}


def group_settings(rows: Iterable[Mapping[str, Any]], axes: Sequence[str]) -> list[Setting]:
    """Group rows by arm and by every axis except the seed, in the order of their first rows."""
    names = [name for name in axes if name != "seed"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        key = json.dumps([row.get("arm"), [axis_value(row, name) for name in names]], default=str)
        groups.setdefault(key, []).append(row)
    settings = []
    for members in groups.values():
        first = members[0]
        point = {name: axis_value(first, name) for name in names if axis_value(first, name) is not None}
        done = tuple(row for row in members if row["status"] == "done")
        statuses = Counter(str(row["status"]) for row in members if row["status"] != "done")
        settings.append(Setting(arm_of(first), point, done, len(members) - len(done), dict(statuses)))
    return settings


def arm_of(row: Mapping[str, Any]) -> str:
    """Return the arm of a row, or its method in a sweep without named arms."""
    return str(row.get("arm") or row.get("method"))


def axis_value(row: Mapping[str, Any], name: str) -> Any:
    """Return the value of an axis, which may be in a fixed column (``target_sparsity`` for ``target.sparsity``)."""
    return row.get(name, row.get(name.replace(".", "_")))


@dataclass(frozen=True)
class Difference:
    """``first - second`` of one metric over the seeds that both finished; with fewer than two, only the mean."""

    first: str
    second: str
    point: Mapping[str, Any]
    """Parameters that both have in common."""
    metric: str
    n: int
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    effect_size: float | None = None
    """Cohen's d_z: mean / sd. None if all differences are equal."""
    p_value: float | None = None
    """Two-sided p-value of the paired t-test. None if all differences are equal."""
    p_holm: float | None = None
    """p-value after Holm's correction for all differences of the family."""
    unfinished: Mapping[str, int] = field(default_factory=dict)
    """Number of stopped, failed and diverged trials on either side, by status."""
    unpaired: int = 0
    """Number of finished trials without the metric, or whose seed the other side has not finished."""


def paired(
    rows: Iterable[Mapping[str, Any]], axes: Sequence[str], metric: str, *, against: Any, by: str = "arm"
) -> list[Difference]:
    """Return the difference of every other value of ``by`` to the value ``against``, all else equal.

    All differences are one family for Holm's correction.

    Args:
        axes: the sweep's axes.
        against: the reference, e.g. ``random``, or ``fine_tune`` with ``by="retrain"``; a dense control is an arm like
            any other.
        by: ``arm``, or an axis, whose own parameters (``retrain.epochs`` of ``retrain``) may then differ too. Arms are
            paired if the axes that both have, and the target's quantity, are equal.

    Raises:
        Unpairable: no setting has the value ``against``, or a setting contains a seed twice.
    """
    # The quantity is part of the point: 90 % of the weights and 90 % of the MACs are different targets.
    settings = group_settings(rows, list(dict.fromkeys([*axes, "target.quantity"])))
    reference = [setting for setting in settings if _value(setting, by) == against]
    if not reference:
        known = sorted({str(_value(setting, by)) for setting in settings})
        raise Unpairable(f"{by}: no setting has {against!r}; found: {', '.join(known)}")
    differences = []
    for first in settings:
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
                names = (str(value), str(against))
                differences.append(_difference(names, point, metric, (first, second), (metric, metric)))
    return holm_corrected(differences)


def paired_with_dense(rows: Iterable[Mapping[str, Any]], axes: Sequence[str], metric: str) -> list[Difference]:
    """Return the difference of every setting to the dense networks of its own trials (column ``dense_<metric>``)."""
    return holm_corrected(
        [
            _difference((setting.arm, "dense"), setting.point, metric, (setting, setting), (metric, f"dense_{metric}"))
            for setting in group_settings(rows, axes)
        ]
    )


def between(first: Setting, second: Setting, metric: str) -> Difference:
    """Return one setting minus another, paired by seed, without correction (see :func:`holm_corrected`).

    Raises:
        Unpairable: a setting contains a seed twice.
    """
    point = {name: value for name, value in first.point.items() if second.point.get(name) == value}
    return _difference((first.arm, second.arm), point, metric, (first, second), (metric, metric))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Apply Holm's step-down correction (1979) to the p-values that are not None."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[i] = highest
    return corrected


def holm_corrected(family: Sequence[Difference]) -> list[Difference]:
    """Return the differences with ``p_holm`` computed over all of them as one family."""
    corrected = holm([difference.p_value for difference in family])
    return [replace(difference, p_holm=p) for difference, p in zip(family, corrected, strict=True)]


def _value(setting: Setting, by: str) -> Any:
    return setting.arm if by == "arm" else setting.point.get(by)


def _by_seed(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[Any, float]:
    values: dict[Any, float] = {}
    for row in rows:
        seed = row.get("seed")
        if seed in values:
            raise Unpairable(f"seed: {seed!r} occurs twice in one setting of {arm_of(row)}; name every axis")
        value = row.get(metric)
        if value is not None and math.isfinite(value):
            values[seed] = float(value)
    return values


def _difference(
    names: tuple[str, str],
    point: Mapping[str, Any],
    metric: str,
    settings: tuple[Setting, Setting],
    columns: tuple[str, str],
) -> Difference:
    """Return the difference of two columns of two settings (which may be the same), reported as one of ``metric``."""
    first, second = (_by_seed(setting.rows, column) for setting, column in zip(settings, columns, strict=True))
    shared = [seed for seed in first if seed in second]
    distinct = settings[:1] if settings[0] is settings[1] else settings
    unpaired = sum(len(setting.rows) - len(shared) for setting in distinct)
    unfinished = dict(sum((Counter(setting.statuses) for setting in distinct), Counter()))
    bare = Difference(*names, point, metric, len(shared), unfinished=unfinished, unpaired=unpaired)
    values = [first[seed] - second[seed] for seed in shared]
    if len(values) < 2:
        return replace(bare, mean=values[0] if values else None)
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    low, high = t_interval(values)
    bare = replace(bare, mean=mean, sd=sd, low=low, high=high)
    # Differences that are equal up to rounding have no standard deviation to test against: p = 0 would be misleading.
    if sd <= 1e-12 * max(1.0, abs(mean)):
        return bare
    p_value = 2 * float(stdtr(len(values) - 1, -abs(mean) / sd * math.sqrt(len(values))))
    return replace(bare, effect_size=mean / sd, p_value=p_value)

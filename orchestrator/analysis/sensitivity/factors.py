"""Code trials as a matrix: one column per varied parameter, with the index of its level."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.analysis.aggregate import arm_of, axis_value
from orchestrator.spec.errors import PrunesweepError

Floats = NDArray[np.float64]

ARM = "arm"
SEED_NOISE = "seed_noise"


class NothingToAnalyse(PrunesweepError, ValueError):
    """No trial has the metric, or no parameter was varied."""


@dataclass(frozen=True)
class Importance:
    """The importance of a parameter for a metric, with its 95 % interval.

    ``value`` is a share of 0 to 1, except Morris's mu* and sigma, which have the metric's unit. None if there were too
    few settings.
    """

    parameter: str
    arm: str | None
    """The arm within which it was estimated; None for all arms."""
    method: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    """Number of trials; for a design, of blocks or trajectories."""


@dataclass(frozen=True)
class Factor:
    """A varied parameter. Numbers are ordered; names, Booleans and lists are not."""

    name: str
    levels: tuple[Any, ...]
    ordered: bool


@dataclass(frozen=True)
class Factors:
    """Finished trials as a matrix ``codes`` (trials x factors) of level indices, NaN if an arm lacks the factor.

    A number drawn from a range has as many levels as draws, so its code is its rank: averages are over the
    distribution that the sweep drew from, on a logarithmic axis as on a linear one.
    """

    factors: tuple[Factor, ...]
    codes: Floats
    values: Floats
    """The metric of each trial."""
    setting_ids: NDArray[np.int64]
    """Number of each trial's setting; equal for trials that differ only in their seed."""

    @property
    def names(self) -> list[str]:
        return [factor.name for factor in self.factors]

    def filled(self) -> Floats:
        """Return the codes with NaN replaced by the middle level; the factor ``arm`` lets a forest tell these apart."""
        middle = np.array([len(factor.levels) // 2 for factor in self.factors], dtype=float)
        return np.where(np.isnan(self.codes), middle, self.codes)

    def take(self, trials: NDArray[Any]) -> Factors:
        """Return the trials with these indices."""
        codes, values, setting_ids = (array[trials] for array in (self.codes, self.values, self.setting_ids))
        return replace(self, codes=codes, values=values, setting_ids=setting_ids)

    def count_settings(self) -> int:
        return len(np.unique(self.setting_ids))

    def resampled(self, rng: np.random.Generator) -> Factors:
        """Draw settings with replacement, each with all its seeds, which are not independent draws.

        A setting drawn twice keeps its number, so that no forest is tested on a copy of what it was trained on.
        """
        numbers = np.unique(self.setting_ids)
        sample = rng.choice(numbers, size=len(numbers))
        return self.take(np.concatenate([np.flatnonzero(self.setting_ids == number) for number in sample]))


def factors_of(rows: Iterable[Mapping[str, Any]], metric: str, axes: Sequence[str], arm: str | None = None) -> Factors:
    """Code the finished trials of one arm, or of all arms, with the arm as a factor; constant parameters are left out.

    Raises:
        NothingToAnalyse: no finished trial has the metric, or nothing was varied.
    """
    where = "" if arm is None else f" in arm {arm!r}"
    done = [row for row in rows if row["status"] == "done" and (arm is None or arm_of(row) == arm)]
    done = [row for row in done if row.get(metric) is not None and math.isfinite(row[metric])]
    if not done:
        raise NothingToAnalyse(f"metric: no finished trial has {metric!r}{where}")
    names = [name for name in axes if name != "seed"]
    columns = {ARM: [arm_of(row) for row in done]}
    columns |= {name: [axis_value(row, name) for row in done] for name in names if name != ARM}
    factors = [(_factor(name, column), column) for name, column in columns.items()]
    # A parameter that some arms lack and the others have constant is left out, too.
    factors = [(factor, column) for factor, column in factors if len(factor.levels) > 1]
    if not factors:
        raise NothingToAnalyse(f"axes: none of {', '.join(axes) or 'no axes'} varies{where}")
    keys = [json.dumps([column[i] for column in columns.values()], default=str) for i in range(len(done))]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return Factors(
        factors=tuple(factor for factor, _ in factors),
        codes=np.array([_codes(factor, column) for factor, column in factors], dtype=float).T,
        values=np.array([row[metric] for row in done], dtype=float),
        setting_ids=np.array([numbers[key] for key in keys], dtype=np.int64),
    )


def conditional_arms(rows: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> list[str]:
    """Return the arms with a parameter that another arm lacks, in the order of their first rows."""
    arms = list(dict.fromkeys(arm_of(row) for row in rows))
    having = {
        name: {arm_of(row) for row in rows if axis_value(row, name) is not None} for name in axes if name != "seed"
    }
    return [arm for arm in arms if any(arm in present and len(present) < len(arms) for present in having.values())]


def seed_noise(data: Factors) -> float | None:
    """Return the share of the metric's variance between seeds within a setting; None if no setting has two seeds."""
    total = float(np.var(data.values, ddof=1)) if len(data.values) > 1 else 0.0
    groups = [data.values[data.setting_ids == number] for number in np.unique(data.setting_ids)]
    freedom = sum(len(group) - 1 for group in groups)
    if freedom == 0 or total == 0:
        return None
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / freedom
    return min(1.0, within / total)


def spread(estimate: Callable[[Factors, int], Floats], data: Factors, resamples: int, seed: int) -> Floats:
    """Return the standard deviations of an estimate over bootstrap samples of the settings."""
    rng = np.random.default_rng(seed)
    estimates = np.array([estimate(data.resampled(rng), seed + i) for i in range(resamples)])
    deviations: Floats = estimates.std(axis=0, ddof=1)
    return deviations


def _factor(name: str, column: Sequence[Any]) -> Factor:
    given = [value for value in column if value is not None]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
    if numbers:
        return Factor(name, tuple(sorted(set(given))), ordered=True)
    return Factor(name, tuple({_key(value): value for value in given}.values()), ordered=False)


def _codes(factor: Factor, column: Sequence[Any]) -> list[float]:
    index = {_key(level): float(i) for i, level in enumerate(factor.levels)}
    return [math.nan if value is None else index[_key(value)] for value in column]


def _key(value: Any) -> Any:
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else json.dumps(value)

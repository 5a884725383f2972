"""Trials as a matrix: one column a varied parameter, coded by its levels, with the settings kept together."""

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
    """How much a parameter matters to a metric, with its 95 % interval.

    ``value`` is a share of 0 to 1 but for Morris's mu* and sigma, which have the metric's unit. None where there were
    too few settings to tell.
    """

    parameter: str
    arm: str | None
    """None: over all arms."""
    method: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    """Trials; of a design, its blocks or trajectories."""


@dataclass(frozen=True)
class Factor:
    """A varied parameter. Numbers are ordered; names, truth values and lists are not."""

    name: str
    levels: tuple[Any, ...]
    ordered: bool


@dataclass(frozen=True)
class Factors:
    """Finished trials: ``codes`` (trials x factors) holds the index of each level, NaN where an arm lacks the factor.

    A number drawn from a range has as many levels as draws, so a code is its rank: what is averaged over is the
    distribution that the sweep drew from, on a logarithmic axis as on a linear one.
    """

    factors: tuple[Factor, ...]
    codes: Floats
    values: Floats
    """The metric, one a trial."""
    settings: NDArray[np.int64]
    """Equal for trials that differ by their seed alone."""

    @property
    def names(self) -> list[str]:
        return [factor.name for factor in self.factors]

    def filled(self) -> Floats:
        """Codes with a middle level where an arm lacks the factor; the arm, a factor itself, says where that is."""
        middle = np.array([len(factor.levels) // 2 for factor in self.factors], dtype=float)
        return np.where(np.isnan(self.codes), middle, self.codes)

    def taking(self, trials: NDArray[Any]) -> Factors:
        return replace(self, codes=self.codes[trials], values=self.values[trials], settings=self.settings[trials])

    def count_settings(self) -> int:
        return len(np.unique(self.settings))

    def resampled(self, rng: np.random.Generator) -> Factors:
        """Settings drawn with replacement, each with all its seeds: the seeds of one setting are no independent draws.

        A setting drawn twice keeps its number, so that nothing is ever tested on its own copy.
        """
        numbers = np.unique(self.settings)
        drawn = rng.choice(numbers, size=len(numbers))
        return self.taking(np.concatenate([np.flatnonzero(self.settings == number) for number in drawn]))


def factors_of(rows: Iterable[Mapping[str, Any]], metric: str, axes: Sequence[str], arm: str | None = None) -> Factors:
    """The finished trials of one arm, or of all, where the arm is a factor too; parameters with one level are left out.

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
    found = [(_factor(name, column), column) for name, column in columns.items()]
    # A parameter that some arms lack has two states at least, but a single value of it still decides nothing.
    found = [(factor, column) for factor, column in found if len(factor.levels) > 1]
    if not found:
        raise NothingToAnalyse(f"axes: none of {', '.join(axes) or 'no axes'} varies{where}")
    keys = [json.dumps([column[i] for column in columns.values()], default=str) for i in range(len(done))]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return Factors(
        factors=tuple(factor for factor, _ in found),
        codes=np.array([_codes(factor, column) for factor, column in found], dtype=float).T,
        values=np.array([row[metric] for row in done], dtype=float),
        settings=np.array([numbers[key] for key in keys], dtype=np.int64),
    )


def conditional_arms(rows: Sequence[Mapping[str, Any]], axes: Sequence[str]) -> list[str]:
    """The arms with a parameter that another arm lacks, in the order they appear."""
    arms = list(dict.fromkeys(arm_of(row) for row in rows))
    having = {
        name: {arm_of(row) for row in rows if axis_value(row, name) is not None} for name in axes if name != "seed"
    }
    return [arm for arm in arms if any(arm in present and len(present) < len(arms) for present in having.values())]


def seed_noise(data: Factors) -> float | None:
    """Share of the metric's variance that lies between seeds within a setting; None where no setting has two seeds."""
    total = float(np.var(data.values, ddof=1)) if len(data.values) > 1 else 0.0
    groups = [data.values[data.settings == number] for number in np.unique(data.settings)]
    freedom = sum(len(group) - 1 for group in groups)
    if freedom == 0 or total == 0:
        return None
    within = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / freedom
    return min(1.0, within / total)


def spread(estimate: Callable[[Factors, int], Floats], data: Factors, resamples: int, seed: int) -> Floats:
    """Standard deviations of an estimate over bootstrap samples of the settings."""
    rng = np.random.default_rng(seed)
    found = np.array([estimate(data.resampled(rng), seed + i) for i in range(resamples)])
    deviations: Floats = found.std(axis=0, ddof=1)
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

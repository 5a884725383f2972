"""Fit random forests to the trials: permutation importance and interactions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GroupKFold

from orchestrator.analysis.sensitivity.factors import Factor, Factors, Floats, NothingToAnalyse, factors_of, spread

TREES = 32
GRID = 12
"""Largest number of a parameter's levels in a surface."""


@dataclass(frozen=True)
class Interaction:
    """The interaction of two parameters beyond their separate effects, as a share of the metric's variance."""

    first: str
    second: str
    arm: str | None
    value: float
    low: float
    high: float
    n: int
    first_levels: tuple[Any, ...]
    second_levels: tuple[Any, ...]
    surface: tuple[tuple[float, ...], ...]
    """The forest's mean prediction, one row per level of the first parameter."""


def permutation_shares(data: Factors, seed: int) -> Floats:
    """Return half the R² lost on held-out settings when a parameter's values are shuffled among the trials.

    For independent parameters that is their total share of the metric's variance, interactions included.
    """
    if data.count_settings() < 2:
        return np.zeros(len(data.factors))
    # The settings of a grid are in order: without shuffling, a fold would be a level that the forest never saw.
    numbers = np.random.default_rng(seed).permutation(data.setting_ids.max() + 1)
    folds = GroupKFold(min(3, data.count_settings()))
    codes = data.filled()
    losses = np.zeros(len(data.factors))
    for train, held_out in folds.split(codes, groups=numbers[data.setting_ids]):
        forest = _forest(seed).fit(codes[train], data.values[train])
        importance = permutation_importance(
            forest,
            codes[held_out],
            data.values[held_out],
            scoring="neg_mean_squared_error",
            n_repeats=3,
            random_state=seed,
        )
        losses += importance.importances_mean * len(held_out) / len(codes)
    variance = data.values.var()
    shares: Floats = np.clip(losses / (2 * variance), 0, 1) if variance > 0 else np.zeros(len(losses))
    return shares


def interactions(
    rows: Iterable[Mapping[str, Any]],
    metric: str,
    axes: Sequence[str],
    parameters: tuple[str, str] | None = None,
    arm: str | None = None,
    resamples: int = 40,
    seed: int = 0,
) -> Interaction:
    """Estimate the interaction of two parameters, by default of the two with the greatest permutation importance.

    Raises:
        NothingToAnalyse: fewer than two parameters vary.
    """
    data = factors_of(rows, metric, axes, arm)
    if parameters is None:
        if len(data.factors) < 2:
            raise NothingToAnalyse(f"axes: an interaction needs two varied parameters, found {data.names}")
        order = np.argsort(-permutation_shares(data, seed), kind="stable")
        parameters = (data.names[order[0]], data.names[order[1]])
    first, second = (_column(data, name) for name in parameters)
    both = ~np.isnan(data.codes[:, first]) & ~np.isnan(data.codes[:, second])
    data = data.take(np.flatnonzero(both))
    grids = [_grid(data.factors[column]) for column in (first, second)]

    def surface(sample: Factors, seed: int) -> Floats:
        forest = _forest(seed).fit(sample.filled(), sample.values)
        return np.array([[_mean_prediction(forest, sample, {first: a, second: b}) for b in grids[1]] for a in grids[0]])

    def share(sample: Factors, seed: int) -> Floats:
        variance = sample.values.var()
        return np.array(_beyond_additive(surface(sample, seed)) / variance if variance > 0 else 0.0)

    predicted = surface(data, seed)
    variance = data.values.var()
    value = float(np.clip(_beyond_additive(predicted) / variance, 0, 1)) if variance > 0 else 0.0
    half = 1.96 * float(spread(share, data, resamples, seed))
    return Interaction(
        first=parameters[0],
        second=parameters[1],
        arm=arm,
        value=value,
        low=max(0.0, value - half),
        high=min(1.0, value + half),
        n=len(data.values),
        first_levels=tuple(data.factors[first].levels[code] for code in grids[0]),
        second_levels=tuple(data.factors[second].levels[code] for code in grids[1]),
        surface=tuple(tuple(float(value) for value in line) for line in predicted),
    )


def _forest(seed: int) -> Any:
    return RandomForestRegressor(n_estimators=TREES, min_samples_leaf=2, random_state=seed)


def _mean_prediction(forest: Any, data: Factors, fixed: Mapping[int, int]) -> float:
    codes = data.filled()
    for column, code in fixed.items():
        codes[:, column] = code
    return float(forest.predict(codes).mean())


def _beyond_additive(surface: Floats) -> float:
    rest = surface - surface.mean(axis=0, keepdims=True) - surface.mean(axis=1, keepdims=True) + surface.mean()
    return float((rest**2).mean())


def _grid(factor: Factor) -> list[int]:
    """Return at most `GRID` codes: evenly spaced with both ends, or the first ones of an unordered factor."""
    count = len(factor.levels)
    if not factor.ordered:
        return list(range(min(count, GRID)))
    return sorted({round(i * (count - 1) / (min(count, GRID) - 1)) for i in range(min(count, GRID))})


def _column(data: Factors, name: str) -> int:
    if name not in data.names:
        raise NothingToAnalyse(f"parameter: {name!r} does not vary; varied: {', '.join(data.names)}")
    return data.names.index(name)

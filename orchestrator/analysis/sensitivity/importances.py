"""Estimate hyper-parameter importances by several methods, with intervals and the seed noise as a floor."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

from orchestrator.analysis.sensitivity.factors import (
    SEED_NOISE,
    Factor,
    Factors,
    Floats,
    Importance,
    conditional_arms,
    factors_of,
    seed_noise,
    spread,
)
from orchestrator.analysis.sensitivity.forest import TREES, permutation_shares
from orchestrator.sweep.search.adaptive.verbosity import errors_only

ImportanceMethod = Literal["ped_anova", "fanova", "permutation"]
IMPORTANCE_METHODS: tuple[ImportanceMethod, ...] = ("ped_anova", "fanova", "permutation")
FEWEST_SETTINGS = 6


def importances(
    rows: Sequence[Mapping[str, Any]],
    metric: str,
    axes: Sequence[str],
    *,
    direction: Literal["max", "min"] = "max",
    methods: Sequence[ImportanceMethod] = IMPORTANCE_METHODS,
    resamples: int = 40,
    seed: int = 0,
) -> list[Importance]:
    """Return the importance of every varied parameter over all arms, and within each arm with parameters of its own.

    ``ped_anova``: share, of all parameters', of the divergence between good trials and all (Watanabe 2023; the best
    tenth, or the best five); ``fanova``: share of a forest's variance that is due to the parameter alone (Hutter 2014);
    ``permutation``: share of the metric's variance, interactions included (see `permutation_shares`). The last entry
    of every arm is ``seed_noise``, the share of the variance between seeds within a setting; an importance that is not
    above it is indistinguishable from noise.

    Over all arms the arm itself is a parameter. PED-ANOVA supports parameters that some trials lack; for the forests
    such a parameter has its middle value there, and the arm separates these trials. Intervals are normal, with the
    standard deviation over bootstrap samples of the settings. With fewer than six settings the values are None.

    Args:
        rows: the result of `load_results`; only finished trials are used.
        direction: which end of the metric PED-ANOVA takes as good.

    Raises:
        NothingToAnalyse: no finished trial has the metric, or nothing was varied.
    """
    estimators: dict[ImportanceMethod, Callable[[Factors, int], Floats]] = {
        "ped_anova": partial(_ped_anova, maximise=direction == "max"),
        "fanova": _fanova,
        "permutation": permutation_shares,
    }
    result: list[Importance] = []
    for arm in [None, *conditional_arms(rows, axes)]:
        data = factors_of(rows, metric, axes, arm)
        for method in methods:
            result += _importances(data, arm, method, estimators[method], resamples, seed)
        result.append(_noise(data, arm, resamples, seed))
    return result


def _importances(
    data: Factors,
    arm: str | None,
    method: str,
    estimate: Callable[[Factors, int], Floats],
    resamples: int,
    seed: int,
) -> list[Importance]:
    n = len(data.values)
    if data.count_settings() < FEWEST_SETTINGS:
        return [Importance(name, arm, method, None, None, None, n) for name in data.names]
    values, half = estimate(data, seed), 1.96 * spread(estimate, data, resamples, seed)
    return [
        Importance(name, arm, method, float(value), max(0.0, float(value - h)), min(1.0, float(value + h)), n)
        for name, value, h in zip(data.names, values, half, strict=True)
    ]


def _noise(data: Factors, arm: str | None, resamples: int, seed: int) -> Importance:
    value = seed_noise(data)
    if value is None:
        return Importance("seed", arm, SEED_NOISE, None, None, None, len(data.values))
    half = 1.96 * float(spread(lambda sample, _: np.array(seed_noise(sample) or 0.0), data, resamples, seed))
    return Importance("seed", arm, SEED_NOISE, value, max(0.0, value - half), min(1.0, value + half), len(data.values))


def _ped_anova(data: Factors, _: int, *, maximise: bool) -> Floats:
    quantile = min(0.5, max(0.1, 5 / len(data.values)))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=quantile)
    values = _evaluated(evaluator, _study(data, data.codes, maximise=maximise), data)
    total = values.sum()
    return values / total if total > 0 else values


def _fanova(data: Factors, seed: int) -> Floats:
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    return _evaluated(evaluator, _study(data, data.filled(), maximise=False), data)


def _evaluated(evaluator: Any, study: optuna.Study, data: Factors) -> Floats:
    if np.ptp(data.values) == 0:
        return np.zeros(len(data.factors))
    with warnings.catch_warnings():
        # Optuna warns of bootstrap samples with a single trial of an arm; the interval reflects that already.
        warnings.simplefilter("ignore")
        try:
            shares = evaluator.evaluate(study)
        except RuntimeError:  # fANOVA: no tree of the forest has a split
            shares = {}
    return np.array([float(shares.get(name, 0.0)) for name in data.names])


def _study(data: Factors, codes: Floats, *, maximise: bool) -> optuna.Study:
    errors_only()
    study = optuna.create_study(direction="maximize" if maximise else "minimize")
    distributions = {factor.name: _distribution(factor) for factor in data.factors}
    trials = []
    for line, value in zip(codes, data.values, strict=True):
        params = {
            factor.name: float(code) if factor.ordered else int(code)
            for factor, code in zip(data.factors, line, strict=True)
            if not math.isnan(code)
        }
        own = {name: distributions[name] for name in params}
        trials.append(optuna.trial.create_trial(params=params, distributions=own, value=float(value)))
    study.add_trials(trials)
    return study


def _distribution(factor: Factor) -> BaseDistribution:
    # The range extends half a step beyond both ends, so that every level has the same share of it.
    if factor.ordered:
        return FloatDistribution(-0.5, len(factor.levels) - 0.5)
    return CategoricalDistribution(range(len(factor.levels)))

"""Compute Sobol indices from Saltelli's design and elementary effects from Morris's."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from SALib.analyze import morris as morris_analysis
from SALib.analyze import sobol as sobol_analysis

from orchestrator.analysis.aggregate import axis_value, mean_of
from orchestrator.analysis.sensitivity.factors import Floats, Importance
from orchestrator.spec.trial import flatten
from orchestrator.sweep.search.designs import MORRIS_LEVELS, BadDesign, Design, problem


def design_values(design: Design, rows: Iterable[Mapping[str, Any]], metric: str) -> list[float | None]:
    """Return the metric's mean over seeds at every point of a design; None at points without a finished trial.

    Args:
        rows: the result of `load_results` for the sweep whose search is the design (`sweep/search/designs.py`).
    """
    points = [flatten(point) for point in design.points]
    paths = list(dict.fromkeys(path for point in points for path in point))
    values: dict[tuple[Any, ...], list[float | None]] = {}
    for row in rows:
        if row["status"] == "done":
            values.setdefault(tuple(_key(axis_value(row, path)) for path in paths), []).append(row.get(metric))
    means = [mean_of(values.get(tuple(_key(point.get(path)) for path in paths), [])) for point in points]
    return [None if mean is None else mean.mean for mean in means]


def sobol_indices(design: Design, values: Sequence[float | None], seed: int = 0) -> list[Importance]:
    """Return first-order, total and second-order indices: ``sobol_first``, ``sobol_total``, ``sobol_interaction``.

    The parameter of an interaction is ``first:second``. Intervals are bootstrapped over blocks; blocks with a missing
    value are left out, and ``n`` counts the others. (Saltelli et al. 2010, Saltelli 2002.)

    Raises:
        BadDesign: not a Sobol design, a wrong number of values, or fewer than two complete blocks.
    """
    _, results = _complete(design, values, "sobol")
    blocks, names = len(results) // design.block, list(design.axes)
    if np.ptp(results) == 0:
        sobol = {"S1": np.zeros(len(names)), "ST": np.zeros(len(names)), "S2": np.zeros((len(names), len(names)))}
        sobol |= {f"{key}_conf": value for key, value in sobol.items()}
    else:
        # SALib takes a seed of 0 for no seed.
        sobol = sobol_analysis.analyze(problem(design.axes), results, num_resamples=200, seed=seed + 1)
    indices = []
    for method, key in (("sobol_first", "S1"), ("sobol_total", "ST")):
        for i, name in enumerate(names):
            indices.append(_index(name, method, sobol[key][i], sobol[f"{key}_conf"][i], blocks))
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            pair = f"{first}:{names[j]}"
            indices.append(_index(pair, "sobol_interaction", sobol["S2"][i, j], sobol["S2_conf"][i, j], blocks))
    return indices


def morris_indices(design: Design, values: Sequence[float | None], seed: int = 0) -> list[Importance]:
    """Return the mean absolute elementary effect ``morris_mu_star`` and its standard deviation ``morris_sigma``.

    Effects are per span of the parameter. A large sigma relative to mu* indicates interactions or curvature; it has no
    interval. Trajectories with a missing value are left out. (Campolongo et al. 2007.)

    Raises:
        BadDesign: not a Morris design, a wrong number of values, or fewer than two complete trajectories.
    """
    unit, results = _complete(design, values, "morris")
    described, count = problem(design.axes), len(results) // design.block
    with warnings.catch_warnings():
        # SALib divides by the standard deviation of the elementary effects, which is 0 for an additive response.
        warnings.simplefilter("ignore")
        morris = morris_analysis.analyze(described, unit, results, num_levels=MORRIS_LEVELS, seed=seed + 1)
    indices = [
        _index(name, "morris_mu_star", morris["mu_star"][i], morris["mu_star_conf"][i], count)
        for i, name in enumerate(design.axes)
    ]
    sigmas = zip(design.axes, morris["sigma"], strict=True)
    return indices + [Importance(name, None, "morris_sigma", float(s), None, None, count) for name, s in sigmas]


def _complete(design: Design, values: Sequence[float | None], kind: str) -> tuple[Floats, Floats]:
    """Return unit points and values of the blocks without a missing value."""
    if design.kind != kind:
        raise BadDesign("design", f"must be of kind {kind!r}, found {design.kind!r}")
    if len(values) != len(design.points):
        raise BadDesign("values", f"{len(design.points)} points need as many, found {len(values)}")
    results = np.array([np.nan if value is None else value for value in values], dtype=float)
    whole = np.isfinite(results.reshape(-1, design.block)).all(axis=1)
    if whole.sum() < 2:
        raise BadDesign("values", f"fewer than two complete blocks of {design.block} points, found {int(whole.sum())}")
    complete = np.repeat(whole, design.block)
    return np.array(design.unit)[complete], results[complete]


def _index(parameter: str, method: str, value: Any, half: Any, n: int) -> Importance:
    value, half = float(value), float(np.nan_to_num(half))
    return Importance(parameter, None, method, value, value - half, value + half, n)


def _key(value: Any) -> Any:
    """Return a comparable key for a value; numbers in a table column that also has text are stored as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return json.dumps(value, sort_keys=True)
    try:
        return float(value)
    except ValueError:
        return value

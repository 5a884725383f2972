"""What designed experiments tell: Sobol indices from Saltelli's points, elementary effects from Morris's."""

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
    """The metric at every point of a design, mean over seeds; None where no trial there has finished.

    Args:
        rows: as `load_results` gives them, of the sweep whose search is the design (`sweep/search/designs.py`).
    """
    told = [flatten(point) for point in design.points]
    paths = list(dict.fromkeys(path for point in told for path in point))
    found: dict[tuple[Any, ...], list[float | None]] = {}
    for row in rows:
        if row["status"] == "done":
            found.setdefault(tuple(_key(axis_value(row, path)) for path in paths), []).append(row.get(metric))
    means = [mean_of(found.get(tuple(_key(point.get(path)) for path in paths), [])) for point in told]
    return [None if mean is None else mean.mean for mean in means]


def sobol_indices(design: Design, values: Sequence[float | None], seed: int = 0) -> list[Importance]:
    """First-order, total and second-order indices: methods ``sobol_first``, ``sobol_total``, ``sobol_interaction``.

    The parameter of an interaction is ``first:second``. Intervals are bootstrapped over blocks; a block with a missing
    value is left out, and ``n`` counts those that are in. (Saltelli et al. 2010, Saltelli 2002.)

    Raises:
        BadDesign: not a Sobol design, values that do not fit it, or fewer than two complete blocks.
    """
    _, results = _complete(design, values, "sobol")
    blocks, names = len(results) // design.block, list(design.axes)
    if np.ptp(results) == 0:
        found = {"S1": np.zeros(len(names)), "ST": np.zeros(len(names)), "S2": np.zeros((len(names), len(names)))}
        found |= {f"{key}_conf": value for key, value in found.items()}
    else:
        # A seed of 0 means "none" to SALib.
        found = sobol_analysis.analyze(problem(design.axes), results, num_resamples=200, seed=seed + 1)
    indices = []
    for method, key in (("sobol_first", "S1"), ("sobol_total", "ST")):
        for i, name in enumerate(names):
            indices.append(_index(name, method, found[key][i], found[f"{key}_conf"][i], blocks))
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            pair = f"{first}:{names[j]}"
            indices.append(_index(pair, "sobol_interaction", found["S2"][i, j], found["S2_conf"][i, j], blocks))
    return indices


def morris_indices(design: Design, values: Sequence[float | None], seed: int = 0) -> list[Importance]:
    """Mean absolute elementary effect ``morris_mu_star`` and its spread ``morris_sigma``, per span of the parameter.

    A great sigma beside mu* tells of interactions or curvature; it has no interval. A trajectory with a missing value
    is left out. (Campolongo et al. 2007.)

    Raises:
        BadDesign: not a Morris design, values that do not fit it, or fewer than two complete trajectories.
    """
    unit, results = _complete(design, values, "morris")
    described, count = problem(design.axes), len(results) // design.block
    with warnings.catch_warnings():
        # SALib divides by the spread of the elementary effects, which is 0 for an additive response.
        warnings.simplefilter("ignore")
        found = morris_analysis.analyze(described, unit, results, num_levels=MORRIS_LEVELS, seed=seed + 1)
    indices = [
        _index(name, "morris_mu_star", found["mu_star"][i], found["mu_star_conf"][i], count)
        for i, name in enumerate(design.axes)
    ]
    sigmas = zip(design.axes, found["sigma"], strict=True)
    return indices + [Importance(name, None, "morris_sigma", float(s), None, None, count) for name, s in sigmas]


def _complete(design: Design, values: Sequence[float | None], kind: str) -> tuple[Floats, Floats]:
    """Unit points and values of the blocks without a gap."""
    if design.kind != kind:
        raise BadDesign("design", f"must be of kind {kind!r}, found {design.kind!r}")
    if len(values) != len(design.points):
        raise BadDesign("values", f"{len(design.points)} points need as many, found {len(values)}")
    results = np.array([np.nan if value is None else value for value in values], dtype=float)
    whole = np.isfinite(results.reshape(-1, design.block)).all(axis=1)
    if whole.sum() < 2:
        raise BadDesign("values", f"fewer than two complete blocks of {design.block} points, found {int(whole.sum())}")
    taken = np.repeat(whole, design.block)
    return np.array(design.unit)[taken], results[taken]


def _index(parameter: str, method: str, value: Any, half: Any, n: int) -> Importance:
    value, half = float(value), float(np.nan_to_num(half))
    return Importance(parameter, None, method, value, value - half, value + half, n)


def _key(value: Any) -> Any:
    """A value of an axis and its cell in the table, where numbers may be text beside text, alike."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return json.dumps(value, sort_keys=True)
    try:
        return float(value)
    except ValueError:
        return value

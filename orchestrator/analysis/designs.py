"""Designed experiments: Saltelli's for Sobol indices and Morris's trajectories, with their analysis."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from SALib.analyze import morris as morris_analysis
from SALib.analyze import sobol as sobol_analysis
from SALib.sample import morris as morris_sample
from SALib.sample import sobol as sobol_sample

from orchestrator.analysis.aggregate import axis_value, mean_of
from orchestrator.analysis.factors import Floats, Importance
from orchestrator.spec.search_space import Axis

MORRIS_LEVELS = 4


class BadDesign(ValueError):
    """A design that cannot be made, or values that do not belong to it."""


@dataclass(frozen=True)
class Design:
    """Points to run, in order. A block (Sobol) or trajectory (Morris) is complete or it tells nothing."""

    kind: Literal["sobol", "morris"]
    axes: Mapping[str, Axis]
    unit: tuple[tuple[float, ...], ...]
    """The same points in the unit cube."""
    points: tuple[Mapping[str, Any], ...]
    block: int
    """Points a block or trajectory."""


def sobol_design(axes: Mapping[str, Axis], blocks: int, seed: int = 0) -> Design:
    """Saltelli's design (2002) on a scrambled Sobol sequence: ``blocks * (2 k + 2)`` points of k parameters.

    Args:
        axes: lists of values, or ranges; a whole or logarithmic range gives whole or logarithmically spaced values.
        blocks: a power of 2, so that the sequence is balanced.

    Raises:
        BadDesign: fewer than two parameters, or another number of blocks.
    """
    if blocks < 2 or blocks & (blocks - 1):
        raise BadDesign(f"blocks: must be a power of 2, found {blocks}")
    unit = sobol_sample.sample(_problem(axes), blocks, calc_second_order=True, seed=seed)
    return _design("sobol", axes, unit, 2 * len(axes) + 2)


def morris_design(axes: Mapping[str, Axis], trajectories: int, seed: int = 0) -> Design:
    """Morris's one-at-a-time trajectories (1991) on four levels: ``trajectories * (k + 1)`` points of k parameters.

    Raises:
        BadDesign: fewer than two parameters or trajectories.
    """
    if trajectories < 2:
        raise BadDesign(f"trajectories: must be 2 or more, found {trajectories}")
    unit = morris_sample.sample(_problem(axes), trajectories, num_levels=MORRIS_LEVELS, seed=seed)
    return _design("morris", axes, unit, len(axes) + 1)


def design_values(design: Design, rows: Iterable[Mapping[str, Any]], metric: str) -> list[float | None]:
    """The metric at every point of a design, mean over seeds; None where no trial there has finished."""
    found: dict[tuple[Any, ...], list[float | None]] = {}
    for row in rows:
        if row["status"] == "done":
            key = tuple(_key(axis_value(row, name)) for name in design.axes)
            found.setdefault(key, []).append(row.get(metric))
    means = [mean_of(found.get(tuple(_key(value) for value in point.values()), [])) for point in design.points]
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
        found = sobol_analysis.analyze(_problem(design.axes), results, num_resamples=200, seed=seed + 1)
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
    problem, count = _problem(design.axes), len(results) // design.block
    with warnings.catch_warnings():
        # SALib divides by the spread of the elementary effects, which is 0 for an additive response.
        warnings.simplefilter("ignore")
        found = morris_analysis.analyze(problem, unit, results, num_levels=MORRIS_LEVELS, seed=seed + 1)
    indices = [
        _index(name, "morris_mu_star", found["mu_star"][i], found["mu_star_conf"][i], count)
        for i, name in enumerate(design.axes)
    ]
    sigmas = zip(design.axes, found["sigma"], strict=True)
    return indices + [Importance(name, None, "morris_sigma", float(s), None, None, count) for name, s in sigmas]


def _problem(axes: Mapping[str, Axis]) -> dict[str, Any]:
    if len(axes) < 2:
        raise BadDesign(f"axes: a design needs two parameters or more, found {list(axes)}")
    return {"num_vars": len(axes), "names": list(axes), "bounds": [[0.0, 1.0]] * len(axes)}


def _design(kind: Literal["sobol", "morris"], axes: Mapping[str, Axis], unit: Floats, block: int) -> Design:
    lines = tuple(tuple(float(u) for u in line) for line in unit)
    points = tuple({name: _at(axis, u) for (name, axis), u in zip(axes.items(), line, strict=True)} for line in lines)
    return Design(kind, axes, lines, points, block)


def _at(axis: Axis, u: float) -> Any:
    """The value of an axis at 0..1; every value of a list or of whole numbers has an equal share."""
    if isinstance(axis, list):
        return axis[min(int(u * len(axis)), len(axis) - 1)]
    if axis.step is not None:
        return _at(axis.points() or [axis.low], u)
    if axis.log:
        value = float(axis.low) * (float(axis.high) / float(axis.low)) ** u
        return round(value) if axis.whole else float(f"{value:.12g}")
    if axis.whole:
        return min(int(axis.low) + int(u * (axis.high - axis.low + 1)), int(axis.high))
    return float(f"{axis.low + (axis.high - axis.low) * u:.12g}")


def _complete(design: Design, values: Sequence[float | None], kind: str) -> tuple[Floats, Floats]:
    """Unit points and values of the blocks without a gap."""
    if design.kind != kind:
        raise BadDesign(f"design: must be of kind {kind!r}, found {design.kind!r}")
    if len(values) != len(design.points):
        raise BadDesign(f"values: {len(design.points)} points need as many, found {len(values)}")
    results = np.array([np.nan if value is None else value for value in values], dtype=float)
    whole = np.isfinite(results.reshape(-1, design.block)).all(axis=1)
    if whole.sum() < 2:
        raise BadDesign(f"values: fewer than two complete blocks of {design.block} points, found {int(whole.sum())}")
    taken = np.repeat(whole, design.block)
    return np.array(design.unit)[taken], results[taken]


def _index(parameter: str, method: str, value: Any, half: Any, n: int) -> Importance:
    value, half = float(value), float(np.nan_to_num(half))
    return Importance(parameter, None, method, value, value - half, value + half, n)


def _key(value: Any) -> Any:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)

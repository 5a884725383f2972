"""Sobol and Morris designs on functions whose indices are known."""

import math

import pytest

from orchestrator.analysis.sensitivity.designs import design_values, morris_indices, sobol_indices
from orchestrator.spec.axes import Range
from orchestrator.sweep.search.designs import BadDesign, morris_design, sobol_design

PI = math.pi
SPACE = {name: Range(low=-PI, high=PI) for name in ("x1", "x2", "x3")}


def ishigami(x1: float, x2: float, x3: float) -> float:
    return math.sin(x1) + 7 * math.sin(x2) ** 2 + 0.1 * x3**4 * math.sin(x1)


def analytic() -> dict[tuple[str, str], float]:
    """Ishigami and Homma 1990, a = 7, b = 0.1."""
    v1, v2, v13 = 0.5 * (1 + 0.1 * PI**4 / 5) ** 2, 49 / 8, 0.01 * PI**8 * 8 / 225
    total = v1 + v2 + v13
    first = {"x1": v1, "x2": v2, "x3": 0.0}
    whole = {"x1": v1 + v13, "x2": v2, "x3": v13}
    pairs = {"x1:x2": 0.0, "x1:x3": v13, "x2:x3": 0.0}
    kinds = {"sobol_first": first, "sobol_total": whole, "sobol_interaction": pairs}
    return {(kind, name): v / total for kind, values in kinds.items() for name, v in values.items()}


def test_sobol_finds_ishigamis_indices() -> None:
    design = sobol_design(SPACE, 1024)
    assert len(design.points) == 1024 * 8
    indices = sobol_indices(design, [ishigami(**point) for point in design.points])
    wanted = analytic()
    assert {(index.method, index.parameter) for index in indices} == set(wanted)
    for index in indices:
        assert index.low is not None
        assert index.high is not None
        assert index.low <= wanted[index.method, index.parameter] <= index.high, index
        assert index.high - index.low < 0.35


def test_designs_and_their_analysis_repeat() -> None:
    assert sobol_design(SPACE, 8, seed=0) == sobol_design(SPACE, 8, seed=0)
    assert sobol_design(SPACE, 8, seed=0).unit != sobol_design(SPACE, 8, seed=1).unit
    design = morris_design(SPACE, 4, seed=0)
    assert design == morris_design(SPACE, 4, seed=0)
    values = [ishigami(**point) for point in design.points]
    assert morris_indices(design, values) == morris_indices(design, values)


def test_a_gap_costs_its_block_alone() -> None:
    design = sobol_design(SPACE, 64)
    values = [ishigami(**point) for point in design.points]
    values[3] = None
    values[20] = math.nan
    assert {index.n for index in sobol_indices(design, values)} == {62}
    flat = sobol_indices(design, [0.5] * len(values))
    assert {index.value for index in flat} == {0.0}


def test_morris_ranks_and_tells_the_bent_from_the_straight() -> None:
    space = {name: Range(low=0.0, high=1.0) for name in "abcd"}
    design = morris_design(space, 20)
    values = [5 * p["a"] + 2 * p["b"] + 4 * (p["c"] - 0.5) * p["a"] for p in design.points]
    values[0] = None
    indices = morris_indices(design, values)
    star = {index.parameter: index.value for index in indices if index.method == "morris_mu_star"}
    sigma = {index.parameter: index.value for index in indices if index.method == "morris_sigma"}
    ranks = sorted(star, key=star.__getitem__, reverse=True)
    assert (ranks[0], ranks[-1]) == ("a", "d")
    assert star["b"] == pytest.approx(2)
    assert star["d"] == pytest.approx(0, abs=1e-12)
    assert sigma["b"] == pytest.approx(0, abs=1e-9)
    assert sigma["a"] > 0.5
    assert {index.n for index in indices} == {19}


def test_points_are_values_of_the_axes() -> None:
    space = {
        "retrain": ["clr", "fine_tune"],
        "lr": Range(low=1e-4, high=1e-1, log=True),
        "epochs": Range(low=1, high=4),
        "sparsity": Range(low=0.3, high=0.9, step=0.2),
    }
    points = sobol_design(space, 64).points
    assert {p["retrain"] for p in points} == {"clr", "fine_tune"}
    assert {p["epochs"] for p in points} == {1, 2, 3, 4}
    assert {p["sparsity"] for p in points} == {0.3, 0.5, 0.7, 0.9}
    below = sum(p["lr"] < 10**-2.5 for p in points)
    assert below == pytest.approx(len(points) / 2, rel=0.1)


def test_values_are_means_over_the_seeds_at_a_point() -> None:
    design = morris_design({"target.sparsity": [0.3, 0.5], "retrain": ["clr", "ft"]}, 2)
    rows = [
        {"status": "done", "target_sparsity": p["target.sparsity"], "retrain": p["retrain"], "seed": s, "accuracy": s}
        for p in design.points[1:]
        for s in (0, 1)
    ]
    indices = design_values(design, rows, "accuracy")
    assert set(indices[1:]) == {0.5}
    assert design_values(design, [], "accuracy") == [None] * len(design.points)


def test_what_cannot_be_a_design_is_refused() -> None:
    with pytest.raises(BadDesign, match="power of 2, found 12"):
        sobol_design(SPACE, 12)
    with pytest.raises(BadDesign, match="two parameters or more"):
        morris_design({"x": [1, 2]}, 4)
    with pytest.raises(BadDesign, match="must be of kind 'morris', found 'sobol'"):
        morris_indices(sobol_design(SPACE, 4), [])
    with pytest.raises(BadDesign, match="32 points need as many, found 1"):
        sobol_indices(sobol_design(SPACE, 4), [1.0])
    with pytest.raises(BadDesign, match="fewer than two complete blocks"):
        sobol_indices(sobol_design(SPACE, 4), [None] * 32)

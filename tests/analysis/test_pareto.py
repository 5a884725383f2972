"""Fronts and hypervolumes: by hand, against Monte Carlo and Optuna's own."""

import itertools

import numpy as np
import optuna
import pytest

from orchestrator.analysis.pareto import BadObjectives, best_under, hypervolume, knee, pareto_front


def test_a_front_by_hand() -> None:
    points = [(0.9, 10), (0.8, 5), (0.7, 6), (0.9, 10), (0.95, 20), (None, 1), (float("nan"), 1)]
    assert pareto_front(points, ["max", "min"]) == [0, 1, 3, 4]
    assert pareto_front([], ["max", "min"]) == []


def test_two_objectives_by_sorting_are_as_by_comparing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = [tuple(point) for point in rng.integers(0, 8, (40, 2)).tolist()]
        beaten = [any(q[0] >= p[0] and q[1] <= p[1] and q != p for q in points) for p in points]
        assert pareto_front(points, ["max", "min"]) == [i for i, is_beaten in enumerate(beaten) if not is_beaten]


def test_volumes_by_hand() -> None:
    assert hypervolume([(1, 1)], (0, 0), ["max", "max"]) == 1
    assert hypervolume([(2, 1), (1, 2), (1, 1), (-1, 9)], (0, 0), ["max", "max"]) == 3
    assert hypervolume([(0.9, 10)], (0.5, 20), ["max", "min"]) == pytest.approx(4)
    assert hypervolume([(2, 1, 1), (1, 2, 1), (1, 1, 2)], (0, 0, 0), ["max"] * 3) == 4
    assert hypervolume([], (0, 0), ["max", "max"]) == 0


def boxes(points, reference):
    """Inclusion and exclusion over all subsets of boxes between a point and the reference (all minimised)."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for chosen in itertools.combinations(points, size):
            total -= (-1) ** size * np.prod(np.clip(reference - np.max(chosen, axis=0), 0, None))
    return total


@pytest.mark.parametrize("dimensions", [2, 3])
def test_volumes_equal_inclusion_and_exclusion_and_optunas(dimensions: int) -> None:
    rng = np.random.default_rng(dimensions)
    reference = np.full(dimensions, 0.9)
    for _ in range(10):
        points = rng.random((8, dimensions)).round(1)
        volume = hypervolume(points.tolist(), reference.tolist(), ["min"] * dimensions)
        assert volume == pytest.approx(boxes(points, reference))
        inside = points[(points < reference).all(axis=1)]
        if len(inside):
            assert volume == pytest.approx(optuna._hypervolume.compute_hypervolume(inside, reference))
        assert volume == pytest.approx(hypervolume((-points).tolist(), (-reference).tolist(), ["max"] * dimensions))


def test_the_knee_is_where_the_front_bends() -> None:
    points = [(0.0, 1.0), (0.1, 0.2), (0.5, 0.1), (1.0, 0.0), (0.9, 0.9)]
    assert knee(points, ["min", "min"]) == 1
    assert knee([(0, 1), (0.5, 0.5), (1, 0)], ["min", "min"]) is None
    assert knee([(0, 1), (1, 0)], ["min", "min"]) is None
    assert knee([], ["min", "min"]) is None


def test_the_best_that_the_budget_allows() -> None:
    rows = [
        {"status": "done", "val_accuracy": 0.9, "latency_ms": 13.0},
        {"status": "done", "val_accuracy": 0.8, "latency_ms": 12.0},
        {"status": "done", "val_accuracy": 0.7, "latency_ms": 5.0},
        {"status": "done", "val_accuracy": 0.99, "latency_ms": None},
        {"status": "failed", "val_accuracy": 0.99, "latency_ms": 1.0},
    ]
    assert best_under(rows, {"latency_ms": "<= 12"}) is rows[1]
    assert best_under(rows, {"latency_ms": "< 12"}) is rows[2]
    assert best_under(rows, {"latency_ms": "<= 1"}) is None
    assert best_under(rows, {}, "latency_ms", "min") is rows[2]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BadObjectives, match=r"budget.latency_ms: .* found 'at most 12'"):
        best_under([], {"latency_ms": "at most 12"})
    with pytest.raises(BadObjectives, match=r"found 'up'"):
        pareto_front([(1,)], ["up"])
    with pytest.raises(BadObjectives, match=r"points\[0\]: 2 objectives"):
        pareto_front([(1, 2, 3)], ["max", "min"])
    with pytest.raises(BadObjectives, match=r"2 or 3 objectives, found 4"):
        hypervolume([], (0,) * 4, ["max"] * 4)

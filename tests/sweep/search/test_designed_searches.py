"""Sobol and Morris designs as searches: planned point by point, replicated by seeds, and found again in the records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.analysis.load import load_results
from orchestrator.analysis.sensitivity.designs import design_values, morris_indices, sobol_indices
from orchestrator.records.records import write_result
from orchestrator.spec.errors import SpecError
from orchestrator.spec.metric import TRIAL_METRICS
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.store import Store
from orchestrator.sweep.planning import Plan, plan
from orchestrator.sweep.search.designs import design_of

AXES: dict[str, Any] = {
    "target.sparsity": {"low": 0.2, "high": 0.8},
    "baseline.lr": {"low": 0.01, "high": 0.1, "log": True},
    "retrain": ["fine_tune", "clr", {"name": "clr", "warmup": 0.25}],
    "seed": [0, 1],
}


def space(search: Any, **changes: Any) -> SearchSpace:
    base = {"model": "lenet5", "data": {"name": "digits", "size": 16}, "method": "l1_norm", "retrain": {"epochs": 1}}
    return SearchSpace.parse({"name": "designed", "base": base, "axes": AXES, "search": search, **changes})


SOBOL = {"name": "sobol", "blocks": 8}
MORRIS = {"name": "morris", "trajectories": 6}


@pytest.mark.parametrize(("search", "points"), [(SOBOL, 8 * 8), (MORRIS, 6 * 4)])
def test_every_point_is_planned_for_every_seed(search: dict[str, Any], points: int) -> None:
    planned = plan(space(search))
    design = design_of(space(search))
    assert len(design.points) == points
    assert len(planned.trials) + planned.repeated == 2 * points
    seen = {(trial.spec.target.sparsity, trial.spec.seed) for trial in planned.trials}
    assert {seed for _, seed in seen} == {0, 1}
    assert {share for share, _ in seen} == {point["target.sparsity"] for point in design.points}
    assert list(planned.trials[0].point) == list(AXES)
    again = plan(space(search))
    assert [trial.trial_id for trial in again.trials] == [trial.trial_id for trial in planned.trials]
    other = plan(space({**search, "seed": 1}))
    assert {trial.trial_id for trial in other.trials} != {trial.trial_id for trial in planned.trials}


def accuracy(point: dict[str, Any], seed: int) -> float:
    """Linear in the sparsity, nothing of the rate, a step for one schedule; seeds differ by as much either way."""
    slow = isinstance(point["retrain"], dict)
    return 0.9 - 0.5 * point["target.sparsity"] + (0.1 if slow else 0.0) + (0.01 if seed else -0.01)


def record(planned: Plan, folder: Path, without: int | None = None) -> None:
    for i, trial in enumerate(planned.trials):
        value = accuracy(dict(trial.point), trial.spec.seed)
        status: Any = "failed" if i == without else "done"
        result = TrialResult(
            trial_id=trial.trial_id, spec=trial.spec, arm=trial.arm, point=dict(trial.point), status=status,
            error="lost" if status == "failed" else None, device="", host="",
            started="2026-01-01T00:00:00+00:00", ended="2026-01-01T00:00:01+00:00", commit="", versions={},
            metrics=dict.fromkeys(TRIAL_METRICS, value) if status == "done" else {},
        )  # fmt: skip
        place = folder / "trials" / trial.trial_id
        place.mkdir(parents=True)
        write_result(Store(folder), place, result)


@pytest.mark.parametrize("search", [SOBOL, MORRIS])
def test_the_analysis_finds_the_design_in_the_records(search: dict[str, Any], tmp_path: Path) -> None:
    record(plan(space(search)), tmp_path)
    design = design_of(space(search))
    values = design_values(design, load_results(tmp_path), "accuracy")
    # The seeds' noise is symmetric, so that their mean is the noiseless value, at every single point.
    expected = [accuracy(dict(point), 0) + 0.01 for point in design.points]
    assert values == pytest.approx(expected)
    indices = sobol_indices(design, values) if search is SOBOL else morris_indices(design, values)
    main = {
        index.parameter: index.value or 0.0 for index in indices if index.method in ("sobol_total", "morris_mu_star")
    }
    assert main["target.sparsity"] > main["retrain"] > main["baseline.lr"]
    assert main["baseline.lr"] == pytest.approx(0, abs=1e-9)
    if search is MORRIS:
        assert main["target.sparsity"] == pytest.approx(0.5 * 0.6)


def test_a_failed_seed_leaves_the_point_to_the_others(tmp_path: Path) -> None:
    planned = plan(space(SOBOL))
    record(planned, tmp_path, without=0)
    values = design_values(design_of(space(SOBOL)), load_results(tmp_path), "accuracy")
    assert None not in values
    assert values[0] == pytest.approx(accuracy(dict(planned.trials[0].point), 1))


ARMS = [{"method": "l1_norm"}, {"method": "random"}]


@pytest.mark.parametrize(
    ("search", "changes", "message"),
    [
        ("sobol", {}, "search.blocks: is missing"),
        ("morris", {}, "search.trajectories: is missing"),
        ({"name": "sobol", "blocks": 12}, {}, "search.blocks: must be a power of 2, found 12"),
        ({"name": "sobol", "blocks": 1}, {}, "search.blocks: must be greater than or equal to 2, found 1"),
        ({"name": "morris", "trajectories": 2.5}, {}, "search.trajectories: "),
        ({"name": "sobol", "blcoks": 8}, {}, "search.blcoks: unknown name 'blcoks'; did you mean 'blocks'?"),
        ({"name": "morris", "blocks": 8}, {}, "search.blocks: is for search 'sobol', found it with 'morris'"),
        ({"name": "grid", "trajectories": 8}, {}, "search.trajectories: is for search 'morris', found it with 'grid'"),
        (SOBOL, {"arms": ARMS}, "arms: a sobol design is over the axes of one arm, found 2: l1_norm, random"),
        (SOBOL, {"axes": {"target.sparsity": [0.3, 0.5], "seed": [0]}}, "axes: a design needs two parameters or more"),
        (
            MORRIS,
            {"axes": {**AXES, "seed": {"low": 0, "high": 3}}},
            "axes.seed: a design repeats each point for a list of seeds, found a range",
        ),
        (MORRIS, {"axes": {**AXES, "target.sparsity": [0.3, 1.3]}}, "axes.target.sparsity[1]: must be less than 1"),
    ],
)
def test_designs_that_cannot_be(search: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        plan(space(search, **changes))
    assert str(caught.value).startswith(message)

"""From points to trials and back, and what plans say of searches that draw."""

import math
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.records import write_result
from orchestrator.spec.axes import Range
from orchestrator.spec.errors import SpecError
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.store import Store
from orchestrator.sweep.planning import plan
from orchestrator.sweep.search.qmc import sobol_points, value_at
from orchestrator.sweep.space.arms import PlannedTrial, expand_arms, match_record

BASE = {"model": "lenet5", "data": "digits", "target": {"sparsity": 0.5}, "retrain": {"name": "clr", "epochs": 2}}
AXES = {
    "target.sparsity": {"low": 0.1, "high": 0.9},
    "retrain": ["fine_tune", {"name": "clr", "warmup": 0.2}],
    "seed": [0, 1],
}
ARMS = ["l1_norm", {"method": "network_slimming", "axes": {"method.penalty_weight": [1e-4, 1e-3]}}]


def space(search: Any = "tpe", **parts: Any) -> SearchSpace:
    named = {"name": search, "trials": 20} if isinstance(search, str) else search
    return SearchSpace.parse({"name": "s", "base": BASE, "axes": AXES, "arms": ARMS, "search": named, **parts})


def record(trial: PlannedTrial, **changes: Any) -> TrialResult:
    fields = {"arm": trial.arm, "point": dict(trial.point), "status": "done", **changes}
    return TrialResult(trial_id=trial.trial_id, spec=trial.spec, **fields)


def test_a_record_is_found_at_its_point_whoever_wrote_it() -> None:
    arms = expand_arms(space())
    point = {
        "target.sparsity": 0.3,
        "retrain": {"name": "clr", "warmup": 0.2},
        "seed": 1,
        "method.penalty_weight": 1e-3,
    }
    trial = arms[1].trial(point)
    assert trial.arm_index == 1
    assert match_record(arms, record(trial)) == trial
    stranger = record(trial, arm="mine", point={"target.sparsity": 0.3})
    assert match_record(arms, stranger) == trial


def test_a_record_of_elsewhere_is_not() -> None:
    arms = expand_arms(space())
    point = {"target.sparsity": 0.3, "retrain": "fine_tune", "seed": 1}
    elsewhere = expand_arms(space(axes={**AXES, "seed": [1, 7], "target.sparsity": [0.3, 0.95]}))
    assert match_record(arms, record(elsewhere[0].trial({**point, "seed": 7}))) is None
    assert match_record(arms, record(elsewhere[0].trial({**point, "target.sparsity": 0.95}))) is None
    assert match_record(arms, record(elsewhere[0].trial(point))) is not None


def test_ranges_hold_what_they_draw() -> None:
    assert Range(low=1, high=10, step=3).contains(7)
    assert not Range(low=1, high=10, step=3).contains(8)
    assert Range(low=0.1, high=0.5, step=0.1).contains(0.30000000000000004)
    assert not Range(low=0, high=9).contains(2.5)
    assert not Range(low=0.0, high=9.0).contains(True)
    assert Range(low=0, high=3).values() == [0, 1, 2, 3]
    assert Range(low=0.0, high=1.0, grid=3).values() is None
    assert Range(low=0, high=10, step=3).endpoints() == [0, 9]
    assert Range(low=0.25, high=4.0, log=True).endpoints() == [0.25, 4.0]


def test_a_sobol_sequence_fills_every_arm_evenly_and_goes_on_where_it_ended() -> None:
    axes = [arm.axes for arm in expand_arms(space())]
    points = list(sobol_points(axes, 32, seed=0))
    assert points[:20] == list(sobol_points(axes, 20, seed=0))
    for index in (0, 1):
        shares = sorted(point["target.sparsity"] for arm, point in points if arm == index)
        # One point in each sixteenth, as no 16 independent draws would have it.
        assert [math.floor((share - 0.1) / 0.8 * 16) for share in shares] == list(range(16))
    assert len(plan(space("qmc")).trials) == 20
    assert points != list(sobol_points(axes, 32, seed=1))


def test_shares_of_an_axis() -> None:
    assert [value_at(["a", "b"], share) for share in (0.0, 0.49, 0.5, 0.999)] == ["a", "a", "b", "b"]
    assert [value_at(Range(low=1, high=3), share) for share in (0.0, 0.4, 0.99)] == [1, 2, 3]
    assert value_at(Range(low=1e-4, high=1e-2, log=True), 0.5) == pytest.approx(1e-3)


def test_an_adaptive_plan_counts_what_is_recorded(tmp_path: Path) -> None:
    this = space()
    assert (plan(this).total, plan(this).to_draw, plan(this).trials) == (20, 20, ())
    trial = expand_arms(this)[0].trial({"target.sparsity": 0.25, "retrain": "fine_tune", "seed": 0})
    write_result(Store(tmp_path), tmp_path / "trials" / trial.trial_id, record(trial))
    planned = plan(this, tmp_path)
    assert (planned.total, planned.to_draw, planned.trials) == (20, 19, (trial,))
    narrower = space(axes={**AXES, "target.sparsity": {"low": 0.5, "high": 0.9}})
    assert plan(narrower, tmp_path).to_draw == 20


def test_a_finite_space_promises_no_more_trials_than_it_has_points() -> None:
    few = space(axes={"target.sparsity": [0.3, 0.5]})
    assert plan(few).total == 2 + 4


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"search": {"name": "tpe"}}, ["search.trials", "missing"]),
        ({"search": {"name": "tpe", "trials": 0}}, ["search.trials", "0"]),
        ({"search": "grid", "axes": {"seed": [0]}, "warm": True}, ["search.warm_start", "grid"]),
        ({"axes": {"target.sparsity": {"low": 0.1, "high": 1.5}}}, ["axes.target.sparsity", "1.5"]),
        ({"axes": {"target.sparsty": {"low": 0.1, "high": 0.5}}}, ["axes.target.sparsty", "'sparsity'"]),
        ({"axes": {"retrain": ["fine_tune", "clrr"]}}, ["axes.retrain[1]", "clrr", "'clr'"]),
        ({"search": {"name": "tpe", "trials": 3, "warm_start": ["s"]}}, ["search.warm_start[0]", "'s'"]),
    ],
)
def test_ends_of_the_axes_are_tried_before_anything_runs(parts: dict[str, Any], said: list[str]) -> None:
    if parts.pop("warm", False):
        parts["search"] = {"name": parts["search"], "warm_start": ["other"]}
    with pytest.raises(SpecError) as error:
        plan(space(**parts))
    assert all(part in str(error.value) for part in said), error.value


def test_a_combination_that_cannot_be_is_left_to_the_search() -> None:
    axes = {"method": ["l1_norm", "magnitude"], "target.quantity": ["macs", "weights"]}
    assert plan(space(axes=axes, arms=[])).to_draw == 4
    with pytest.raises(SpecError, match=r"axes\.method\[1\]|quantity"):
        plan(space(axes={"method": ["l1_norm", "magnitude"]}, arms=[]))


def test_a_sweep_to_start_from_must_be_there(tmp_path: Path) -> None:
    this = space({"name": "tpe", "trials": 3, "warm_start": ["firts"]})
    trial = expand_arms(this)[0].trial({"target.sparsity": 0.25, "retrain": "fine_tune", "seed": 0})
    write_result(Store(tmp_path), tmp_path / "first/trials" / trial.trial_id, record(trial))
    with pytest.raises(SpecError, match=r"search\.warm_start\[0\].*'firts'.*'first'"):
        plan(this, tmp_path / "s")

"""What a search is told of an ended trial: validation figures, sizes, latencies."""

import pytest

from orchestrator.records.records import Latency
from orchestrator.spec.errors import SpecError
from orchestrator.spec.result import EpochRow, TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.planning import plan
from orchestrator.sweep.search.observation import Observation, observe, violation
from orchestrator.sweep.space.resolve import resolve

BASE = {"model": "lenet5", "data": "digits", "method": "l1_norm", "target": {"sparsity": 0.5}}
SPEC = resolve(BASE)
DENSE = EpochRow(stage="baseline", epoch=0, lr=0.1, train_loss=1, train_accuracy=1, val_accuracy=0.9, seconds=1)
DONE = TrialResult(
    trial_id=SPEC.trial_id,
    spec=SPEC,
    status="done",
    metrics={"accuracy": 0.99, "val_accuracy": 0.8, "macs": 50.0, "mac_sparsity": 0.4},
    epochs=[DENSE],
)


def space(objectives: dict[str, str], constraints: dict[str, str] | None = None, search: str = "tpe") -> SearchSpace:
    sections = {"objectives": objectives, "constraints": constraints or {}}
    axes = {"target.sparsity": {"low": 0.1, "high": 0.9}}
    return SearchSpace.parse(
        {"name": "s", "base": BASE, "axes": axes, "search": {"name": search, "trials": 9}, **sections}
    )


def test_the_test_set_decides_nothing() -> None:
    observation = observe(space({"accuracy": "max", "accuracy_drop": "min", "macs": "min"}), DONE, None)
    assert observation.values == pytest.approx((0.8, 0.1, 50.0))
    with pytest.raises(SpecError, match=r"objectives\.top5_accuracy.*val_accuracy"):
        plan(space({"top5_accuracy": "max"}))


def test_a_broken_constraint_is_told_by_how_much_of_its_bound() -> None:
    observation = observe(space({"accuracy": "max"}, {"mac_sparsity": ">= 0.5", "macs": "<= 100"}), DONE, None)
    assert observation.violations == pytest.approx({"mac_sparsity": 0.2, "macs": -0.5})
    assert violation("< 5", 5.0) > 0
    assert violation("<= 5", 5.0) == 0
    assert violation("> 0", -0.5) == 0.5


def test_what_is_asked_for_and_not_there_fails_the_trial_for_the_search() -> None:
    this = space({"accuracy": "max"}, {"latency_ms": "<= 2"})
    assert observe(this, DONE, None) == Observation("failed")
    observation = observe(this, DONE, Latency(latency_ms=1.0, latency_ms_std=0.1))
    assert (observation.state, observation.violations) == ("complete", {"latency_ms": -0.5})
    assert observe(this, DONE.model_copy(update={"status": "diverged"}), None) == Observation("failed")


def test_a_stopped_trial_tells_its_last_value_and_what_it_broke() -> None:
    stopped = DONE.model_copy(update={"status": "stopped", "stopped_at": 0.5})
    observation = observe(space({"accuracy": "max"}, {"mac_sparsity": ">= 0.5", "latency_ms": "<= 2"}), stopped, None)
    assert (observation.state, observation.values, observation.share) == ("stopped", (0.8,), 0.5)
    assert observation.violations == pytest.approx({"mac_sparsity": 0.2})
    assert observe(space({"accuracy": "max", "macs": "min"}), stopped, None).values == ()

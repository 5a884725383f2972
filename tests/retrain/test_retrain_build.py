"""From a trial's retraining to its schedule, and what is refused on the way."""

from __future__ import annotations

import pytest

from orchestrator.retrain.build import build
from orchestrator.retrain.clr import clr
from orchestrator.spec.errors import SpecError
from orchestrator.spec.trial import Baseline, Retrain
from orchestrator.training.schedule import Budget, ScheduleError


def test_build_passes_budget_and_parameters() -> None:
    retrain = Retrain(name="clr", epochs=8, params={"warmup": 0.25, "div": 10})
    expected = clr(Baseline(), Budget(8, 20, 1.5), warmup=0.25, div=10)
    assert build(retrain, Baseline(), steps_per_epoch=20, macs_ratio=1.5) == expected


def test_build_passes_the_ratio() -> None:
    schedule = build(Retrain(name="scratch_b"), Baseline(epochs=10), steps_per_epoch=3, macs_ratio=2.5)
    assert schedule.epochs == 25


@pytest.mark.parametrize(
    ("retrain", "message"),
    [
        (Retrain(name="finetune"), r"retrain: .*'finetune'.*'fine_tune'"),
        (Retrain(name="clr", params={"warm_up": 0.1}), r"retrain\.warm_up: .*'warmup'"),
        (Retrain(name="clr", params={"warmup": 1.5}), r"retrain\.warmup: .*1\.5"),
        (Retrain(name="fine_tune", params={"lr": 0}), r"retrain\.lr: .*0"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_path(retrain: Retrain, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(retrain, Baseline(), steps_per_epoch=10, macs_ratio=1.0)


def test_impossible_steps_are_refused() -> None:
    with pytest.raises(ScheduleError, match="steps_per_epoch must be 1 or more, found 0"):
        build(Retrain(name="clr"), Baseline(), steps_per_epoch=0, macs_ratio=1.0)

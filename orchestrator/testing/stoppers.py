"""The promises every stopper keeps, as tests to inherit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from orchestrator.plugins import Registry
from orchestrator.spec.errors import SpecError
from orchestrator.spec.result import EpochRow, TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.space.resolve import resolve
from orchestrator.sweep.stopping import STOPPERS
from orchestrator.sweep.stopping.policy import StoppingPolicy, rule_of
from orchestrator.sweep.stopping.rule import Progress

BASE = {"model": "lenet5", "data": "digits", "method": "l1_norm", "target": {"sparsity": 0.5}}
EPOCHS = 20
SIZES = {"params": 1000.0, "macs": 5000.0, "mac_sparsity": 0.5, "param_sparsity": 0.5}
SPEC = resolve(BASE)


def curve(accuracy: float) -> list[float]:
    """Return validation accuracies that rise to `accuracy` along a straight line."""
    return [accuracy * (epoch + 1) / EPOCHS for epoch in range(EPOCHS)]


def record(trial_id: str, accuracy: float) -> TrialResult:
    """Return the record of a trial that was not stopped."""
    rows = [
        EpochRow(
            stage="retrain", epoch=i, lr=0.1, train_loss=1.0, train_accuracy=value, val_accuracy=value, seconds=1.0
        )
        for i, value in enumerate(curve(accuracy))
    ]
    return TrialResult(trial_id=trial_id, spec=SPEC, status="done", epochs=rows, metrics=dict(SIZES))


def reports(policy: StoppingPolicy, trial_id: str, accuracy: float) -> list[Progress]:
    """Return what such a trial reports, rung by rung."""
    lengths = [math.ceil(share * EPOCHS) for share in policy.rungs]
    return [Progress(trial_id, rung, curve(accuracy)[:length], SIZES) for rung, length in enumerate(lengths)]


class StopperSuite:
    """Inherit it as ``Test...`` and parametrize the class over ``stopper_name``, or set ``name``.

    ``sections`` are sections of the search space that the stopper needs: objectives, constraints.
    """

    registry: ClassVar[Registry] = STOPPERS
    name: ClassVar[str] = ""
    parameters: ClassVar[Mapping[str, Any]] = {}
    sections: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def stopper_name(self) -> str:
        assert self.name, "set `name`, or parametrize the class over `stopper_name`"
        return self.name

    @pytest.fixture
    def space(self, stopper_name: str) -> SearchSpace:
        stopper = {"name": stopper_name, **self.parameters}
        return SearchSpace.parse({"name": "s", "base": BASE, "stopper": stopper, **self.sections})

    def test_rungs_are_rising_shares(self, space: SearchSpace) -> None:
        shares = rule_of(space).shares()
        assert shares
        assert list(shares) == sorted(set(shares))
        assert all(0 <= share < 1 for share in shares)

    def test_the_first_trial_goes_on(self, space: SearchSpace) -> None:
        policy = StoppingPolicy(space)
        for report in reports(policy, "first", 0.5):
            assert policy.decide(report) is None

    def test_the_best_trial_is_never_stopped(self, space: SearchSpace) -> None:
        policy = StoppingPolicy(space)
        policy.replay(record(f"t{i}", 0.1 + 0.05 * i) for i in range(12))
        for report in reports(policy, "best", 0.95):
            assert policy.decide(report) is None

    def test_a_verdict_is_a_reason(self, space: SearchSpace) -> None:
        policy = StoppingPolicy(space)
        policy.replay(record(f"t{i}", 0.5 + 0.03 * i) for i in range(12))
        for report in reports(policy, "worst", 0.01):
            reason = policy.decide(report)
            assert reason is None or (reason and "\n" not in reason)

    def test_a_report_that_comes_twice_changes_nothing(self, space: SearchSpace) -> None:
        policy = StoppingPolicy(space)
        policy.replay(record(f"t{i}", 0.3 + 0.04 * i) for i in range(8))
        for report in reports(policy, "twice", 0.45):
            assert policy.decide(report) == policy.decide(report)

    def test_replayed_records_count_as_what_was_reported(self, space: SearchSpace) -> None:
        accuracies = {f"t{i}": 0.3 + 0.05 * ((5 * i) % 8) for i in range(8)}
        live, resumed = StoppingPolicy(space), StoppingPolicy(space)
        for trial_id, accuracy in accuracies.items():
            for report in reports(live, trial_id, accuracy):
                live.decide(report)
        resumed.replay(record(trial_id, accuracy) for trial_id, accuracy in accuracies.items())
        for report in reports(live, "new", 0.4):
            assert live.decide(report) == resumed.decide(report)

    def test_an_unknown_parameter_is_refused_with_its_path(self, stopper_name: str, space: SearchSpace) -> None:
        stopper = {"name": stopper_name, **self.parameters, "no_such_parameter": 1}
        wrong = SearchSpace.parse({"name": "s", "base": BASE, "stopper": stopper, **self.sections})
        with pytest.raises(SpecError, match=r"^stopper\.no_such_parameter: "):
            rule_of(wrong)

    def test_its_source_describes_it(self, stopper_name: str) -> None:
        description = self.registry.describe(stopper_name)
        assert description.summary
        required = {p.name for p in description.parameters if p.default is ...}
        assert required <= set(self.parameters)


__all__ = ["StopperSuite", "record"]

"""Conformance suite of retraining schedules: tests to inherit."""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import pickle
from collections.abc import Callable
from typing import ClassVar

import pytest

from orchestrator.plugins import Registry
from orchestrator.retrain import SCHEDULES
from orchestrator.spec.trial import Baseline
from orchestrator.training.schedule import Budget, Schedule

BASELINES = (
    Baseline(epochs=8),
    Baseline(epochs=8, schedule="cosine"),
    Baseline(epochs=8, schedule="clr"),
    Baseline(epochs=8, milestones=[], lr=0.05, momentum=0.0),
    Baseline(epochs=7, milestones=[0.3, 0.6, 0.8], gamma=0.2, lr=0.02),
    Baseline(epochs=1),
    Baseline(epochs=1, schedule="clr"),
    Baseline(epochs=0),
    Baseline(epochs=0, schedule="cosine"),
)
BUDGETS = (
    Budget(0, 5),
    Budget(1, 1),
    Budget(1, 5),
    Budget(2, 5),  # ten steps: a warm-up of 10 % ends on step 0
    Budget(3, 7, 0.5),
    Budget(10, 3, 2.5),
    Budget(12, 7, 1.9),
)


Make = Callable[[Baseline, Budget], Schedule]
Case = tuple[Baseline, Budget, Schedule]


def values(schedule: Schedule) -> list[tuple[float, float]]:
    """Return the rate and momentum of every step, in order."""
    return [(schedule.lr_at(step), schedule.momentum_at(step)) for step in range(schedule.steps)]


class ScheduleSuite:
    """Inherit it as ``Test...`` and set ``name``, or parametrize the class over ``schedule_name``.

    The name is looked up in ``registry``; the tests use the default of every parameter.
    """

    registry: ClassVar[Registry] = SCHEDULES
    name: ClassVar[str] = ""

    @pytest.fixture
    def schedule_name(self) -> str:
        assert self.name, "set `name`, or parametrize the class over `schedule_name`"
        return self.name

    @pytest.fixture
    def make(self, schedule_name: str) -> Make:
        make: Make = self.registry.load(schedule_name)
        return make

    @pytest.fixture
    def cases(self, make: Make) -> list[Case]:
        return [
            (baseline, budget, make(baseline, budget)) for baseline, budget in itertools.product(BASELINES, BUDGETS)
        ]

    def test_length_is_the_budget(self, cases: list[Case]) -> None:
        """Retraining takes the budget's epochs; only a training from new weights has its own number."""
        for baseline, budget, schedule in cases:
            assert isinstance(schedule, Schedule)
            assert schedule.steps_per_epoch == budget.steps_per_epoch, (baseline, budget)
            assert schedule.reset_weights or schedule.epochs == budget.epochs, (baseline, budget)

    def test_nothing_to_spend_is_an_empty_schedule(self, make: Make) -> None:
        assert make(Baseline(epochs=0), Budget(0, 5)).steps == 0

    def test_rates_are_positive_and_at_most_the_dense_maximum(self, cases: list[Case]) -> None:
        for baseline, budget, schedule in cases:
            rates = [rate for rate, _ in values(schedule)]
            assert all(math.isfinite(rate) and rate > 0 for rate in rates), (baseline, budget, rates)
            assert max(rates, default=0.0) <= baseline.lr * (1 + 1e-12), (baseline, budget)

    def test_momentum_is_from_zero_to_below_one(self, cases: list[Case]) -> None:
        for baseline, budget, schedule in cases:
            assert all(0 <= momentum < 1 for _, momentum in values(schedule)), (baseline, budget)

    def test_pure(self, make: Make, cases: list[Case]) -> None:
        """A second call returns the same values, in any order of the steps."""
        for baseline, budget, schedule in cases:
            expected = values(schedule)
            again = make(baseline, budget)
            backwards = [(again.lr_at(step), again.momentum_at(step)) for step in reversed(range(again.steps))]
            assert backwards[::-1] == expected, (baseline, budget)
            assert values(schedule) == expected, (baseline, budget)

    def test_pickles(self, cases: list[Case]) -> None:
        for baseline, budget, schedule in cases:
            copy = pickle.loads(pickle.dumps(schedule))
            assert (copy.epochs, copy.reset_weights) == (schedule.epochs, schedule.reset_weights), (baseline, budget)
            assert values(copy) == values(schedule), (baseline, budget)

    def test_description_is_the_signature(self, schedule_name: str, make: Make) -> None:
        """The description from the source is the signature, and every default is valid."""
        described = self.registry.describe(schedule_name)
        accepted = {
            name: parameter
            for name, parameter in inspect.signature(make).parameters.items()
            if name not in self.registry.supplied and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        }
        assert [p.name for p in described.parameters] == list(accepted)
        for parameter in described.parameters:
            actual = accepted[parameter.name]
            assert parameter.default == actual.default
            assert type(parameter.default) is type(actual.default)
            if isinstance(actual.annotation, str):  # annotations are strings where the module postpones them
                assert parameter.annotation == ast.unparse(ast.parse(actual.annotation, mode="eval"))
        assert described.summary
        defaults = {p.name: p.default for p in described.parameters}
        self.registry.parameters(schedule_name).model_validate(defaults)


__all__ = ["ScheduleSuite", "values"]

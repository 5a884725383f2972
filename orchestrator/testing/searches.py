"""The promises every search keeps, as tests to inherit."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from orchestrator.plugins import Registry
from orchestrator.spec.errors import SpecError
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.planning import plan
from orchestrator.sweep.search import SEARCHES
from orchestrator.sweep.search.base import AdaptiveSearch, Exhausted, FixedSearch
from orchestrator.sweep.search.build import fixed_search, is_adaptive, start_study
from orchestrator.sweep.search.observation import EvaluatedTrial, Observation
from orchestrator.sweep.space.arms import PlannedTrial, expand_arms

BASE = {"model": "lenet5", "data": "digits", "method": "l1_norm", "target": {"sparsity": 0.5}}
AXES: Mapping[str, Any] = {
    "target.sparsity": {"low": 0.1, "high": 0.9, "grid": 3},
    "baseline.lr": {"low": 0.001, "high": 0.1, "log": True, "grid": 2},
    "retrain.epochs": {"low": 2, "high": 8, "step": 2},
    "retrain.name": ["fine_tune", "clr"],
    "seed": [0, 1],
}
FINITE: Mapping[str, Any] = {"target.sparsity": [0.25, 0.5, 0.75], "retrain.epochs": [2, 4]}
TRIALS = 16
USUAL = {"trials": TRIALS, "blocks": 4, "trajectories": 4}


def accuracy(trial: PlannedTrial) -> float:
    """Return an invented accuracy that is highest at a sparsity of 0.6."""
    return 1.0 - abs((trial.spec.target.sparsity or 0.0) - 0.6)


class SearchSuite:
    """Inherit it as ``Test...`` and parametrize the class over ``search_name``, or set ``name``.

    ``parameters`` are those that the search needs beside ``trials``.
    """

    registry: ClassVar[Registry] = SEARCHES
    name: ClassVar[str] = ""
    parameters: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def search_name(self) -> str:
        assert self.name, "set `name`, or parametrize the class over `search_name`"
        return self.name

    def space(self, search_name: str, axes: Mapping[str, Any] = AXES, **changes: Any) -> SearchSpace:
        """Return a search space of one arm with every kind of axis."""
        required = {p.name for p in self.registry.describe(search_name).parameters if p.default is ...}
        usual = {key: value for key, value in USUAL.items() if key in required}
        search = {"name": search_name, **usual, **self.parameters, **changes}
        return SearchSpace.parse({"name": "s", "base": BASE, "axes": axes, "search": search})

    def drawn(self, space: SearchSpace, n_trials: int) -> list[PlannedTrial]:
        """Return the trials in the order of the search; each is told before the next is asked for."""
        arms = expand_arms(space)
        if not is_adaptive(space.search):
            points = itertools.islice(fixed_search(space.search).points(arms), n_trials)
            return [arms[index].trial(point) for index, point in points]
        study = start_study(space, arms)
        trials = []
        for _ in range(n_trials):
            trials.append(study.ask())
            study.tell(trials[-1].trial_id, Observation("complete", (accuracy(trials[-1]),)))
        return trials

    def test_it_is_what_its_source_says(self, search_name: str) -> None:
        description = self.registry.describe(search_name)
        kind = self.registry.load(search_name)
        assert description.summary
        assert issubclass(kind, AdaptiveSearch if description.attributes["adaptive"] else FixedSearch)

    def test_its_points_lie_on_the_axes(self, search_name: str) -> None:
        space = self.space(search_name)
        arms = expand_arms(space)
        trials = self.drawn(space, TRIALS)
        assert trials
        for trial in trials:
            assert arms[trial.arm_index].contains(trial.point)
            assert list(trial.point) == list(arms[trial.arm_index].axes)

    def test_the_same_seed_gives_the_same_points(self, search_name: str) -> None:
        first, second = ([trial.trial_id for trial in self.drawn(self.space(search_name), TRIALS)] for _ in range(2))
        assert first == second

    def test_it_is_planned(self, search_name: str) -> None:
        planned = plan(self.space(search_name))
        assert planned.total > 0
        assert bool(planned.to_draw) == is_adaptive(planned.space.search)

    def test_an_unknown_parameter_is_refused_with_its_path(self, search_name: str) -> None:
        with pytest.raises(SpecError, match=r"^search\.no_such_parameter: "):
            plan(self.space(search_name, no_such_parameter=1))

    def test_a_study_never_asks_for_a_trial_twice_and_ends(self, search_name: str) -> None:
        """A finite space is searched to its end, though some trials fail or are stopped."""
        space = self.space(search_name, FINITE)
        if not is_adaptive(space.search):
            pytest.skip("a fixed search has no study")
        study = start_study(space, expand_arms(space))
        outcomes = itertools.cycle(
            [Observation("complete", (0.5,)), Observation("failed"), Observation("stopped", (0.4,), {}, 0.5)]
        )
        trial_ids = []
        for outcome in itertools.islice(outcomes, 6):
            trial_ids.append(study.ask().trial_id)
            study.tell(trial_ids[-1], outcome)
        assert len(set(trial_ids)) == 6
        with pytest.raises(Exhausted):
            study.ask()

    def test_a_resumed_study_knows_what_is_recorded_and_what_runs(self, search_name: str) -> None:
        space = self.space(search_name, FINITE)
        if not is_adaptive(space.search):
            pytest.skip("a fixed search has no study")
        arms = expand_arms(space)
        trials = self.drawn(space, 4)
        evaluated = [EvaluatedTrial(trial, Observation("complete", (accuracy(trial),))) for trial in trials[:3]]
        resumed = start_study(space, arms, evaluated)
        resumed.register_running(trials[3])
        asked = [resumed.ask().trial_id for _ in range(2)]
        assert not set(asked) & {trial.trial_id for trial in trials}
        resumed.tell(trials[3].trial_id, Observation("complete", (accuracy(trials[3]),)))
        resumed.cancel(asked[0])


__all__ = ["SearchSuite", "accuracy"]

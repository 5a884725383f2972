"""Adaptive searches without Ray: what they suggest, what they are told, and what they make of it."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend, JournalStorage

from orchestrator.spec.errors import SpecError
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.search.base import Exhausted
from orchestrator.sweep.search.build import start_study
from orchestrator.sweep.search.observation import EvaluatedTrial, Observation
from orchestrator.sweep.space.arms import PlannedTrial, expand_arms

BASE = {"model": "lenet5", "data": "digits", "target": {"sparsity": 0.5}}
SPARSITY = {"target.sparsity": {"low": 0.0, "high": 0.9}}
PENALTY = {"method.penalty_weight": {"low": 1e-5, "high": 1e-2, "log": True}}
ARMS = ["l1_norm", "random", {"method": "network_slimming", "axes": PENALTY}]
Objective = Callable[[PlannedTrial], float]


def space(search: str = "tpe", **parts: Any) -> SearchSpace:
    parts = {"axes": SPARSITY, "arms": ARMS, **parts}
    return SearchSpace.parse({"name": "s", "base": BASE, "search": {"name": search, "trials": 60}, **parts})


def accuracy(trial: PlannedTrial) -> float:
    """Best at sparsity 0.6 of one arm; the others are worse."""
    best = {"network_slimming": 1.0, "l1_norm": 0.8, "random": 0.5}[trial.arm]
    return best - abs(trial.point["target.sparsity"] - 0.6)


def complete(*values: float, **violations: float) -> Observation:
    return Observation("complete", values, violations)


def searched(this: SearchSpace, trials: int, judge: Callable[[PlannedTrial], Observation]) -> list[PlannedTrial]:
    """Propose and tell, one at a time."""
    study = start_study(this, expand_arms(this))
    drawn = []
    for _ in range(trials):
        drawn.append(study.ask())
        study.tell(drawn[-1].trial_id, judge(drawn[-1]))
    return drawn


def test_tpe_finds_the_best_arm_and_place_sooner_than_chance() -> None:
    drawn = searched(space(), 40, lambda trial: complete(accuracy(trial)))
    numbers = random.Random(0)
    arms = expand_arms(space())
    chance = []
    for _ in range(40):
        arm = numbers.choice(arms)
        point = {"target.sparsity": numbers.uniform(0, 0.9)}
        chance.append(accuracy(PlannedTrial(0, arm.label, point, drawn[0].spec)))
    last = [accuracy(trial) for trial in drawn[20:]]
    assert sum(last) / len(last) > sum(chance) / len(chance) + 0.2
    assert max(map(accuracy, drawn)) > 0.97
    assert sum(trial.arm == "network_slimming" for trial in drawn[20:]) > 10


@pytest.mark.parametrize("search", ["tpe", "nsga2", "gp"])
def test_a_trial_has_the_axes_of_its_arm_and_no_others(search: str) -> None:
    drawn = searched(space(search), 16, lambda trial: complete(accuracy(trial)))
    assert len({trial.trial_id for trial in drawn}) == 16
    assert {trial.arm for trial in drawn} == {"l1_norm", "random", "network_slimming"}
    for trial in drawn:
        assert ("method.penalty_weight" in trial.point) == (trial.arm == "network_slimming")
        assert trial.spec.method.params.get("penalty_weight") == trial.point.get("method.penalty_weight")


@pytest.mark.parametrize("search", ["tpe", "nsga2"])
def test_several_objectives_and_a_constraint_draw_the_search_to_what_is_allowed(search: str) -> None:
    this = space(
        search,
        objectives={"accuracy": "max", "macs": "min"},
        constraints={"mac_sparsity": ">= 0.5"},
        arms=["l1_norm"],
        axes={**SPARSITY, "baseline.weight_decay": {"low": 0.0, "high": 1.0}},
    )

    def judged(trial: PlannedTrial) -> Observation:
        sparsity = trial.point["target.sparsity"]
        return complete(1 - sparsity**2, 1 - sparsity, mac_sparsity=0.5 - sparsity)

    drawn = searched(this, 60, judged)
    allowed = [trial.point["target.sparsity"] >= 0.5 for trial in drawn]
    assert sum(allowed[30:]) > 18  # by chance 13 of 30


def test_the_seed_is_drawn_and_the_sampler_never_hears_of_it() -> None:
    this = space(axes={**SPARSITY, "seed": [0, 1, 2]}, arms=["l1_norm"])
    study = start_study(this, expand_arms(this))
    drawn = [study.ask() for _ in range(30)]
    assert {trial.spec.seed for trial in drawn} == {0, 1, 2}
    assert all(set(trial.params) == {"target.sparsity"} for trial in study._study.trials)


def test_a_suggestion_that_is_known_is_answered_from_its_record() -> None:
    this = space(axes={"target.sparsity": [0.1, 0.2, 0.3]}, arms=["l1_norm", "random"])
    drawn = searched(this, 6, lambda trial: complete(trial.spec.target.sparsity or 0.0))
    assert len({trial.trial_id for trial in drawn}) == 6
    arms = expand_arms(this)
    known: list[EvaluatedTrial] = [EvaluatedTrial(trial, complete(0.5)) for trial in drawn[:5]]
    study = start_study(this, arms, known)
    last = study.ask()
    assert last.trial_id == drawn[5].trial_id
    study.tell(last.trial_id, complete(0.7))
    with pytest.raises(Exhausted, match="every point"):
        study.ask()
    stored = [trial for trial in study._study.trials if trial.user_attrs.get("trial_id") == last.trial_id]
    assert {tuple(trial.values or ()) for trial in stored} == {(0.7,)}


def test_two_suggestions_of_one_trial_are_told_together() -> None:
    this = space(axes={"target.sparsity": [0.1, 0.2]}, arms=["l1_norm"])
    study = start_study(this, expand_arms(this))
    first, other = study.ask(), study.ask()
    with pytest.raises(Exhausted):
        study.ask()
    study.tell(first.trial_id, complete(0.5))
    study.tell(other.trial_id, Observation("failed"))
    states = {trial.user_attrs["trial_id"]: trial.state.name for trial in study._study.trials}
    assert states == {first.trial_id: "COMPLETE", other.trial_id: "FAIL"}
    assert all(trial.state.is_finished() for trial in study._study.trials)


def test_what_cannot_be_is_told_as_failed_and_counted() -> None:
    axes = {"method": ["l1_norm", "magnitude"], "target.sparsity": {"low": 0.1, "high": 0.9}}
    this = space(axes=axes, arms=[])
    study = start_study(this, expand_arms(this))
    drawn = [study.ask() for _ in range(12)]
    assert {trial.spec.method.name for trial in drawn} == {"l1_norm"}
    failed = [trial for trial in study._study.trials if trial.state.name == "FAIL"]
    assert len(failed) == study.impossible > 0
    assert "magnitude" in failed[0].user_attrs["error"]


def test_a_space_without_a_possible_point_says_so_once() -> None:
    this = space(axes={"target.sparsity": {"low": 0.1, "high": 0.9}}, arms=["magnitude"])
    with pytest.raises(SpecError, match="removes single weights"):
        start_study(this, expand_arms(this)).ask()


def test_a_stopped_trial_is_never_told_as_complete() -> None:
    this = space()
    study = start_study(this, expand_arms(this))
    first, other = study.ask(), study.ask()
    study.tell(first.trial_id, Observation("stopped", (0.4,), share=0.25))
    study.tell(other.trial_id, Observation("stopped", (), {"mac_sparsity": 0.1}, share=0.0))
    first, second = study._study.trials
    assert (first.state.name, first.intermediate_values) == ("PRUNED", {25: 0.4})
    assert (second.state.name, second.constraints) == ("PRUNED", {"mac_sparsity": 0.1})


def journal(path: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))


@pytest.mark.parametrize("search", ["tpe", "nsga2", "gp"])
def test_a_search_goes_on_from_its_records(search: str, tmp_path: Path) -> None:
    """The journal is kept where it agrees with the records, and made anew from them where it does not."""
    this = space(search)
    arms, path = expand_arms(this), tmp_path / "optuna.journal"
    known: list[EvaluatedTrial] = []
    study = start_study(this, arms, known, path)
    for _ in range(12):
        trial = study.ask()
        known.append(EvaluatedTrial(trial, complete(accuracy(trial))))
        study.tell(trial.trial_id, known[-1].observation)
    before = path.read_bytes()
    again = start_study(this, arms, known, path)
    assert path.read_bytes().startswith(before)
    assert again.ask().trial_id not in {k.trial.trial_id for k in known}
    # That one was killed in flight: no record of it, and a line cut off.
    path.write_bytes(path.read_bytes()[:-7])
    third = start_study(this, arms, known, path)
    assert [trial.state.name for trial in journal(path).trials] == ["COMPLETE"] * 12
    assert [trial.user_attrs["trial_id"] for trial in journal(path).trials] == [k.trial.trial_id for k in known]
    assert third.ask().trial_id not in {k.trial.trial_id for k in known}
    changed = [*known[:-1], EvaluatedTrial(known[-1].trial, complete(0.123))]
    start_study(this, arms, changed, path)
    assert journal(path).trials[-1].value == 0.123


def test_evolution_goes_on_from_recorded_generations() -> None:
    this = space("nsga2", objectives={"accuracy": "max", "macs": "min"})
    arms = expand_arms(this)
    drawn = searched(this, 24, lambda trial: complete(accuracy(trial), 1.0))
    known = [EvaluatedTrial(trial, complete(accuracy(trial), 1.0)) for trial in drawn]
    study = start_study(this, arms, known)
    study.ask()
    key = optuna.samplers.NSGAIISampler._get_generation_key()
    assert study._study.trials[-1].system_attrs[key] == 1  # populations of 15


def test_a_killed_trial_that_is_still_recorded_is_told_when_it_comes() -> None:
    this = space()
    study = start_study(this, expand_arms(this))
    trial = searched(this, 1, lambda trial: complete(0.5))[0]
    study.register_running(trial)
    study.tell(trial.trial_id, complete(0.5))
    assert [(t.user_attrs["trial_id"], t.value) for t in study._study.trials] == [(trial.trial_id, 0.5)]

"""Distinct networks and trainings of a plan, with what a search has still to draw."""

from __future__ import annotations

from typing import Any

from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.driver.training_kinds import networks, representative_trials, training_kinds
from orchestrator.sweep.planning import Plan, plan

BASE = {"model": "lenet5", "data": {"name": "digits", "size": 28}, "target": {"sparsity": 0.5}}


def planned(**more: Any) -> Plan:
    return plan(SearchSpace.parse({"name": "s", "base": BASE, **more}))


def everything(this: Plan) -> list[Any]:
    return representative_trials(this, {trial.trial_id for trial in this.trials})


def test_one_training_a_network_and_batch_size_and_one_a_method_that_trains() -> None:
    this = planned(
        axes={"target.sparsity": [0.3, 0.5], "seed": [0, 1], "baseline.batch_size": [32, 64]},
        arms=["l1_norm", "taylor", "sfp", {"method": "network_slimming", "retrain": {"batch_size": 128}}],
    )
    labels = [training.label for training in training_kinds(trial.spec for trial in everything(this))]
    on = "lenet5 on digits, batch"
    assert sorted(labels) == sorted(
        [f"{on} 32", f"{on} 64", f"{on} 128"]
        + [f"{method} with {on} {size}" for method in ("sfp", "network_slimming") for size in (32, 64)]
    )


def test_only_what_has_still_to_run_counts() -> None:
    this = planned(axes={"model": ["lenet5", "convnet"]}, arms=["l1_norm"])
    last = this.trials[1]
    assert [
        network.spec.model.name for network in networks(representative_trials(this, {last.trial_id}), this.arms)
    ] == ["convnet"]


def test_a_network_is_found_where_the_file_names_it() -> None:
    this = planned(
        axes={"seed": [0, 1]}, arms=["l1_norm", {"method": "taylor", "axes": {"model": ["lenet5", "convnet"]}}, "hrank"]
    )
    places = {network.spec.model.name: network.where for network in networks(everything(this), this.arms)}
    assert places == {"lenet5": "base.model", "convnet": "arms[1].axes.model[1]"}


def test_a_search_that_draws_is_looked_through_for_all_it_may_draw() -> None:
    this = planned(
        axes={"model": ["lenet5", "convnet"], "data.size": [28, 32], "target.sparsity": {"low": 0.1, "high": 0.9}},
        arms=["l1_norm", "sfp"],
        search={"name": "tpe", "trials": 4},
    )
    assert this.trials == ()
    every = representative_trials(this, ())
    assert len(networks(every, this.arms)) == 4
    assert len(training_kinds(trial.spec for trial in every)) == 8

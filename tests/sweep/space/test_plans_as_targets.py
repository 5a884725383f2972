"""A target may name a published plan: the trial is the counts that the name stands for."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.spec.errors import SpecError
from orchestrator.spec.search_space import SearchSpace
from orchestrator.surgery.published_plans import planned_counts
from orchestrator.sweep.planning import plan
from orchestrator.sweep.space.resolve import resolve

BASE: dict[str, Any] = {"model": "resnet56", "data": "cifar10", "method": "l1_norm"}


def test_the_counts_and_not_the_name_make_the_trial() -> None:
    named = resolve({**BASE, "target": {"plan": "pfec_b"}})
    counted = resolve({**BASE, "target": {"kept": planned_counts("pfec_b", "resnet56")}})
    assert named == counted
    assert named.trial_id == counted.trial_id
    assert named.target.kept is not None
    assert named.target.kept["layer1.0.conv1"] == 6
    assert "layer1.7.conv1" not in named.target.kept


def test_models_and_plans_are_axes() -> None:
    planned = plan(
        SearchSpace.parse(
            {
                "name": "s",
                "base": {"data": "cifar10"},
                "axes": {"model": ["vgg16", "resnet56"], "target.plan": ["pfec_a", "pfec_b"]},
                "arms": ["l1_norm", "random"],
            }
        )
    )
    assert len(planned.trials) == 8
    assert planned.count("baseline") == 2
    assert [trial.point["target.plan"] for trial in planned.trials[:2]] == ["pfec_a", "pfec_b"]


def test_an_arm_takes_back_the_plan_of_the_base() -> None:
    arm = {"method": "l1_norm", "target": {"plan": None, "sparsity": 0.5}}
    space = {"name": "s", "base": {**BASE, "target": {"plan": "pfec_a"}}, "arms": [arm]}
    assert plan(SearchSpace.parse(space)).trials[0].spec.target.kept is None


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"plan": "pfec_bb"}, "base.target.plan: unknown plan 'pfec_bb'; did you mean 'pfec_b'?"),
        ({"plan": "dcp_50"}, "base.target.plan: plan 'dcp_50' is one of torchvision:resnet50, found model 'resnet56'"),
        ({"plan": 5}, "base.target.plan: must be the name of a plan, found 5"),
        ({"plan": "pfec_a", "sparsity": 0.5}, "base.target.plan: give either plan or sparsity, found both: 'pfec_a'"),
        ({"plan": "pfec_a", "kept": [1]}, "base.target.plan: give either plan or kept, found both"),
        ({}, "base.target: give either sparsity, kept or plan, found neither"),
    ],
)
def test_plans_that_cannot_be(target: dict[str, Any], message: str) -> None:
    space = {"name": "s", "base": {**BASE, "target": target}}
    with pytest.raises(SpecError) as caught:
        plan(SearchSpace.parse(space))
    assert str(caught.value).startswith(message)


def test_a_plan_counts_filters() -> None:
    target = {"plan": "pfec_a", "quantity": "weights"}
    with pytest.raises(SpecError, match="counts filters"):
        resolve({**BASE, "method": "magnitude", "target": target})

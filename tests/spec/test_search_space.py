"""What a search space means: ranges, settings, arms."""

from pathlib import Path

import pytest

from orchestrator.spec.axes import Range
from orchestrator.spec.errors import SpecError
from orchestrator.spec.search_space import Resources, SearchSpace
from orchestrator.spec.yaml_loader import parse_yaml
from orchestrator.spec.yaml_text import as_yaml
from orchestrator.sweep.planning import plan

BASE = {
    "model": "lenet5",
    "data": "digits",
    "method": "l1_norm",
    "target": {"sparsity": 0.5},
    "retrain": {"name": "clr", "epochs": 2},
}


def space(**parts: object) -> SearchSpace:
    return SearchSpace.parse({"name": "s", "base": BASE, **parts})


@pytest.mark.parametrize(
    ("given", "points"),
    [
        (Range(low=1, high=10, step=3), [1, 4, 7, 10]),
        (Range(low=0.1, high=0.3, step=0.1), [0.1, 0.2, 0.3]),
        (Range(low=0.0, high=1.0, grid=3), [0.0, 0.5, 1.0]),
        (Range(low=1e-5, high=1e-3, log=True, grid=3), [1e-5, 1e-4, 1e-3]),
        (Range(low=1, high=4, grid=4), [1, 2, 3, 4]),
        (Range(low=1, high=4), None),
    ],
)
def test_grid_points_of_ranges(given: Range, points: list[float] | None) -> None:
    assert given.points() == points


def test_numbers_in_exponent_form_are_numbers() -> None:
    assert parse_yaml("[1e-4, 1E3, 1.5e2, -2e-1]", "x") == [1e-4, 1e3, 1.5e2, -2e-1]


def test_a_grid_is_the_product_of_shared_and_own_axes() -> None:
    planned = plan(
        space(
            axes={"target.sparsity": [0.3, 0.5], "seed": [0, 1]},
            arms=["l1_norm", {"method": "network_slimming", "axes": {"method.penalty_weight": [1e-4, 1e-3, 1e-2]}}],
        )
    )
    assert len(planned.trials) == 2 * 2 + 2 * 2 * 3
    assert planned.count("baseline") == 2  # one a seed
    assert planned.count("sparse_training") == 2 * 3  # sparsity is decided after it


def test_an_arms_axis_replaces_the_shared_one() -> None:
    weights = {"method": "magnitude", "target": {"quantity": "weights"}, "axes": {"target.sparsity": [0.9, 0.98]}}
    planned = plan(space(axes={"target.sparsity": [0.5]}, arms=["l1_norm", weights]))
    assert [(t.arm, t.spec.target.quantity, t.spec.target.sparsity) for t in planned.trials] == [
        ("l1_norm", "macs", 0.5),
        ("magnitude", "weights", 0.9),
        ("magnitude", "weights", 0.98),
    ]


def test_a_bare_name_keeps_the_parameters_beside_it() -> None:
    planned = plan(space(axes={"retrain": ["fine_tune", "clr"]}))
    assert [(t.spec.retrain.name, t.spec.retrain.epochs) for t in planned.trials] == [("fine_tune", 2), ("clr", 2)]


def test_soft_filter_pruning_trains_for_every_target() -> None:
    planned = plan(space(axes={"target.sparsity": [0.3, 0.5], "retrain": ["fine_tune", "clr"]}, arms=["sfp"]))
    assert len(planned.trials) == 4
    assert planned.count("sparse_training") == 2
    assert planned.count("baseline") == 1


def test_settings_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(as_yaml(space(axes={"seed": [0, 1, 2]})))
    changed = SearchSpace.load(
        file, {"retrain.epochs": 7, "seed": [5], "name": "t", "resources.cpus": 2, "data.size": 9}
    )
    planned = plan(changed)
    assert changed.name == "t"
    assert changed.resources == Resources(cpus=2)
    assert [(t.spec.seed, t.spec.retrain.epochs, t.spec.data.params) for t in planned.trials] == [(5, 7, {"size": 9})]


def test_resources_are_told_or_measured(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(as_yaml(space(resources="auto")))
    assert SearchSpace.load(file).resources == "auto"
    assert SearchSpace.load(file, {"resources.cpus": 2, "resources.gpus": 0.5}).resources == Resources(cpus=2, gpus=0.5)
    file.write_text(as_yaml(space(resources={"cpus": 3, "gpus": 0.5})))
    assert SearchSpace.load(file, {"resources": "auto"}).resources == "auto"
    assert SearchSpace.load(file, {"resources.cpus": 2}).resources == Resources(cpus=2, gpus=0.5)


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ("automatic", "resources: must be 'auto' or a mapping with cpus and gpus, found \"automatic\""),
        (None, "resources: must be 'auto' or a mapping with cpus and gpus, found null"),
        ({"cpu": 1}, "resources.cpu: unknown name 'cpu'; did you mean 'cpus'?"),
        ({"cpus": 0}, "resources.cpus: must be greater than 0, found 0"),
        ({"gpus": "auto"}, 'resources.gpus: must be a valid number, found "auto"'),
    ],
)
def test_resources_that_cannot_be_are_refused(resources: object, message: str) -> None:
    with pytest.raises(SpecError) as refused:
        space(resources=resources)
    assert str(refused.value) == message


def test_the_written_search_space_plans_the_same(tmp_path: Path) -> None:
    original = space(
        axes={"target.sparsity": {"low": 0.3, "high": 0.6, "grid": 2}, "seed": [0, 1]},
        arms=[{"name": "mine", "method": "l1_norm"}, {"method": "random", "retrain": "fine_tune"}],
        question="Why?",
    )
    (tmp_path / "s.yaml").write_text(as_yaml(original))
    again = SearchSpace.load(tmp_path / "s.yaml")
    assert again == original
    assert [t.trial_id for t in plan(again).trials] == [t.trial_id for t in plan(original).trials]


def test_random_search_draws_the_same_points_again() -> None:
    penalties = {"low": 1e-5, "high": 1e-2, "log": True}
    parts = {
        "axes": {"target.sparsity": {"low": 0.1, "high": 0.9}, "seed": {"low": 0, "high": 99}},
        "arms": ["l1_norm", {"method": "network_slimming", "axes": {"method.penalty_weight": penalties}}],
        "search": {"name": "random", "trials": 30},
    }  # fmt: skip
    first, second = plan(space(**parts)), plan(space(**parts))
    assert [t.trial_id for t in first.trials] == [t.trial_id for t in second.trials]
    assert len(first.trials) == 30
    assert {t.arm for t in first.trials} == {"l1_norm", "network_slimming"}
    for trial in first.trials:
        assert ("method.penalty_weight" in trial.point) == (trial.arm == "network_slimming")


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nothing\.yaml: cannot be read"):
        SearchSpace.load(tmp_path / "nothing.yaml")

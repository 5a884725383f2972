"""A target may name the layers to prune, in the file and as an axis; what cannot be is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.spec.errors import SpecError
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.planning import plan
from orchestrator.sweep.space.resolve import resolve
from orchestrator.trial.run import run_trial

BASE: dict[str, Any] = {"model": "lenet5", "data": {"name": "digits", "size": 16}, "method": "l1_norm"}
SPACES = Path(__file__).resolve().parents[3] / "searchspaces"


def test_layers_left_out_are_no_part_of_the_id() -> None:
    plain = resolve({**BASE, "target": {"sparsity": 0.5}})
    assert resolve({**BASE, "target": {"sparsity": 0.5, "layers": None}}).trial_id == plain.trial_id
    ids = [resolve({**BASE, "target": {"sparsity": 0.5, "layers": some}}).trial_id for some in (["conv1"], ["conv2"])]
    assert len({plain.trial_id, *ids}) == 3


def test_one_layer_at_a_time_is_an_axis_and_shares_the_baseline() -> None:
    planned = plan(SearchSpace.load(SPACES / "layer_sensitivity.yaml"))
    assert planned.count("baseline") == 1
    layers = [trial.spec.target.layers for trial in planned.trials]
    assert layers[0] == ["layer1.0.conv1"]
    assert len({tuple(names or ()) for names in layers}) * 4 == len(layers)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"layers": []}, "base.target.layers: must name at least one layer, found []"),
        ({"layers": "conv1"}, 'base.target.layers: must be a valid list, found "conv1"'),
        ({"layers": ["conv1", "conv1"]}, "base.target.layers: names 'conv1' twice"),
        ({"layers": [-1]}, "base.target.layers: layers are counted from 0, found -1"),
        ({"layers": [0.5]}, "base.target.layers: must be a valid string, found 0.5"),
        ({"layers": [0], "steps": [0.2]}, "base.target: give either layers or steps, found both: [0] and [0.2]"),
        ({"layers": [0], "sparsity": None, "kept": [3, 4]}, "base.target: layers need a sparsity"),
        ({"layers": [0], "sparsity": None, "plan": "pfec_a"}, "base.target.plan: give either plan or layers"),
    ],
)
def test_layers_that_cannot_be(more: dict[str, Any], message: str) -> None:
    space = {"name": "s", "base": {**BASE, "target": {"sparsity": 0.5, **more}}}
    with pytest.raises(SpecError) as caught:
        plan(SearchSpace.parse(space))
    assert str(caught.value).startswith(message)


def test_a_method_that_trains_for_the_whole_takes_no_layers() -> None:
    space = {"name": "s", "base": {**BASE, "target": {"sparsity": 0.5}}, "axes": {"target.layers": [["conv1"]]}}
    space["arms"] = ["l1_norm", "sfp"]
    with pytest.raises(
        SpecError, match=r"^axes\.target\.layers\[0\]: method 'sfp' trains for the sparsity of the whole"
    ):
        plan(SearchSpace.parse(space))


@pytest.mark.parametrize(
    ("method", "quantity", "layer"),
    [("l1_norm", "macs", "conv2"), ("l1_norm", "channels", 0), ("magnitude", "weights", "fc1")],
)
def test_a_trial_prunes_the_named_layer_alone(method: str, quantity: str, layer: str | int, tmp_path: Path) -> None:
    target = {"quantity": quantity, "sparsity": 0.5, "layers": [layer]}
    still = {"baseline": {"epochs": 0}, "retrain": {"epochs": 0}}
    result = run_trial(resolve({**BASE, **still, "method": method, "target": target}), Workspace(Store(tmp_path), "s"))
    assert result.status == "done", result.error
    assert result.achieved == pytest.approx(0.5, abs=1e-3)
    assert result.metrics["pruned_accuracy"] == result.metrics["accuracy"]
    changed = {row.layer for row in result.layers if row.kept_channels < row.dense_channels}
    zeros = {row.layer for row in result.layers if row.nonzero < row.params - row.dense_channels}
    assert changed == ({"conv1"} if layer == 0 else {"conv2"} if layer == "conv2" else set())
    assert zeros == ({"fc1"} if layer == "fc1" else set())


def test_an_unknown_layer_fails_its_trial_with_the_nearest_name(tmp_path: Path) -> None:
    still = {"baseline": {"epochs": 0}, "retrain": {"epochs": 0}}
    result = run_trial(
        resolve({**BASE, **still, "target": {"sparsity": 0.5, "layers": ["conv3"]}}), Workspace(Store(tmp_path), "s")
    )
    assert result.status == "failed"
    assert result.error == "NotPrunable: no prunable layer 'conv3'; did you mean 'conv2'?"

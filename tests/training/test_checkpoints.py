"""Checkpoints: an interrupted training resumes with the result of an uninterrupted one."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator.methods import METHODS
from orchestrator.methods.base import Method
from orchestrator.spec.result import EpochRow
from orchestrator.spec.trial import Baseline
from orchestrator.testing.methods import task_for
from orchestrator.testing.networks import CHANNELS, CLASSES, images, network
from orchestrator.training import checkpoint as checkpoints
from orchestrator.training.checkpoint import Checkpoint
from orchestrator.training.loop import Recipe, train
from orchestrator.training.rng import generator_for
from orchestrator.training.schedule import dense_schedule

EPOCHS = 4
RESUMABLE = [name for name in METHODS.names() if METHODS.load(name).training_state is not None]


@pytest.fixture(autouse=True)
def _every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)


class Killed(Exception):
    pass


class Report:
    """Collects the rows and raises after the given epoch."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.rows: list[EpochRow] = []
        self._dies_after = dies_after

    def __call__(self, row: EpochRow, epochs: int) -> None:
        self.rows.append(row)
        if row.epoch == self._dies_after:
            raise Killed


class Dropping(nn.Module):
    """A network that draws from the process-wide generator, has running statistics and channels_last kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(CHANNELS, 9, 3, bias=False), nn.BatchNorm2d(9), nn.ReLU(), nn.Conv2d(9, 7, 1), nn.Dropout(0.3),
            nn.Flatten(), nn.Linear(7 * 36, CLASSES),
        )  # fmt: skip

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.layers(inputs)
        return logits


def dropping() -> nn.Module:
    torch.manual_seed(3)
    return Dropping()


def recipe(**changes: Any) -> Recipe:
    baseline = Baseline(epochs=EPOCHS, lr=0.05, batch_size=20, schedule="cosine")
    return replace(Recipe(dense_schedule(baseline, 5), 20, 1e-4), **changes)


DATA = replace(images(), augment="crop_flip")


def run(
    model: nn.Module, checkpoint: Checkpoint | None, report: Report, recipe: Recipe, hook: Any = None
) -> list[EpochRow]:
    return train(
        model, DATA, recipe, stage="test", generator=generator_for(0, "test"), report=report, hook=hook,
        checkpoint=checkpoint,
    )  # fmt: skip


def timeless(rows: list[EpochRow]) -> list[EpochRow]:
    return [row.model_copy(update={"seconds": 0.0}) for row in rows]


def assert_equal(first: nn.Module, second: nn.Module) -> None:
    assert first.state_dict().keys() == second.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize("dies_after", [0, 2])
@pytest.mark.parametrize("how", [recipe(), recipe(nesterov=True), recipe(optimizer="adam")])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path, how: Recipe, dies_after: int) -> None:
    whole = dropping()
    expected = run(whole, None, Report(), how)
    with pytest.raises(Killed):
        run(dropping(), Checkpoint(tmp_path / "c", {}), Report(dies_after), how)
    torch.manual_seed(99)  # another process draws other numbers
    resumed, report = dropping(), Report()
    rows = run(resumed, Checkpoint(tmp_path / "c", {}), report, how)
    assert_equal(whole, resumed)
    assert timeless(rows) == timeless(expected)
    assert report.rows == rows  # including those before the interruption


def test_epochs_before_the_interruption_are_not_repeated(tmp_path: Path) -> None:
    first = Report(dies_after=2)
    with pytest.raises(Killed):
        run(dropping(), Checkpoint(tmp_path / "c", {}), first, recipe())
    rows = run(dropping(), Checkpoint(tmp_path / "c", {}), Report(), recipe())
    assert [row.seconds for row in rows[:3]] == [row.seconds for row in first.rows]


@pytest.mark.parametrize("name", RESUMABLE)
def test_a_method_s_state_is_restored(tmp_path: Path, name: str) -> None:
    method_class = METHODS.load(name)

    def prepared() -> tuple[nn.Module, Method]:
        model, method = network("residual"), method_class()
        task = task_for(model, method_class.granularities[0], images(), copy.deepcopy(model))
        method.prepare(model, replace(task, steps=EPOCHS * 5))
        return model, method

    def finish(model: nn.Module, method: Any) -> dict[str, Tensor]:
        scores = method.scores(model, task_for(model, method_class.granularities[0], images(), copy.deepcopy(model)))
        method.finish(model)
        return dict(scores)

    whole, method = prepared()
    expected = run(whole, None, Report(), recipe(), method)
    expected_scores = finish(whole, method)
    model, method = prepared()
    with pytest.raises(Killed):
        run(model, Checkpoint(tmp_path, {}), Report(1), recipe(), method)
    model, method = prepared()
    rows = run(model, Checkpoint(tmp_path, {}), Report(), recipe(), method)
    scores = finish(model, method)
    assert timeless(rows) == timeless(expected)
    assert len([row for row in rows if row.epoch < 2]) == 2
    assert_equal(whole, model)
    assert scores.keys() == expected_scores.keys()
    assert all(torch.equal(scores[key], expected_scores[key]) for key in scores)


def test_the_other_methods_start_over(tmp_path: Path) -> None:
    """Their state is not saved, and a network without its method's state would give another result."""
    model = network("chain")
    method = METHODS.load("autoprune")()
    assert method.training_state is None
    method.prepare(model, task_for(model, "weights", images(), copy.deepcopy(model)))
    with pytest.raises(Killed):
        run(model, Checkpoint(tmp_path / "c", {}), Report(1), recipe(), method)
    assert not (tmp_path / "c").exists()


def truncated(folder: Path) -> None:
    (tensors,) = folder.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:-9])


def flipped(folder: Path) -> None:
    (tensors,) = folder.glob("*.safetensors")
    content = bytearray(tensors.read_bytes())
    content[-9] ^= 1
    tensors.write_bytes(content)


def without_tensors(folder: Path) -> None:
    (tensors,) = folder.glob("*.safetensors")
    tensors.unlink()


def half_an_index(folder: Path) -> None:
    path = folder / "checkpoint.json"
    path.write_text(path.read_text()[:100])


def another_index(folder: Path) -> None:
    (folder / "checkpoint.json").write_text("[1, 2]")


@pytest.mark.parametrize("damage", [truncated, flipped, without_tensors, half_an_index, another_index])
def test_a_damaged_checkpoint_is_ignored(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    whole = dropping()
    expected = run(whole, None, Report(), recipe())
    with pytest.raises(Killed):
        run(dropping(), Checkpoint(tmp_path, {}), Report(1), recipe())
    damage(tmp_path)
    again = dropping()
    rows = run(again, Checkpoint(tmp_path, {}), Report(), recipe())
    assert_equal(whole, again)
    assert timeless(rows) == timeless(expected)


@pytest.mark.parametrize("other", [recipe(schedule=dense_schedule(Baseline(epochs=6, lr=0.05), 5)), recipe()])
def test_another_training_s_checkpoint_is_ignored(tmp_path: Path, other: Recipe) -> None:
    with pytest.raises(Killed):
        run(dropping(), Checkpoint(tmp_path, {"kept": 1}), Report(1), recipe())
    identity = {"kept": 2} if other.schedule.epochs == EPOCHS else {"kept": 1}
    whole = dropping()
    run(whole, None, Report(), other)
    again = dropping()
    run(again, Checkpoint(tmp_path, identity), Report(), other)
    assert_equal(whole, again)


def test_a_checkpoint_of_another_shape_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(dropping(), Checkpoint(tmp_path, {}), Report(1), recipe())
    whole, again = network("chain"), network("chain")
    run(whole, None, Report(), recipe())
    run(again, Checkpoint(tmp_path, {}), Report(), recipe())
    assert_equal(whole, again)


def test_an_interrupted_write_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path, {"of": "this"})
    checkpoint.write({"a": torch.arange(3)}, {"step": 1})

    def cut_short(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half of")
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "save_file", cut_short)
        with pytest.raises(Killed):
            checkpoint.write({"a": torch.arange(4)}, {"step": 2})
    saved = Checkpoint(tmp_path, {"of": "this"}).read()
    assert saved is not None
    assert (saved[0]["a"].tolist(), saved[1]) == ([0, 1, 2], {"step": 1})
    checkpoint.write({"a": torch.arange(5)}, {"step": 3})
    assert len(list(tmp_path.iterdir())) == 2  # the interrupted file is removed
    checkpoint.remove()
    assert not tmp_path.exists()


def test_layouts_and_types_are_restored(tmp_path: Path) -> None:
    tensors = {
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "turned": torch.randn(3, 4).T,
        "whole": torch.tensor(7),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "none": torch.zeros(0),
        "half": torch.randn(3).bfloat16(),
    }
    Checkpoint(tmp_path, {}).write(tensors, {})
    saved = Checkpoint(tmp_path, {}).read()
    assert saved is not None
    for name, tensor in tensors.items():
        assert torch.equal(saved[0][name], tensor)
        assert (saved[0][name].stride(), saved[0][name].dtype) == (tensor.stride(), tensor.dtype)


def test_a_failure_to_write_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    whole = dropping()
    run(whole, None, Report(), recipe())
    again = dropping()
    with pytest.warns(UserWarning, match="no checkpoint was written"):
        run(again, Checkpoint(tmp_path / "file" / "c", {}), Report(), recipe())
    assert_equal(whole, again)


def test_short_trainings_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 30.0)
    run(dropping(), Checkpoint(tmp_path / "c", {}), Report(), recipe())
    assert not (tmp_path / "c").exists()


def test_the_index_is_plain(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(dropping(), Checkpoint(tmp_path, {}), Report(1), recipe())
    index = json.loads((tmp_path / "checkpoint.json").read_text())
    assert [row["epoch"] for row in index["facts"]["rows"]] == [0, 1]
    assert index["facts"]["step"] == 10


def test_a_hook_s_tensors_keep_their_names_in_the_file(tmp_path: Path) -> None:
    """Checkpoints of 0.1.0 call the hook `companion`; after another name a training would start over."""
    model, method = network("residual"), METHODS.load("bar")()
    method.prepare(model, replace(task_for(model, "channels", images(), copy.deepcopy(model)), steps=EPOCHS * 5))
    with pytest.raises(Killed):
        run(model, Checkpoint(tmp_path, {}), Report(1), recipe(), method)
    index = json.loads((tmp_path / "checkpoint.json").read_text())
    assert {name.partition("/")[0] for name in index["layout"]} == {
        *("model", "optimizer", "generator", "random"),
        *("companion._gates.values", "companion._optimizer", "companion._noise"),
    }
    assert set(index["facts"]["plain"]) == {"_step"}

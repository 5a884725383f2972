"""GPU errors on a real Ray: a network runs out of memory when too many of it train at once, or loses its device."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator import SearchSpace, run
from orchestrator.spec.search_space import Resources
from orchestrator.sweep.cluster import probes, tune_runner
from orchestrator.sweep.driver.allocation import shared
from orchestrator.sweep.driver.outcome import SweepOutcome

NETWORK = '''
"""A network that needs a share of something that all processes of this machine have together."""
import os, time, uuid
from pathlib import Path
import torch
from torch import nn

class Hungry(nn.Module):
    def __init__(self, num_classes, in_channels, image_size, room, folder):
        super().__init__()
        self.room, self.folder = room, Path(folder)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, 16), nn.ReLU(),
                                    nn.Linear(16, num_classes))

    def forward(self, images):
        if not self.training:
            return self.layers(images)
        mine = self.folder / f"{os.getpid()}-{uuid.uuid4().hex}"
        mine.touch()
        try:
            time.sleep(0.05)
            if len(os.listdir(self.folder)) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has no more.")
            return self.layers(images)
        finally:
            mine.unlink()
class Fragile(Hungry):
    """Loses the device in the first process that trains it, for good."""
    def forward(self, images):
        marker = self.folder.parent / "first-process"
        if self.training and not marker.exists():
            marker.write_text(str(os.getpid()))
        if self.training and marker.read_text() == str(os.getpid()):
            raise RuntimeError("CUDA error: unspecified launch failure")
        return self.layers(images)

def fragile(num_classes: int, in_channels: int, image_size: int, room: int, folder: str) -> nn.Module:
    return Fragile(num_classes, in_channels, image_size, room, folder)

def hungry(num_classes: int, in_channels: int, image_size: int, room: int, folder: str) -> nn.Module:
    return Hungry(num_classes, in_channels, image_size, room, folder)
'''


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cluster whose workers know the network, and the folder in which it counts."""
    home = tmp_path_factory.mktemp("hungry")
    (home / "hungry_nets.py").write_text(NETWORK)
    (home / "training").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.syspath_prepend(home)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        with tune_runner.cluster("local", 2):
            yield home / "training"


@pytest.fixture
def sweep(training: Path, tmp_path: Path) -> Any:
    """Runs some seeds of the network; returns what came of it and what was said."""

    def go(room: int, resources: Any, seeds: int, network: str = "hungry") -> tuple[SweepOutcome, str]:
        model = {"name": f"hungry_nets:{network}", "room": room, "folder": str(training)}
        space = {
            "name": "tight",
            "base": {
                "model": model,
                "data": "digits",
                "method": "random",
                "target": {"quantity": "params", "sparsity": 0.5},
                "baseline": {"epochs": 2, "batch_size": 256, "lr": 0.01},
                "retrain": {"name": "fine_tune", "epochs": 2},
            },
            "axes": {"seed": list(range(seeds))},
            "resources": resources,
        }
        said = io.StringIO()
        outcome = run(SearchSpace.parse(space), out=tmp_path / "runs", console=Console(file=said, width=200))
        return outcome, said.getvalue()

    return go


def at_once(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if measured; CPU cores stand for what a GPU has."""
    allocation = shared(Resources(cpus=2, gpus=0), count, "as the test says")
    monkeypatch.setattr(probes, "allocation_of", lambda *arguments: allocation)


def test_trials_that_crowd_each_other_out_go_on_with_fewer_at_once(
    sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once have no room; what waits for a worker meanwhile comes back unharmed."""
    at_once(2, monkeypatch)
    outcome, said = sweep(room=1, resources="auto", seeds=4)
    assert (outcome.executed, outcome.failures, outcome.trained) == (4, [], {"baseline": 4})
    assert "resources auto: 1 CPU a trial (as the test says)" in said
    assert said.count("a trial ran out of memory with 2 at once") == 1
    record = json.loads((tmp_path / "runs/tight/resources.json").read_text())
    assert (record["limit"], record["resources"]) == (1, {"cpus": 2, "gpus": 0})
    assert not list((tmp_path / "runs/tight").glob(".retreat*"))


def test_a_trial_that_is_alone_and_short_of_memory_has_failed(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(2, monkeypatch)
    outcome, said = sweep(room=0, resources="auto", seeds=1)
    assert said.count("a trial ran out of memory with 2 at once") == 1
    (failure,) = outcome.failures
    assert failure.error == (
        "baseline failed: OutOfMemory: CUDA out of memory. Tried to allocate 2.00 GiB; "
        "it had its GPU to itself (resources): a smaller batch_size or model needs less"
    )


def test_fixed_resources_stay_and_the_reason_names_them(sweep: Any) -> None:
    outcome, said = sweep(room=0, resources={"cpus": 1}, seeds=1)
    (failure,) = outcome.failures
    assert failure.error is not None
    assert failure.error.startswith("baseline failed: OutOfMemory: CUDA out of memory")
    assert "resources" in failure.error
    assert "ran out of memory" not in said


def test_a_process_that_lost_its_gpu_is_replaced_and_its_job_done(sweep: Any, training: Path) -> None:
    """Left in use, it would fail every job after; the job is taken up by another process."""
    outcome, _ = sweep(room=9, resources={"cpus": 2}, seeds=2, network="fragile")
    assert (training.parent / "first-process").exists()
    assert (outcome.executed, outcome.failures, outcome.trained) == (2, [], {"baseline": 2})

"""What is found out on a real Ray before the first trial: networks that do not fit, what `resources: auto` comes to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from orchestrator.spec.errors import SpecError
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.store import Store
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.cluster import probes
from orchestrator.sweep.planning import Plan, plan
from orchestrator.sweep.worker.network_check import UnfitModel

BASE = {"data": "digits", "method": "l1_norm", "target": {"sparsity": 0.5}, "model": "convnet"}


@pytest.fixture(scope="module", autouse=True)
def promised_gpu() -> Iterator[None]:
    """A node that says it has a GPU, whether or not it has."""
    ray.init(
        address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    yield
    ray.shutdown()


def planned(**more: Any) -> Plan:
    return plan(SearchSpace.parse({"name": "s", "base": BASE, **more}))


def check(this: Plan, fits: bool = False) -> None:
    waiting = {trial.trial_id for trial in this.trials}
    probes.check_networks(this, waiting, lambda spec: fits, lambda: None)


def test_networks_that_do_not_fit_are_named_where_the_file_names_them() -> None:
    this = planned(
        axes={"seed": [0, 1]},
        arms=[
            "random",
            {"method": "taylor", "axes": {"model": ["convnet", "lenet5"]}},
            {"method": "hrank", "model": "vgg16"},
        ],
    )
    with pytest.raises(UnfitModel) as refused:
        check(this)
    assert str(refused.value).startswith(
        "arms[1].axes.model[1]: 'lenet5' cannot take the 8x8 images of 'digits': "
        "lenet5 needs images of at least 16x16 pixels, data has 8x8; arms[2].model: 'vgg16' cannot take the 8x8 images"
    )


def test_a_search_is_refused_for_a_network_it_may_draw() -> None:
    axes = {"model": ["convnet", "lenet5"], "target.sparsity": {"low": 0.1, "high": 0.9}}
    with pytest.raises(UnfitModel, match=r"^axes\.model\[1\]: 'lenet5' cannot take"):
        check(planned(axes=axes, search={"name": "tpe", "trials": 3}))


def test_networks_that_fit_or_have_trained_pass() -> None:
    check(planned())
    check(planned(axes={"model": ["lenet5"]}), fits=True)


def test_an_interrupt_is_heard_while_the_answer_is_waited_for() -> None:
    started = time.monotonic()

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probes.check_networks(planned(), {planned().trials[0].trial_id}, lambda spec: False, stop)
    assert time.monotonic() - started < 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_auto_trusts_no_gpu_that_pytorch_does_not_see(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="resources: 'auto' finds GPUs that Ray offers and PyTorch does not see"):
        probes.allocation_of(
            planned(resources="auto"), set(), Workspace(Store(tmp_path.parent), tmp_path.name), lambda: None
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_measures_on_a_gpu(tmp_path: Path) -> None:
    this = planned(resources="auto", axes={"method": ["l1_norm", "network_slimming"]})
    waiting = {trial.trial_id for trial in this.trials}
    allocation = probes.allocation_of(this, waiting, Workspace(Store(tmp_path.parent), tmp_path.name), lambda: None)
    record = json.loads((tmp_path / "resources.json").read_text())
    assert allocation.per_gpu == record["trials_per_gpu"] >= 1
    assert allocation.resources.gpus == pytest.approx(1 / allocation.per_gpu, abs=1e-4)
    assert len(record["loads"]) == 2
    assert all(0 < load["busy"] <= 1 for load in record["loads"])


def test_a_refused_sweep_trains_nothing_and_says_one_line(tmp_path: Path) -> None:
    space = {"name": "s", "base": BASE | {"model": "lenet5"}, "resources": "auto"}
    (tmp_path / "s.yaml").write_text(json.dumps(space))
    command = [sys.executable, "-m", "orchestrator", "run", "s.yaml"]
    own = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=own)
    assert done.returncode == 2
    reason = "lenet5 needs images of at least 16x16 pixels, data has 8x8"
    assert done.stderr.strip() == f"error: base.model: 'lenet5' cannot take the 8x8 images of 'digits': {reason}"
    assert done.stdout == ""
    assert not list((tmp_path / "runs/cache").glob("*/*"))
    assert not list((tmp_path / "runs/s").glob("trials/*"))

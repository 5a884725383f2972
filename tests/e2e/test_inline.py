"""A sweep in one process: no Ray, breakpoints that stop, tracebacks that show, interrupts that lose nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import command

SPACE = """
name: small
base:
  model: own_nets:tiny
  data: digits
  method: l1_norm
  target: {quantity: params, sparsity: 0.5}
  baseline: {epochs: 1, batch_size: 256}
  retrain: {name: fine_tune, epochs: 1}
axes:
  seed: [0, 1]
"""
NETS = """
from torch import nn

def tiny(num_classes, in_channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, 8), nn.ReLU(), nn.Linear(8, num_classes))
"""
SCRIPT = """
import sys
import orchestrator.methods.one_shot.l1_norm as module

(cls,) = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
scores, calls = cls.scores, []

def traced(self, model, task):
    {line}
    return scores(self, model, task)

cls.scores = traced
from orchestrator import SearchSpace, run

outcome = run(SearchSpace.load("small.yaml"), address="inline")
print("executed", outcome.executed, "failed", len(outcome.failures), "interrupted", outcome.interrupted)
print("ray imported:", "ray" in sys.modules)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(SPACE)
    (tmp_path / "own_nets.py").write_text(NETS)
    return tmp_path


def run_script(home: Path, line: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run the sweep with a line added to the method's `scores`."""
    script = SCRIPT.format(line=line)
    # Ray sends breakpoints of its processes and their children to a debugger of its own; earlier tests may run one.
    changed = {"MLFLOW_TRACKING_URI", "PYTHONBREAKPOINT"}
    environment = {name: value for name, value in os.environ.items() if name not in changed}
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=home, input=typed, capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip


def records(home: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in home.glob("runs/small/trials/*/result.json")]


def test_a_breakpoint_in_a_method_stops_there_and_ray_is_not_imported(home: Path) -> None:
    done = run_script(home, "breakpoint()", "p type(self).__name__ + '!'\nc\nc\n")
    assert "L1Norm!'" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("(Pdb)") == 3
    assert "executed 2 failed 0 interrupted False" in done.stdout
    assert "ray imported: False" in done.stdout
    assert [record["status"] for record in records(home)] == ["done", "done"]
    assert len(list(home.glob("runs/small/trials/*/latency.json"))) == 2


def test_leaving_the_debugger_stops_the_sweep_and_records_nothing(home: Path) -> None:
    done = run_script(home, "breakpoint()", "q\n")
    assert "interrupted True" in done.stdout, done.stdout + done.stderr
    assert records(home) == []


def test_an_exception_shows_its_traceback_and_fails_its_trial_alone(home: Path) -> None:
    done = run_script(home, "calls.append(1)\n    if len(calls) == 1: raise ValueError('no scores today')")
    failed = [record for record in records(home) if record["status"] == "failed"]
    assert f"executed 2 failed {len(failed)} interrupted False" in done.stdout, done.stdout + done.stderr
    assert {record["error"] for record in failed} == {"ValueError: no scores today"}
    assert len(failed) == 1
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert ", in traced" in done.stderr


def test_an_interrupt_stops_at_once_and_says_how_to_resume(home: Path) -> None:
    (home / "own_nets.py").write_text(
        NETS.replace("from torch", "import time\nfrom torch").replace(
            "    return nn.Seq", "    time.sleep(0.5)\n    return nn.Seq"
        )
    )
    driver = subprocess.Popen(
        command("run", "small.yaml", "--address", "inline"),
        cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not list(home.glob("runs/cache/baseline/[!.]*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    driver.send_signal(signal.SIGTERM)
    said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 130, said
    assert "Resume with: prunesweep run small.yaml --address inline" in said
    assert len(records(home)) < 2
    done = subprocess.run(
        command("run", "small.yaml", "--address", "inline"), cwd=home, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(records(home)) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_gpu_that_is_not_there_is_refused_before_the_first_trial(home: Path) -> None:
    (home / "small.yaml").write_text(SPACE + "resources: {gpus: 1}\n")
    done = subprocess.run(
        command("run", "small.yaml", "--address", "inline"), cwd=home, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "error: resources.gpus: PyTorch sees no GPU in this process, found 1"
    assert records(home) == []


def test_networks_that_do_not_fit_are_refused_before_the_first_trial(home: Path) -> None:
    (home / "small.yaml").write_text(SPACE.replace("own_nets:tiny", "lenet5"))
    done = subprocess.run(
        command("run", "small.yaml", "--address", "inline"), cwd=home, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert done.stderr.strip().startswith("error: base.model: 'lenet5' cannot take the 8x8 images of 'digits': lenet5")
    assert not list(home.glob("runs/cache/*/*"))

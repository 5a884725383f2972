"""What random kills and a full disk leave of a sweep; the same proof at full size is benchmarks/survival.py."""

import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from orchestrator.records.records import read_result, recorded_ids

TRIALS = 16


@pytest.fixture(scope="module")
def survival() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "survival.py"
    spec = importlib.util.spec_from_file_location("survival", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["survival"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_search_whose_driver_is_killed_twice_executes_nothing_again(survival: ModuleType, tmp_path: Path) -> None:
    """Resumed at once, while workers of the dead driver may still be at it; executions are counted by the method."""
    survival.prepare(tmp_path, "tpe", TRIALS)
    count = survival.survive(tmp_path, "tpe", TRIALS, kills=2, killed="driver", dice=random.Random(7))
    assert count.kills == 2  # these dice strike early: once among the first trials, once soon after that
    assert count.recorded == count.mlflow_runs == TRIALS
    assert (count.executed_again, count.records_changed, count.mlflow_twice, count.unreadable) == (0, 0, 0, 0)
    # A kill cuts off as many trials as there are workers, and no more.
    assert count.begun <= TRIALS + 2 * (os.cpu_count() or 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A store of 24 MB of its own."""
    store = tmp_path / "runs"
    store.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("a disk that can be filled needs root, to mount a small tmpfs")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(store)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield store
    subprocess.run(["umount", "--lazy", str(store)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all the space there is."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass
    return ballast


def test_a_full_disk_loses_nothing_and_spoils_nothing(survival: ModuleType, tmp_path: Path, small_disk: Path) -> None:
    survival.prepare(tmp_path, "grid", TRIALS)
    sweep = small_disk / "survival"
    command = [sys.executable, "-m", "orchestrator", "run", "survival.yaml"]
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while len(recorded_ids(sweep)) < 2 and driver.poll() is None:
        time.sleep(0.02)
    ballast = fill(small_disk)
    said, _ = driver.communicate(timeout=120)
    assert driver.returncode != 0
    assert "No space left on device" in said
    assert "Resume with: prunesweep run survival.yaml" in said
    assert "Traceback" not in said
    kept = {trial_id: read_result(sweep / "trials" / trial_id / "result.json") for trial_id in recorded_ids(sweep)}
    assert 2 <= len(kept) < TRIALS
    assert {result.status for result in kept.values()} == {"done"}
    assert not list(sweep.glob("trials/*/.result.json*"))

    ballast.unlink()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stdout + again.stderr
    executed = re.search(rf"executed (\d+) of {TRIALS} trials", again.stdout)
    assert executed is not None
    assert int(executed[1]) == TRIALS - len(kept)
    after = {trial_id: read_result(sweep / "trials" / trial_id / "result.json") for trial_id in recorded_ids(sweep)}
    assert len(after) == TRIALS
    assert {trial_id: after[trial_id] for trial_id in kept} == kept
    assert survival.children(small_disk / "mlflow.db") == dict.fromkeys(after, 1)

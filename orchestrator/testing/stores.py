"""A conformance suite for stores: what processes on any machine rely on, as tests to inherit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths

_WAIT_SECONDS = 60
_SWEEP, _STAGE, _KEY = "sweep", "baseline", "0123456789ab"

_SCRIPT = """
import sys, time
from pathlib import Path
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.storage.workspace import Workspace
from orchestrator.storage.driver_lock import SweepLocked, hold_driver_lock
from orchestrator.storage.store import Store

task, store, argument = sys.argv[1], Store.open(sys.argv[2]), sys.argv[3]
folder = store.folder / "sweep"
folder.mkdir(parents=True, exist_ok=True)
if task == "compute":
    import torch
    from orchestrator.trial.stage_cache import StageOutput, once
    torch.set_num_threads(1)
print("ready", flush=True)
sys.stdin.readline()
if task == "write":
    path = SweepPaths(folder).trial("trial").result
    print(store.write_once(path, argument.encode()), path.read_text())
elif task == "write many":
    for number in range(100_000):
        store.write_once(SweepPaths(folder).trial(f"{number:06d}").result, bytes([number % 251]) * 300_000)
elif task == "compute":
    def compute(checkpoint):
        with open(argument, "a") as log:
            log.write("computed\\n")
        time.sleep(0.3)
        return StageOutput({"weight": torch.ones(3)}, [], 1.0, {})
    for _ in range(2):
        output, reused = once(Workspace(store, "sweep"), "baseline", "0123456789ab", compute)
        print(reused, output.tensors["weight"].tolist(), flush=True)
        sys.stdin.readline()
elif task == "drive":
    try:
        with hold_driver_lock(store, folder):
            print("driving", flush=True)
            sys.stdin.readline()
    except SweepLocked as busy:
        print(busy)
"""


class StoreSuite:
    """Inherit it as ``Test...`` and define the fixtures ``store`` and ``machines``."""

    @pytest.fixture
    def store(self) -> str:
        """Return the address of an empty store, as given to ``--out``."""
        raise NotImplementedError

    @pytest.fixture
    def machines(self) -> list[dict[str, str]]:
        """Return the environment variables of a process on each of two machines; may be the same machine twice."""
        raise NotImplementedError

    def test_the_first_record_stands_and_every_machine_sees_it(
        self, store: str, machines: list[dict[str, str]]
    ) -> None:
        with started(*(("write", store, f"writer {i}", machines[i % 2]) for i in range(4))) as writers:
            outputs = [_finish(writer).split(maxsplit=1) for writer in writers]
        winners = [i for i, (written, _) in enumerate(outputs) if written == "True"]
        assert len(winners) == 1
        assert {text for _, text in outputs} == {f"writer {winners[0]}"}

    def test_a_record_is_whole_or_not_there_when_its_writer_is_killed(
        self, store: str, machines: list[dict[str, str]]
    ) -> None:
        with started(("write many", store, "", machines[0])) as (writer,):
            _go(writer)
            while len(_records(store)) < 3:
                assert writer.poll() is None
            writer.kill()
            writer.wait(_WAIT_SECONDS)
        for name, data in _records(store).items():
            assert data == bytes([int(name) % 251]) * 300_000

    def test_one_process_computes_a_stage_and_a_damaged_one_is_computed_again(
        self, store: str, machines: list[dict[str, str]], tmp_path: Path
    ) -> None:
        log = tmp_path / "computed"
        with started(*(("compute", store, str(log), machine) for machine in machines)) as workers:
            for computed in (1, 2):
                for worker in workers:
                    _go(worker)
                outputs = sorted(_line(worker) for worker in workers)
                assert outputs == ["False [1.0, 1.0, 1.0]", "True [1.0, 1.0, 1.0]"]
                assert log.read_text().count("computed") == computed
                for machine in machines:
                    _damage(store, machine)

    def test_a_sweep_has_one_driver_and_is_free_when_it_is_killed(
        self, store: str, machines: list[dict[str, str]]
    ) -> None:
        with started(*(("drive", store, "", machine) for machine in (*machines, machines[1]))) as drivers:
            first, second, third = drivers
            _go(first)
            assert _line(first) == "driving"
            refused = _finish(second)
            assert "a driver runs this sweep (host " in refused
            assert f"pid {first.pid}" in refused
            first.kill()
            first.wait(_WAIT_SECONDS)
            _go(third)
            assert _line(third) == "driving"


@contextmanager
def started(*tasks: tuple[str, str, str, Mapping[str, str]]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a process a task and yield them when all are ready; kill those that still run at the end."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, task, store, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **machine},
        )
        for task, store, argument, machine in tasks
    ]
    try:
        for process in running:
            assert _line(process) == "ready"
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate("go\n", timeout=_WAIT_SECONDS)
    assert process.returncode == 0
    return output.strip()


def _records(store: str) -> dict[str, bytes]:
    """Return the records by trial, as a machine reads them that has written none."""
    opened = Store.open(store)
    bucket, folder = opened.bucket, SweepPaths(opened.folder / _SWEEP).trials
    if bucket is None:
        return {path.parent.name: path.read_bytes() for path in folder.glob("*/result.json")}
    names = [name for name in bucket.list_objects(folder) if name.endswith("/result.json")]
    return {name.split("/")[0]: bucket.read(folder / name) or b"" for name in names}


def _damage(store: str, machine: Mapping[str, str]) -> None:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in machine.items():
            environment.setenv(name, value)
        opened = Store.open(store)
        path = opened.cache / _STAGE / _KEY / "tensors.safetensors"
        if path.exists():
            path.write_bytes(path.read_bytes()[:-1])
        if opened.bucket is not None:
            opened.bucket.write(path, b"damaged")

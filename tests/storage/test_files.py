"""Locks, atomic folders and layouts of a folder of this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.storage.atomic import remove_folder, replacing_folder
from orchestrator.storage.locks import LockUnavailable, acquire_lock
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths, is_record, is_uploaded_first

HOLD = """
import sys
from pathlib import Path
from orchestrator.storage.locks import acquire_lock
with acquire_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_lock_excludes_other_processes_and_falls_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockUnavailable), acquire_lock(path, wait=False):
            pass
        holder.kill()
        holder.wait(60)
    with acquire_lock(path, wait=False) as file:
        file.write("mine")
        with pytest.raises(LockUnavailable), acquire_lock(path, wait=False):
            pass
    assert path.read_text() == "mine"


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "0123456789ab"
    with replacing_folder(folder) as draft:
        (draft / "a").write_text("1")
        assert not folder.exists()

    def fail_half_way() -> None:
        with replacing_folder(folder) as draft:
            (draft / "b").write_text("2")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail_half_way()
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [folder]
    with replacing_folder(folder) as draft:
        (draft / "b").write_text("2")
    assert [path.name for path in folder.iterdir()] == ["b"]
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_keeps_records_and_no_networks_or_views_up_to_date() -> None:
    sweep = SweepPaths(Path("runs/sweep"))
    trial = sweep.trial("a")
    names = {path: path.relative_to(sweep.folder).as_posix() for path in (
        sweep.searchspace, sweep.resources, trial.result, trial.latency, trial.drawn, trial.cut,
        trial.network, trial.program, sweep.view("trials"), sweep.journal, sweep.driver_lock, trial.stop_marker(0),
    )}  # fmt: skip
    kept = {path for path, name in names.items() if is_record(name)}
    assert kept == {sweep.searchspace, sweep.resources, trial.result, trial.latency, trial.drawn, trial.cut}
    # Written here before they are uploaded: without an object they are not stale.
    assert {path for path in kept if not is_uploaded_first(names[path])} == {sweep.resources, trial.cut}
    assert is_record("result.json"), "relative to the trial's folder"


def test_a_folder_is_its_own_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open("runs")
    assert (store.address, store.bucket) == ("runs", None)
    assert store.resolve().address == str(tmp_path / "runs")
    assert Store.open(store.resolve().address) == store.resolve()
    assert store.write_once(store.folder / "a", b"1")
    assert not store.write_once(store.folder / "a", b"2")
    assert (tmp_path / "runs/a").read_bytes() == b"1"

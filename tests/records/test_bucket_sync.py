"""Records in a bucket as the machines that share it see them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.records import Latency, forget, read_latency, read_result, recorded_ids, write_latency, write_result
from orchestrator.records.bucket_sync import (
    delete_marker,
    read_marker,
    refresh,
    refresh_all,
    refresh_trial,
    sweeps_of,
    upload,
    write_marker,
)
from orchestrator.records.parquet import load_results, write_views
from orchestrator.storage.bucket import bucket_of
from orchestrator.storage.driver_lock import DriverAtWork, exclude_driver, hold_driver_lock, is_driven
from orchestrator.storage.uri import store_folder

SEARCH = """
name: sweep
base: {model: lenet5, data: digits, method: l1_norm}
axes: {target.sparsity: {low: 0.3, high: 0.9}}
search: {name: tpe, trials: 3, warm_start: [earlier]}
"""


class Machines:
    """Two machines with mirrors of their own, of which this process is one at a time."""

    def __init__(self, uri: str, folder: Path, environment: pytest.MonkeyPatch) -> None:
        self._uri, self._folder, self._environment = uri, folder, environment

    def on(self, name: str) -> Path:
        """Go to a machine; returns the sweep's folder there."""
        self._environment.setenv("PRUNESWEEP_STORES", str(self._folder / name))
        sweep = store_folder(self._uri) / "sweep"
        sweep.mkdir(parents=True, exist_ok=True)
        return sweep


@pytest.fixture
def machines(bucket_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(bucket_uri, tmp_path, monkeypatch)


def test_a_record_written_on_one_machine_is_read_on_the_other(machines: Machines, make_result) -> None:
    one = machines.on("one")
    result, later = make_result(host="first"), make_result(host="second")
    trial = one / "trials" / result.trial_id
    assert write_result(trial, result)
    write_latency(trial, Latency(latency_ms=1.0, latency_ms_std=0.1))
    two = machines.on("two")
    assert recorded_ids(two) == set()
    assert not write_result(two / "trials" / result.trial_id, later)
    assert read_result(two / "trials" / result.trial_id / "result.json") == result
    refresh(two)
    assert recorded_ids(two) == {result.trial_id}
    assert read_latency(two / "trials" / result.trial_id) == Latency(latency_ms=1.0, latency_ms_std=0.1)
    write_latency(two / "trials" / result.trial_id, Latency(latency_ms=2.0, latency_ms_std=0.1))
    refresh(machines.on("one"))
    assert read_latency(trial) == Latency(latency_ms=2.0, latency_ms_std=0.1)


def test_what_one_machine_forgets_the_other_forgets_too(
    machines: Machines, make_result, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machines.on("one")
    failed = make_result(status="failed", error="x", metrics={})
    write_result(one / "trials" / failed.trial_id, failed)
    two = machines.on("two")
    refresh(two)
    assert forget(two / "trials" / failed.trial_id)
    assert recorded_ids(two) == set()
    one = machines.on("one")
    monkeypatch.setattr("time.time", lambda: 4e9)  # what this machine has just written itself is let be
    refresh(one)
    assert recorded_ids(one) == set()
    again = make_result(host="again")
    assert write_result(one / "trials" / again.trial_id, again)


def test_the_network_comes_only_when_it_is_asked_for(machines: Machines) -> None:
    trial = machines.on("one") / "trials" / "a"
    trial.mkdir(parents=True)
    for name in ("model.safetensors", "cut.json"):
        (trial / name).write_text(name)
    upload([trial / "model.safetensors", trial / "cut.json"])
    two = machines.on("two")
    refresh(two)
    assert [path.name for path in (two / "trials/a").iterdir()] == ["cut.json"]
    refresh_trial(two / "trials/a")
    assert (two / "trials/a/model.safetensors").read_text() == "model.safetensors"


def test_tables_go_up_and_are_made_anew_where_they_lack(machines: Machines, make_result) -> None:
    one = machines.on("one")
    result = make_result()
    write_result(one / "trials" / result.trial_id, result)
    write_views(one)
    bucket = bucket_of(one)
    assert bucket is not None
    assert bucket.read(one / "parquet/trials.parquet") == (one / "parquet/trials.parquet").read_bytes()
    two = machines.on("two")
    refresh(two)
    assert not (two / "parquet").exists()
    assert load_results(two).num_rows == 1
    assert sweeps_of(two.parent) == ["sweep"]


def test_what_is_left_for_another_process_reaches_it(machines: Machines) -> None:
    write_marker(machines.on("one") / "trials/a/.stop-0", "asha: weak")
    seen = machines.on("two") / "trials/a/.stop-0"
    assert read_marker(seen) == "asha: weak"
    delete_marker(seen)
    assert read_marker(seen) is None


def test_a_driver_on_another_machine_is_named(machines: Machines) -> None:
    one = machines.on("one")
    with hold_driver_lock(one) as lost:
        assert is_driven(one)
        two = machines.on("two")
        assert is_driven(two)
        said = r"s3://bucket-.*/runs/sweep: a driver runs this sweep \(host .*, pid \d+; last heard of \d s ago"
        with pytest.raises(DriverAtWork, match=said), exclude_driver(two):
            pass
        assert not lost()
    assert not is_driven(two)
    with exclude_driver(two):
        pass


def test_a_folder_has_nothing_to_fetch(tmp_path: Path) -> None:
    refresh(tmp_path / "sweep")
    refresh_trial(tmp_path / "sweep/trials/a")
    upload([tmp_path / "a"])
    write_marker(tmp_path / "sweep/.stop-0", "x")
    assert read_marker(tmp_path / "sweep/.stop-0") == "x"
    delete_marker(tmp_path / "sweep/.stop-0")
    assert read_marker(tmp_path / "sweep/.stop-0") is None
    (tmp_path / "sweep/searchspace.yaml").write_text("")
    assert sweeps_of(tmp_path) == ["sweep"]


def test_a_sweep_is_fetched_with_those_it_starts_from(machines: Machines, make_result) -> None:
    one = machines.on("one")
    result = make_result()
    write_result(one.parent / "earlier/trials" / result.trial_id, result)
    write_marker(one / "searchspace.yaml", SEARCH)
    two = machines.on("two")
    refresh_all(two)
    assert recorded_ids(two.parent / "earlier") == {result.trial_id}

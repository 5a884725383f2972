"""Records in a bucket as the machines that share it see them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.records import Latency, forget, read_latency, read_result, recorded_ids, write_latency, write_result
from orchestrator.records.bucket_sync import refresh_with_warm_starts
from orchestrator.records.parquet import load_table, write_views
from orchestrator.storage.driver_lock import SweepLocked, exclude_driver, hold_driver_lock, is_driven
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths, TrialPaths

SEARCH = """
name: sweep
base: {model: lenet5, data: digits, method: l1_norm}
axes: {target.sparsity: {low: 0.3, high: 0.9}}
search: {name: tpe, trials: 3, warm_start: [earlier]}
"""


def open_on(machine: str, bucket_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return the store as a machine opens it, with a mirror of its own."""
    monkeypatch.setenv("PRUNESWEEP_STORES", str(tmp_path / machine))
    store = Store.open(bucket_uri)
    (store.folder / "sweep").mkdir(parents=True)
    return store


# A store is a value: once opened it stays that machine's, whatever the environment says later.


@pytest.fixture
def one(bucket_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    return open_on("one", bucket_uri, tmp_path, monkeypatch)


@pytest.fixture
def two(bucket_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: Store) -> Store:
    return open_on("two", bucket_uri, tmp_path, monkeypatch)


def sweep(store: Store) -> Path:
    return store.folder / "sweep"


def trial(store: Store, trial_id: str) -> TrialPaths:
    return SweepPaths(sweep(store)).trial(trial_id)


def test_a_record_written_on_one_machine_is_read_on_the_other(one: Store, two: Store, make_result) -> None:
    result, later = make_result(host="first"), make_result(host="second")
    here, there = trial(one, result.trial_id), trial(two, result.trial_id)
    assert write_result(one, here.folder, result)
    write_latency(one, here.folder, Latency(latency_ms=1.0, latency_ms_std=0.1))
    assert recorded_ids(sweep(two)) == set()
    assert not write_result(two, there.folder, later)
    assert read_result(there.result) == result
    two.refresh(sweep(two))
    assert recorded_ids(sweep(two)) == {result.trial_id}
    assert read_latency(there.folder) == Latency(latency_ms=1.0, latency_ms_std=0.1)
    write_latency(two, there.folder, Latency(latency_ms=2.0, latency_ms_std=0.1))
    one.refresh(sweep(one))
    assert read_latency(here.folder) == Latency(latency_ms=2.0, latency_ms_std=0.1)


def test_what_one_machine_forgets_the_other_forgets_too(
    one: Store, two: Store, make_result, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = make_result(status="failed", error="x", metrics={})
    write_result(one, trial(one, failed.trial_id).folder, failed)
    two.refresh(sweep(two))
    assert forget(two, trial(two, failed.trial_id).folder)
    assert recorded_ids(sweep(two)) == set()
    monkeypatch.setattr("time.time", lambda: 4e9)  # what this machine has just written itself is let be
    one.refresh(sweep(one))
    assert recorded_ids(sweep(one)) == set()
    again = make_result(host="again")
    assert write_result(one, trial(one, again.trial_id).folder, again)


def test_the_network_comes_only_when_it_is_asked_for(one: Store, two: Store) -> None:
    here, there = trial(one, "a"), trial(two, "a")
    here.folder.mkdir(parents=True)
    for path in (here.network, here.cut):
        path.write_text(path.name)
    one.upload([here.network, here.cut])
    two.refresh(sweep(two))
    assert [path.name for path in there.folder.iterdir()] == ["cut.json"]
    two.download(there.folder)
    assert there.network.read_text() == "model.safetensors"


def test_tables_go_up_and_are_made_anew_where_they_lack(one: Store, two: Store, make_result) -> None:
    result = make_result()
    write_result(one, trial(one, result.trial_id).folder, result)
    write_views(one, sweep(one))
    path = SweepPaths(sweep(one)).view("trials")
    assert one.bucket is not None
    assert one.bucket.read(path) == path.read_bytes()
    two.refresh(sweep(two))
    assert not (sweep(two) / "parquet").exists()
    assert load_table(sweep(two)).num_rows == 1
    assert two.list_sweeps() == ["sweep"]


def test_a_marker_reaches_a_process_of_another_machine(one: Store, two: Store) -> None:
    one.write_marker(trial(one, "a").stop_marker(0), "asha: weak")
    marker = trial(two, "a").stop_marker(0)
    assert two.read_marker(marker) == "asha: weak"
    two.delete_marker(marker)
    assert two.read_marker(marker) is None


def test_a_driver_on_another_machine_is_named(one: Store, two: Store) -> None:
    with hold_driver_lock(one, sweep(one)) as is_lost:
        assert is_driven(one, sweep(one))
        assert is_driven(two, sweep(two))
        message = r"s3://bucket-.*/runs/sweep: a driver runs this sweep \(host .*, pid \d+; last heard of \d s ago"
        with pytest.raises(SweepLocked, match=message), exclude_driver(two, sweep(two)):
            pass
        assert not is_lost()
    assert not is_driven(two, sweep(two))
    with exclude_driver(two, sweep(two)):
        pass


def test_a_folder_has_nothing_to_fetch(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.refresh(tmp_path / "sweep")
    store.download(tmp_path / "sweep/trials/a")
    store.upload([tmp_path / "a"])
    marker = tmp_path / "sweep/.stop-0"
    store.write_marker(marker, "x")
    assert store.read_marker(marker) == "x"
    store.delete_marker(marker)
    assert store.read_marker(marker) is None
    (tmp_path / "sweep/searchspace.yaml").write_text("")
    assert store.list_sweeps() == ["sweep"]
    assert store.cached_stages() is None


def test_a_sweep_is_fetched_with_those_it_starts_from(one: Store, two: Store, make_result) -> None:
    result = make_result()
    write_result(one, SweepPaths(one.folder / "earlier").trial(result.trial_id).folder, result)
    one.write_marker(sweep(one) / "searchspace.yaml", SEARCH)
    refresh_with_warm_starts(two, sweep(two))
    assert recorded_ids(two.folder / "earlier") == {result.trial_id}

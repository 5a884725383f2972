"""Cleaning a store in a bucket: what lies in the bucket goes by the same rules as what lies in a folder."""

from __future__ import annotations

import re

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.bucket import Bucket
from orchestrator.storage.driver_lock import hold_driver_lock
from orchestrator.storage.store import Store
from orchestrator.sweep.maintenance import garbage as cleaning
from orchestrator.sweep.planning import plan

SPACE = """
name: mine
base: {model: lenet5, data: digits, target: {sparsity: 0.5}, baseline: {epochs: 1}}
arms:
  - method: l1_norm
  - method: taylor
"""
ORPHAN = "cache/baseline/0123456789ab"


@pytest.fixture
def store(bucket_uri: str) -> Store:
    return Store.open(bucket_uri)


@pytest.fixture
def wanted(store: Store, bucket: Bucket) -> list[str]:
    """A planned sweep whose stages are there; beside them an orphan, a checkpoint and a lease of a killed worker."""
    store.write_marker(store.folder / "mine/searchspace.yaml", SPACE)
    stages = plan(SearchSpace.parse(yaml.safe_load(SPACE))).stages
    names = [f"cache/{stage.name}/{stage.key}/{part}" for stage in stages for part in ("stage.json", "tensors")]
    left = [f"{ORPHAN}/stage.json", f"{ORPHAN}/tensors", "cache/baseline/.0123456789ab.lease/00000001"]
    left += ["cache/baseline/.0123456789ab-checkpoint/checkpoint.json", ".preflight-0a1b"]
    for name in (*names, *left):
        bucket.write(store.folder / name, b"x" * 10)
    return names


def names(bucket: Bucket, store: Store) -> list[str]:
    return sorted(name for name in bucket.list_objects(store.folder) if name.startswith((".", "cache")))


def test_orphans_go_at_once_and_drafts_when_they_are_old(
    store: Store, bucket: Bucket, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    young = [name for name in names(bucket, store) if "/." in name or name.startswith(".")]
    cleaning.clean(store)
    assert names(bucket, store) == sorted([*wanted, *young])
    monkeypatch.setattr(cleaning, "_DRAFT_SECONDS", -5.0)
    done = cleaning.clean(store)
    assert sorted((removal.what, removal.bytes) for removal in done.removed if removal.in_bucket) == [
        ("draft", 10),
        ("draft", 10),
        ("lock", 10),
    ]
    assert names(bucket, store) == sorted(wanted)
    assert not [removal for removal in cleaning.clean(store).removed if removal.in_bucket]


def test_where_a_driver_runs_only_orphans_go(
    store: Store, bucket: Bucket, wanted: list[str], monkeypatch: pytest.MonkeyPatch, bucket_uri: str
) -> None:
    monkeypatch.setattr(cleaning, "_DRAFT_SECONDS", -5.0)
    before = names(bucket, store)
    with hold_driver_lock(store, store.folder / "mine"):
        said = CliRunner().invoke(app, ["gc", "--out", bucket_uri, "--dry-run"])
        assert said.exit_code == 0
        assert names(bucket, store) == before
        assert f"would remove orphaned baseline {bucket_uri}/{ORPHAN} (20 bytes)" in said.stdout
        assert re.search(r"kept: .*a driver runs this sweep", said.stdout)
        cleaning.clean(store)
    assert names(bucket, store) == [name for name in before if not name.startswith(ORPHAN)]

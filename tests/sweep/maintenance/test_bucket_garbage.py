"""Cleaning a store in a bucket: what lies in the bucket goes by the same rules as what lies in a folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.records.bucket_sync import write_marker
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.bucket import Bucket
from orchestrator.storage.driver_lock import hold_driver_lock
from orchestrator.storage.uri import store_folder
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
def out(bucket_uri: str) -> Path:
    return store_folder(bucket_uri)


@pytest.fixture
def wanted(out: Path, bucket: Bucket) -> list[str]:
    """A planned sweep whose stages are there; beside them an orphan, a checkpoint and a lease of a killed worker."""
    write_marker(out / "mine/searchspace.yaml", SPACE)
    stages = plan(SearchSpace.parse(yaml.safe_load(SPACE))).stages
    names = [f"cache/{stage.name}/{stage.key}/{part}" for stage in stages for part in ("stage.json", "tensors")]
    left = [f"{ORPHAN}/stage.json", f"{ORPHAN}/tensors", "cache/baseline/.0123456789ab.lease/00000001"]
    left += ["cache/baseline/.0123456789ab-checkpoint/checkpoint.json", ".preflight-0a1b"]
    for name in (*names, *left):
        bucket.write(out / name, b"x" * 10)
    return names


def names(bucket: Bucket, out: Path) -> list[str]:
    return sorted(name for name in bucket.listing(out) if name.startswith((".", "cache")))


def test_orphans_go_at_once_and_drafts_when_they_are_old(
    out: Path, bucket: Bucket, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    young = [name for name in names(bucket, out) if "/." in name or name.startswith(".")]
    cleaning.clean(out)
    assert names(bucket, out) == sorted([*wanted, *young])
    monkeypatch.setattr(cleaning, "_DRAFT_SECONDS", -5.0)
    done = cleaning.clean(out)
    assert sorted((one.what, one.bytes) for one in done.removed if one.in_bucket) == [
        ("draft", 10),
        ("draft", 10),
        ("lock", 10),
    ]
    assert names(bucket, out) == sorted(wanted)
    assert not [one for one in cleaning.clean(out).removed if one.in_bucket]


def test_where_a_driver_runs_only_orphans_go(
    out: Path, bucket: Bucket, wanted: list[str], monkeypatch: pytest.MonkeyPatch, bucket_uri: str
) -> None:
    monkeypatch.setattr(cleaning, "_DRAFT_SECONDS", -5.0)
    before = names(bucket, out)
    with hold_driver_lock(out / "mine"):
        said = CliRunner().invoke(app, ["gc", "--out", bucket_uri, "--dry-run"])
        assert said.exit_code == 0
        assert names(bucket, out) == before
        assert f"would remove orphaned baseline {bucket_uri}/{ORPHAN} (20 bytes)" in said.stdout
        assert re.search(r"kept: .*a driver runs this sweep", said.stdout)
        cleaning.clean(out)
    assert names(bucket, out) == [name for name in before if not name.startswith(ORPHAN)]

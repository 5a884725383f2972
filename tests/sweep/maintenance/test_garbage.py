"""Cleaning removes what no sweep needs, says how much, and never touches what a sweep may still want."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.records.records import write_result
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.driver_lock import exclude_driver
from orchestrator.storage.store import Store
from orchestrator.sweep.maintenance.garbage import clean
from orchestrator.sweep.planning import Plan, plan

SPACE = """
name: {name}
base: {{model: lenet5, data: digits, target: {{sparsity: 0.5}}, baseline: {{epochs: {epochs}}}}}
axes:
  seed: [0, 1]
arms:
  - method: l1_norm
  - method: taylor
"""


def sweep(out: Path, name: str, epochs: int) -> Plan:
    """A sweep that was planned, with all its stages in the cache and no record."""
    folder = out / name
    folder.mkdir(parents=True)
    (folder / "searchspace.yaml").write_text(SPACE.format(name=name, epochs=epochs))
    planned = plan(SearchSpace.parse(yaml.safe_load(SPACE.format(name=name, epochs=epochs))))
    for stage in planned.stages:
        entry(out, stage.name, stage.key)
    return planned


def entry(out: Path, stage: str, key: str) -> Path:
    folder = out / "cache" / stage / key
    folder.mkdir(parents=True)
    (folder / "tensors.safetensors").write_bytes(b"x" * 100)
    (folder / "stage.json").write_bytes(b"y" * 20)
    (folder.parent / f".{key}.lock").touch()
    return folder


def aged(path: Path) -> Path:
    for inner in [path, *path.rglob("*")]:
        os.utime(inner, (time.time() - 3600, time.time() - 3600))
    return path


def entries(out: Path) -> set[str]:
    return {path.name for path in (out / "cache").glob("*/[!.]*")}


def test_only_stages_of_no_trial_go(tmp_path: Path) -> None:
    mine, other = sweep(tmp_path, "mine", 1), sweep(tmp_path, "other", 2)
    wanted = {stage.key for planned in (mine, other) for stage in planned.stages}
    orphans = [entry(tmp_path, "baseline", "0123456789ab"), entry(tmp_path, "importance", "ba9876543210")]

    looked = clean(Store(tmp_path), dry_run=True)
    assert entries(tmp_path) == wanted | {folder.name for folder in orphans}
    gone = [removal for removal in looked.removed if removal.what.startswith("orphaned")]
    assert [(removal.path, removal.bytes) for removal in gone] == [(folder, 120) for folder in orphans]
    assert {removal.what for removal in gone} == {"orphaned baseline", "orphaned importance"}

    assert clean(Store(tmp_path)).removed == looked.removed
    assert entries(tmp_path) == wanted
    assert clean(Store(tmp_path)).removed == []


def test_a_record_keeps_its_stages_when_the_search_space_moved_on(tmp_path: Path) -> None:
    before = sweep(tmp_path, "mine", 1)
    trial = before.trials[0]
    result = TrialResult(trial_id=trial.trial_id, spec=trial.spec, arm=trial.arm, point={}, status="done")
    write_result(Store(tmp_path), tmp_path / "mine/trials" / trial.trial_id, result)
    (tmp_path / "mine/searchspace.yaml").write_text(SPACE.format(name="mine", epochs=3))
    clean(Store(tmp_path))
    assert trial.spec.baseline_key in entries(tmp_path)
    assert len(entries(tmp_path)) == 1


def test_an_earlier_search_space_of_the_sweep_counts(tmp_path: Path) -> None:
    planned = sweep(tmp_path, "mine", 1)
    (tmp_path / "mine/searchspace.yaml").rename(tmp_path / "mine/searchspace.1.yaml")
    (tmp_path / "mine/searchspace.yaml").write_text(SPACE.format(name="mine", epochs=3))
    clean(Store(tmp_path))
    assert entries(tmp_path) == {stage.key for stage in planned.stages}


def test_what_killed_writers_left_goes_and_fresh_drafts_stay(tmp_path: Path) -> None:
    planned = sweep(tmp_path, "mine", 1)
    trial = tmp_path / "mine/trials" / planned.trials[0].trial_id
    trial.mkdir(parents=True)
    old = [
        tmp_path / "cache/baseline/.0123456789ab-1a2b3c4d",
        trial / ".result.json.12-1a2b3c4d.tmp",
        trial / ".model.safetensors.x1y2z3",
        tmp_path / "mine/.searchspace.yaml.123",
        tmp_path / ".preflight-0123456789abcdef-aa",
    ]
    old[0].mkdir()
    (old[0] / "tensors.safetensors").write_bytes(b"1234")
    for path in old[1:]:
        path.write_bytes(b"12")
    for path in old:
        aged(path)
    fresh = trial / ".result.json.13-1a2b3c4d.tmp"
    fresh.write_text("{")
    kept = [trial / "result.note", tmp_path / "mine/.driver"]
    kept[0].write_text("")
    removed = clean(Store(tmp_path)).removed
    assert {removal.path for removal in removed if removal.what == "draft"} == set(old)
    assert sum(removal.bytes for removal in removed if removal.what == "draft") == 12
    assert not list((tmp_path / "cache").rglob("*.lock"))
    assert fresh.exists()
    assert all(path.exists() for path in kept)


def test_a_running_sweep_is_not_touched(tmp_path: Path) -> None:
    planned = sweep(tmp_path, "mine", 1)
    orphan = entry(tmp_path, "baseline", "0123456789ab")
    draft = aged_file(tmp_path / "mine/trials/abc/.result.json.1-2.tmp")
    computing = aged_file(tmp_path / "cache/baseline/.abcdefabcdef-1/tensors").parent
    with exclude_driver(Store(tmp_path), tmp_path / "mine"):
        done = clean(Store(tmp_path))
    assert [removal.path for removal in done.removed] == [orphan]
    assert draft.exists()
    assert computing.exists()
    assert entries(tmp_path) == {stage.key for stage in planned.stages}
    assert len(list((tmp_path / "cache").rglob("*.lock"))) == len(planned.stages) + 1
    assert "a driver runs this sweep" in done.kept[0]


@pytest.mark.parametrize("damage", ["searchspace", "record"])
def test_where_it_cannot_be_told_every_stage_stays(tmp_path: Path, damage: str) -> None:
    sweep(tmp_path, "mine", 1)
    orphan = entry(tmp_path, "baseline", "0123456789ab")
    if damage == "searchspace":
        (tmp_path / "mine/searchspace.yaml").write_text("name: mine\nbase: {model: nothing_like_it}\n")
    else:
        (tmp_path / "mine/trials/abc").mkdir(parents=True)
        (tmp_path / "mine/trials/abc/result.json").write_text("{")
    done = clean(Store(tmp_path))
    assert orphan.exists()
    assert any("every stage output stays" in line for line in done.kept)


def test_links_lead_nowhere(tmp_path: Path) -> None:
    out, outside = tmp_path / "runs", tmp_path / "outside"
    sweep(out, "mine", 1)
    outside.mkdir()
    (outside / ".result.json.1-2.tmp").write_text("")
    aged(outside)
    (out / "cache/baseline/0123456789ab").symlink_to(outside)
    (out / "mine/trials").symlink_to(outside)
    clean(Store(out))
    assert (outside / ".result.json.1-2.tmp").exists()


def test_the_command_says_what_and_how_many_bytes(tmp_path: Path) -> None:
    sweep(tmp_path, "mine", 1)
    orphan = entry(tmp_path, "baseline", "0123456789ab")
    said = CliRunner().invoke(app, ["gc", "--out", str(tmp_path), "--dry-run"])
    assert said.exit_code == 0
    assert f"would remove orphaned baseline {orphan} (120 bytes)" in said.output
    assert "would remove 1 entries and 5 locks, 120 bytes" in said.output
    assert orphan.exists()
    assert "\nremoved 1 entries" in CliRunner().invoke(app, ["gc", "--out", str(tmp_path)]).output
    assert not orphan.exists()
    assert CliRunner().invoke(app, ["gc", "--out", str(tmp_path / "nothing")]).exit_code == 2


def test_an_empty_store_has_nothing_to_clean(tmp_path: Path) -> None:
    assert clean(Store(tmp_path / "nothing")) == clean(Store(tmp_path))


def aged_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    aged(path.parent)
    return path

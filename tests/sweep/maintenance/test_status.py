"""How far a sweep is, told from its folder."""

from pathlib import Path

import pytest

from orchestrator.records.records import DamagedRecord, Latency, read_endings, read_results, write_latency, write_result
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.store import Store
from orchestrator.sweep.maintenance.status import state_of
from orchestrator.sweep.planning import plan

SPACE = """
name: small
base:
  model: lenet_300_100
  data: digits
  method: l1_norm
  target: {quantity: params}
axes:
  target.sparsity: [0.2, 0.4, 0.6, 0.8]
objectives: {latency_ms: min}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four trials planned: two done, in 2.0 and 1.5 ms, one diverged, one without a record."""
    (tmp_path / "searchspace.yaml").write_text(SPACE)
    trials = plan(SearchSpace.load(tmp_path / "searchspace.yaml")).trials
    for trial, latency in zip(trials, (2.0, 1.5, None), strict=False):
        result = TrialResult(
            trial_id=trial.trial_id,
            spec=trial.spec,
            arm=trial.arm,
            point=dict(trial.point),
            status="diverged" if latency is None else "done",
            metrics={"train_loss": float("nan")},
            started="2026-01-01T10:00:00+00:00",
            ended="2026-01-01T10:00:10+00:00",
        )
        write_result(Store(tmp_path), tmp_path / "trials" / trial.trial_id, result)
        if latency is not None:
            write_latency(
                Store(tmp_path),
                tmp_path / "trials" / trial.trial_id,
                Latency(latency_ms=latency, latency_ms_std=0.1, device="cpu"),
            )
    return tmp_path


def test_counts_and_the_best_by_the_first_objective(folder: Path) -> None:
    facts = state_of(Store(folder.parent), folder)
    assert (facts["planned"], facts["done"], facts["failed"], facts["waiting"]) == (4, 2, 1, 1)
    assert not facts["driver_alive"]
    assert (facts["best"]["value"], facts["best"]["point"]) == (1.5, {"target.sparsity": 0.4})


def test_records_of_trials_outside_the_space_do_not_count(folder: Path) -> None:
    (folder / "searchspace.yaml").write_text(SPACE.replace("[0.2, 0.4, 0.6, 0.8]", "[0.2, 0.8]"))
    facts = state_of(Store(folder.parent), folder)
    assert (facts["planned"], facts["done"], facts["failed"], facts["waiting"]) == (2, 1, 0, 1)
    assert facts["best"]["point"] == {"target.sparsity": 0.2}


def test_the_short_reading_of_records_says_what_the_long_one_says(folder: Path) -> None:
    assert [ending.model_dump(exclude={"metrics"}) for ending in read_endings(folder)] == [
        {name: getattr(result, name) for name in ("trial_id", "arm", "point", "status", "started", "ended")}
        for result in read_results(folder)
    ]


def test_a_record_that_was_cut_off_is_not_read(folder: Path) -> None:
    path = next(folder.glob("trials/*/result.json"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedRecord, match=str(path)):
        state_of(Store(folder.parent), folder)

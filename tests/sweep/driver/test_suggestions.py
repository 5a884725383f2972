"""An adaptive sweep's trials, drawn and told without running anything: records stand for what workers would do."""

import errno
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend, JournalStorage

from orchestrator.records.records import Latency, recorded_ids, write_latency, write_result
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.sweep.driver import suggestions as suggestions_module
from orchestrator.sweep.driver.suggestions import Suggestions
from orchestrator.sweep.planning import Plan, plan
from orchestrator.sweep.space.arms import PlannedTrial, expand_arms

BASE = {"model": "lenet5", "data": "digits", "target": {"sparsity": 0.5}}


def space(trials: int = 6, search: str = "tpe", warm_start: tuple[str, ...] = (), **parts: Any) -> SearchSpace:
    sections = {"axes": {"target.sparsity": {"low": 0.1, "high": 0.9}}, "arms": ["l1_norm", "random"], **parts}
    drawn = {"name": search, "trials": trials, "warm_start": list(warm_start)}
    return SearchSpace.parse({"name": "s", "base": BASE, "search": drawn, **sections})


def finish(folder: Path, trial: PlannedTrial, status: Any = "done") -> TrialResult:
    """What a worker leaves behind."""
    result = TrialResult(
        trial_id=trial.trial_id,
        spec=trial.spec,
        arm=trial.arm,
        point=dict(trial.point),
        status=status,
        metrics={"val_accuracy": 1 - abs(trial.point.get("target.sparsity", 0.5) - 0.6)},
        ended=f"2024-01-01T00:00:{len(recorded_ids(folder)):02d}+00:00",
    )
    write_result(Store(folder), folder / "trials" / trial.trial_id, result)
    (folder / "trials" / trial.trial_id / "cut.json").touch()
    return result


def run(this: SearchSpace, folder: Path, most: int = 1000, slots: int = 2) -> tuple[list[PlannedTrial], Suggestions]:
    """Take and finish trials until nothing more comes, or as many as `most` were taken."""
    folder.mkdir(exist_ok=True)
    suggestions = Suggestions(plan(this, folder), Store(folder), folder, slots)
    ran: list[PlannedTrial] = []
    deadline = time.monotonic() + 60
    while not suggestions.finished and len(ran) < most:
        assert time.monotonic() < deadline
        trial = suggestions.take(5.0)
        if trial is not None:
            ran.append(trial)
            assert suggestions.ended(finish(folder, trial))
    suggestions.close()
    return ran, suggestions


def study(folder: Path) -> optuna.Study:
    return optuna.load_study(
        study_name="s", storage=JournalStorage(JournalFileBackend(str(SweepPaths(folder).journal)))
    )


@pytest.mark.parametrize("search", ["tpe", "nsga2"])
def test_as_many_are_recorded_as_were_asked_for(search: str, tmp_path: Path) -> None:
    ran, _ = run(space(search=search), tmp_path)
    assert len(ran) == len({trial.trial_id for trial in ran}) == 6
    assert plan(space(search=search), tmp_path).to_draw == 0
    more, _ = run(space(9, search), tmp_path)
    assert len(more) == 3
    assert not {trial.trial_id for trial in more} & {trial.trial_id for trial in ran}
    completed = [trial.user_attrs["trial_id"] for trial in study(tmp_path).trials if trial.state.name == "COMPLETE"]
    assert set(completed) == recorded_ids(tmp_path)


def test_no_more_are_given_out_than_there_are_slots_and_one(tmp_path: Path) -> None:
    suggestions = Suggestions(plan(space(), tmp_path), Store(tmp_path), tmp_path, 2)
    first, second, waiting = (suggestions.take(20.0) for _ in range(3))
    assert first is not None
    assert second is not None
    assert waiting is not None  # for the worker that is free next
    assert suggestions.take(0.2) is None
    suggestions.ended(finish(tmp_path, first))
    assert suggestions.take(20.0) is not None
    suggestions.close()
    assert not [trial for trial in study(tmp_path).trials if trial.state.name == "WAITING"]


def test_a_killed_sweep_goes_on_with_what_was_under_way_and_repeats_nothing(tmp_path: Path) -> None:
    before, _ = run(space(), tmp_path, most=3)
    killed = Suggestions(plan(space(), tmp_path), Store(tmp_path), tmp_path, 2)
    lost = killed.take(20.0)  # never ends: its driver is gone
    assert lost is not None
    killed.close()
    planned = plan(space(), tmp_path)
    assert planned.trials[3:] == (lost,)
    assert planned.to_draw == 2
    suggestions = Suggestions(planned, Store(tmp_path), tmp_path, 2)
    suggestions.ended(finish(tmp_path, lost))
    suggestions.close()
    after, _ = run(space(), tmp_path)
    assert len(after) == 2
    assert not {trial.trial_id for trial in (*before, lost)} & {trial.trial_id for trial in after}
    assert len(recorded_ids(tmp_path)) == 6
    assert {trial.user_attrs["trial_id"] for trial in study(tmp_path).trials} == recorded_ids(tmp_path)


def test_a_record_that_another_worker_still_writes_counts(tmp_path: Path) -> None:
    this = space()
    stranger = plan(this).arms[0].trial({"target.sparsity": 0.123})
    suggestions = Suggestions(plan(this, tmp_path), Store(tmp_path), tmp_path, 2)
    finish(tmp_path, stranger)
    ran = []
    while not suggestions.finished:
        trial = suggestions.take(5.0)
        if trial is not None:
            ran.append(trial)
            suggestions.ended(finish(tmp_path, trial))
    suggestions.close()
    assert len(ran) <= 5
    assert len(recorded_ids(tmp_path)) == 6
    assert stranger.trial_id in {trial.user_attrs.get("trial_id") for trial in study(tmp_path).trials}


def test_other_sweeps_are_known_and_their_trials_not_run_again(tmp_path: Path) -> None:
    few = {"axes": {"target.sparsity": [0.2, 0.4, 0.6]}}
    first = space(4, **few)
    ran, _ = run(first, tmp_path / "first")
    second = space(6, warm_start=("first",), **few)
    more, suggestions = run(second, tmp_path / "s")
    assert {trial.trial_id for trial in ran} | {trial.trial_id for trial in more} == {
        arm.trial(point).trial_id for arm in plan(second).arms for point in arm.points()
    }
    assert len(more) == 2
    assert "every point" in suggestions.notes[0]


def test_failed_trials_that_run_again_are_told_when_they_end(tmp_path: Path) -> None:
    this = space()
    before, _ = run(this, tmp_path)
    planned = plan(this, tmp_path)
    (tmp_path / "trials" / before[0].trial_id / "result.json").unlink()
    suggestions = Suggestions(planned, Store(tmp_path), tmp_path, 2)
    assert suggestions.finished
    suggestions.ended(finish(tmp_path, before[0]))
    suggestions.close()
    assert before[0].trial_id in {trial.user_attrs.get("trial_id") for trial in study(tmp_path).trials}


def test_a_trial_is_told_when_its_latency_is_there(tmp_path: Path) -> None:
    this = space(3, objectives={"accuracy": "max", "latency_ms": "min"})
    suggestions = Suggestions(plan(this, tmp_path), Store(tmp_path), tmp_path, 1)
    trial, other = suggestions.take(20.0), suggestions.take(20.0)
    assert trial is not None
    assert other is not None
    result = finish(tmp_path, trial)
    assert not suggestions.ended(result)
    assert suggestions.take(0.2) is None  # this one is not told yet
    write_latency(Store(tmp_path), tmp_path / "trials" / trial.trial_id, Latency(latency_ms=1.5, latency_ms_std=0.1))
    assert suggestions.ended(result)
    assert not suggestions.ended(finish(tmp_path, other))
    suggestions.close()
    resumed = Suggestions(plan(this, tmp_path), Store(tmp_path), tmp_path, 1)
    assert [trial.trial_id for trial in resumed.unmeasured] == [other.trial_id]
    resumed.lost(other.trial_id)
    resumed.close()
    states = {trial.state.name: trial.values for trial in study(tmp_path).trials}
    assert states["COMPLETE"][1] == 1.5
    assert states["FAIL"] is None
    assert plan(this, tmp_path).to_draw == 1


def test_a_full_disk_is_heard_of_by_the_one_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def note(store: Store, folder: Path, trial: PlannedTrial) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(suggestions_module, "note_drawn", note)
    suggestions = Suggestions(plan(space(), tmp_path), Store(tmp_path), tmp_path, 2)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            suggestions.take(20.0)
    suggestions.close()
    assert suggestions.notes == []


def test_an_impossible_space_ends_with_its_error(tmp_path: Path) -> None:
    suggestions = Suggestions(
        Plan(space(arms=["magnitude"]), expand_arms(space(arms=["magnitude"])), (), 0, 6), Store(tmp_path), tmp_path, 1
    )
    assert suggestions.take(20.0) is None
    assert suggestions.finished
    assert suggestions.error is not None
    assert "single weights" in str(suggestions.error)
    suggestions.close()

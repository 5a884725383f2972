"""What a worker sends and records for jobs that end well, fail, or are not begun."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.records.records import read_result, recorded_ids, write_result
from orchestrator.spec.failures import Diverged, Failure, JobOutcome
from orchestrator.spec.result import TrialResult
from orchestrator.storage.store import Store
from orchestrator.sweep.driver.jobs import Job
from orchestrator.sweep.driver.messages import EpochReport, JobEnded, JobRequest, Message, RungReport, WorkerContext
from orchestrator.sweep.space.resolve import resolve
from orchestrator.sweep.worker.work import DeviceLost, work
from orchestrator.trial import run as trial_run

SPEC = resolve(
    {
        "model": "lenet_300_100",
        "data": "digits",
        "method": "random",
        "target": {"quantity": "params", "sparsity": 0.5},
        "baseline": {"epochs": 1},
        "retrain": {"name": "fine_tune", "epochs": 2},
    }
)
TRIAL = Job(SPEC.trial_id, "trial", "random", SPEC, {"seed": 0})
BASELINE = Job(SPEC.baseline_key, "baseline", "random", SPEC, {})


def request(out: Path, job: Job = TRIAL, rungs: tuple[float, ...] = (), **context: Any) -> JobRequest:
    (out / "s").mkdir(exist_ok=True)
    return JobRequest(job, WorkerContext(str(out), "s", **context), rungs)


def messages_of(this: JobRequest, on_failure: Any = None) -> list[Message]:
    messages: list[Message] = []
    work(this, messages.append, "cpu", on_failure)
    return messages


def failing(problem: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials and stages raise this."""

    def fail(*arguments: Any) -> Any:
        raise problem

    monkeypatch.setattr(trial_run, "prune", fail)
    monkeypatch.setitem(trial_run._STAGES, "baseline", fail)


def test_a_trial_is_recorded_before_its_last_message(tmp_path: Path) -> None:
    recorded: list[set[str]] = []
    messages: list[Message] = []

    def tell(message: Message) -> None:
        messages.append(message)
        recorded.append(recorded_ids(tmp_path / "s"))

    work(request(tmp_path), tell, "cpu")
    assert messages[-1] == JobEnded(JobOutcome.DONE)
    assert isinstance(messages[0], EpochReport)
    assert recorded[-1] == {SPEC.trial_id}
    assert recorded[0] == set()


def test_a_trial_that_has_a_record_is_not_begun(tmp_path: Path) -> None:
    folder = tmp_path / "s/trials" / SPEC.trial_id
    earlier = TrialResult(trial_id=SPEC.trial_id, spec=SPEC, status="done", note="by an earlier driver's worker")
    write_result(Store(tmp_path), folder, earlier)
    assert messages_of(request(tmp_path)) == [JobEnded(JobOutcome.ALREADY_RECORDED)]
    assert read_result(folder / "result.json") == earlier


def test_nothing_is_begun_where_the_backoff_marker_is(tmp_path: Path) -> None:
    this = request(tmp_path, backoff_marker=".retreat-1")
    (tmp_path / "s/.retreat-1").touch()
    assert messages_of(this) == [JobEnded(JobOutcome.REQUEUED)]
    assert recorded_ids(tmp_path / "s") == set()


def test_a_verdict_ends_the_trial_at_its_rung(tmp_path: Path) -> None:
    verdict = tmp_path / "s/trials" / SPEC.trial_id / ".stop-0"
    messages: list[Message] = []

    def tell(message: Message) -> None:
        messages.append(message)
        if isinstance(message, RungReport):
            assert not verdict.exists()
            verdict.write_text("others are ahead")

    verdict.parent.mkdir(parents=True)
    verdict.write_text("what an earlier attempt was told")
    work(request(tmp_path, rungs=(0.5,)), tell, "cpu")
    (report,) = [message for message in messages if isinstance(message, RungReport)]
    assert (report.rung, len(report.curve), report.sizes["params"] > 0) == (0, 1, True)
    assert messages[-1] == JobEnded(JobOutcome.DONE)
    result = read_result(verdict.parent / "result.json")
    assert (result.status, result.stopped_at, result.note) == ("stopped", 0.5, "others are ahead")
    assert not verdict.exists()


@pytest.mark.parametrize("job", [TRIAL, BASELINE])
@pytest.mark.parametrize("marker", [None, ".retreat-1"])
def test_out_of_memory_is_recorded_only_where_no_fewer_jobs_may_share_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job, marker: str | None
) -> None:
    failing(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. And more."), monkeypatch)
    reason = "OutOfMemory: CUDA out of memory. Tried to allocate 2.00 GiB"
    said = reason if marker else f"{reason}; less of it"
    this = request(tmp_path, job, out_of_memory_advice="less of it", backoff_marker=marker)
    assert messages_of(this) == [JobEnded(JobOutcome.OUT_OF_MEMORY, said)]
    recorded = job.kind == "trial" and marker is None
    assert recorded_ids(tmp_path / "s") == ({SPEC.trial_id} if recorded else set())


@pytest.mark.parametrize("job", [TRIAL, BASELINE])
def test_a_process_that_lost_its_gpu_says_so_and_ends_without_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    failing(RuntimeError("CUDA error: unspecified launch failure"), monkeypatch)
    messages: list[Message] = []
    with pytest.raises(DeviceLost):
        work(request(tmp_path, job), messages.append, "cpu")
    assert messages == [JobEnded(JobOutcome.DEVICE_LOST, "RuntimeError: CUDA error: unspecified launch failure")]
    assert recorded_ids(tmp_path / "s") == set()


def test_a_full_disk_is_reported_and_nothing_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(RuntimeError("No space left on device"), monkeypatch)
    (end,) = messages_of(request(tmp_path))
    assert end == JobEnded(JobOutcome.STORE_UNAVAILABLE, "RuntimeError: No space left on device")
    assert recorded_ids(tmp_path / "s") == set()


@pytest.mark.parametrize(
    ("problem", "status", "reason"),
    [
        (Diverged("retrain: the training loss is nan"), "diverged", "retrain: the training loss is nan"),
        (ValueError("Diverged in words alone"), "failed", "ValueError: Diverged in words alone"),
    ],
)
def test_a_failure_is_shown_before_it_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception, status: str, reason: str
) -> None:
    failing(problem, monkeypatch)
    shown: list[tuple[Failure, set[str]]] = []
    this = request(tmp_path)
    (end,) = messages_of(this, lambda failure: shown.append((failure, recorded_ids(tmp_path / "s"))))
    assert isinstance(end, JobEnded)
    assert (end.outcome.value, end.reason) == (status, reason)
    ((failure, recorded),) = shown
    assert failure.exception is problem
    assert recorded == set()
    result = read_result(tmp_path / "s/trials" / SPEC.trial_id / "result.json")
    assert (result.status, result.error) == (status, reason)
    stage = messages_of(replace(this, job=BASELINE))
    assert stage == [JobEnded(JobOutcome(status), f"{type(problem).__name__}: {problem}")]

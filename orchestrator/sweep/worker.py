"""What a worker does with a job: run it, tell the driver how it goes, and end where the driver says so.

A trial's record is written here, so that a killed driver loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.spec.errors import out_of_space
from orchestrator.spec.result import EpochRow
from orchestrator.spec.trial import TrialSpec
from orchestrator.spec.workspace import Workspace
from orchestrator.store.records import write_latency, write_result
from orchestrator.sweep.jobs import LATENCY
from orchestrator.sweep.stoppers import epochs_at

_REPORT_SECONDS = 0.25
"""Epochs shorter than this are reported now and then, not each: a report costs a trip to the driver."""

Tell = Callable[[dict[str, Any]], None]
"""Sends a report; it returns once the driver has heard and answered it."""


def work(job: Mapping[str, Any], place: Mapping[str, Any], tell: Tell, device: str) -> None:
    """One job, in a warm worker. The last report has ``ended``, and what went wrong under ``error``.

    With ``full`` it was the disk: nothing is recorded, and the sweep cannot go on.
    """
    from orchestrator.trial.run import reason

    try:
        tell({"ended": True, "error": _done(job, place, tell, device)})
    except Exception as problem:
        if not out_of_space(problem):
            raise
        tell({"ended": True, "error": reason(problem), "full": True})


def _done(job: Mapping[str, Any], place: Mapping[str, Any], tell: Tell, device: str) -> str | None:
    from orchestrator.trial.run import reason, run_stage, run_trial

    workspace = Workspace(
        out=Path(place["out"]),
        sweep=place["sweep"],
        device=device,
        threads=max(1, int(place["cpus"])),
        data_cache=Path(place["data_cache"]) if place["data_cache"] else None,
    )
    spec = TrialSpec.model_validate(job["spec"])
    reporter = _Reporter(spec.trial_id, workspace.trial_folder(spec.trial_id), job["rungs"], tell)
    if job["kind"] == "trial":
        reporter.forget_verdicts()
        result = run_trial(spec, workspace, reporter.epoch, cut=reporter.cut, arm=job["arm"], point=job["point"])
        write_result(workspace.trial_folder(spec.trial_id), result)
        return result.error
    try:
        if job["kind"] == LATENCY:
            from orchestrator.sweep.measuring import measure

            folder = workspace.trial_folder(spec.trial_id)
            write_latency(folder, measure(folder, device, workspace.threads))
        else:
            run_stage(job["kind"], spec, workspace, reporter.epoch)
    except Exception as problem:
        if out_of_space(problem):
            raise
        return reason(problem)
    return None


def verdict_path(trial_folder: Path, rung: int) -> Path:
    """The file that ends a trial at a rung; a name of its own each, which no file system can have cached as absent."""
    return trial_folder / f".stop-{rung}"


class _Reporter:
    """Reports epochs now and then, and at the rungs without fail, where it waits for the driver's verdict."""

    def __init__(self, trial_id: str, folder: Path, rungs: list[float], tell: Tell) -> None:
        self._trial_id, self._folder, self._rungs, self._tell = trial_id, folder, rungs, tell
        self._last = 0.0
        self._sizes: dict[str, float] | None = None
        self._curve: list[float] = []

    def forget_verdicts(self) -> None:
        for rung in range(len(self._rungs)):
            verdict_path(self._folder, rung).unlink(missing_ok=True)

    def cut(self, sizes: dict[str, float]) -> None:
        self._sizes = sizes
        for index, rung in enumerate(self._rungs):
            if rung == 0:
                self._ask(index, {}, 0.0)

    def epoch(self, row: EpochRow, epochs: int) -> None:
        told = {"stage": row.stage, "epoch": row.epoch, "epochs": epochs, "val_accuracy": row.val_accuracy}
        # Before the cut the trial is still at stages that others share: nothing to stop there.
        if self._sizes is not None:
            self._curve.append(row.val_accuracy)
            done = len(self._curve)
            for index, rung in enumerate(self._rungs):
                if rung > 0 and epochs_at(rung, epochs) == done < epochs:
                    self._ask(index, told, done / epochs)
                    return
        now = time.monotonic()
        if now - self._last >= _REPORT_SECONDS:
            self._last = now
            self._tell(told)

    def _ask(self, rung: int, told: dict[str, Any], share: float) -> None:
        from orchestrator.trial.run import Stopped

        self._last = time.monotonic()
        self._tell({**told, "rung": rung, "curve": list(self._curve), "sizes": self._sizes})
        path = verdict_path(self._folder, rung)
        if path.exists():
            why = path.read_text(encoding="utf-8")
            path.unlink()
            raise Stopped(why, share)

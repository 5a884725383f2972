"""What a worker does with a job: run it, tell the driver how it goes, and end where the driver says so.

A trial's record is written here, so that a killed driver loses nothing.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.records.records import write_latency, write_result
from orchestrator.spec.errors import OUT_OF_MEMORY, PrunesweepError, out_of_space
from orchestrator.spec.result import EpochRow
from orchestrator.spec.trial import TrialSpec
from orchestrator.storage.bucket import PATIENCE
from orchestrator.storage.store import Store
from orchestrator.storage.uri import store_folder
from orchestrator.storage.workspace import Workspace
from orchestrator.sweep.driver.jobs import LATENCY
from orchestrator.sweep.stopping.policy import epochs_at

_REPORT_SECONDS = 0.25
"""Epochs shorter than this are reported now and then, not each: a report costs a trip to the driver."""

Tell = Callable[[dict[str, Any]], None]
"""Sends a report; it returns once the driver has heard and answered it."""


def work(job: Mapping[str, Any], place: Mapping[str, Any], tell: Tell, device: str) -> None:
    """One job, in a warm worker. The last report is ``done``, which ends Tune's trial; ``error`` says what went wrong.

    With ``full`` it was the disk: nothing is recorded, and the sweep cannot go on. With ``back`` it was the memory of a
    GPU that trials share: nothing is recorded, and the job may be tried again with more of it.
    """
    from orchestrator.trial.run import reason

    store = Store.open(place["out"], patience=PATIENCE)
    retreat = place["retreat"]
    if retreat is not None and store.read_marker(store_folder(retreat)) is not None:
        tell({"done": True, "error": None, "back": True})
        return
    try:
        error = _done(job, place, store, tell, device)
    except _Crowded as crowded:
        _give_back(device)
        tell({"done": True, "error": str(crowded), "back": True})
    except Exception as problem:
        if not out_of_space(problem):
            raise
        tell({"done": True, "error": reason(problem), "full": True})
    else:
        _give_back(device)
        tell({"done": True, "error": error})


class _Crowded(PrunesweepError):
    """A GPU's memory did not suffice for the trials that share it."""


def _give_back(device: str) -> None:
    """What an idle worker's allocator keeps, the worker beside it cannot have."""
    if device == "cuda":
        import torch

        gc.collect()
        torch.cuda.empty_cache()


def _explained(error: str | None, place: Mapping[str, Any]) -> str | None:
    """The reason of a failure; raises `_Crowded` where it was one of memory that fewer trials at once would have."""
    if error is None or not error.startswith(OUT_OF_MEMORY):
        return error
    if place["retreat"] is not None:
        raise _Crowded(error)
    return f"{error}; {place['advice']}"


def _done(job: Mapping[str, Any], place: Mapping[str, Any], store: Store, tell: Tell, device: str) -> str | None:
    from orchestrator.trial.run import reason, run_stage, run_trial

    workspace = Workspace(
        store=store,
        sweep=place["sweep"],
        device=device,
        threads=max(1, int(place["cpus"])),
        data_cache=Path(place["data_cache"]) if place["data_cache"] else None,
    )
    spec = TrialSpec.model_validate(job["spec"])
    reporter = _Reporter(store, spec.trial_id, workspace.trial_folder(spec.trial_id), job["rungs"], tell)
    if job["kind"] == "trial":
        reporter.forget_verdicts()
        result = run_trial(spec, workspace, reporter.epoch, cut=reporter.cut, arm=job["arm"], point=job["point"])
        result = result.model_copy(update={"error": _explained(result.error, place)})
        folder = workspace.trial_folder(spec.trial_id)
        if result.status == "done":
            # Before the record: who finds one finds the network.
            store.upload([folder / "model.safetensors", folder / "cut.json"])
        write_result(store, folder, result)
        return result.error
    try:
        if job["kind"] == LATENCY:
            from orchestrator.sweep.worker.latency import measure

            folder = workspace.trial_folder(spec.trial_id)
            store.download(folder)
            write_latency(store, folder, measure(folder, device, workspace.threads))
        else:
            run_stage(job["kind"], spec, workspace, reporter.epoch)
    except Exception as problem:
        if out_of_space(problem):
            raise
        failure = reason(problem)
    else:
        return None
    # A measuring job runs alone: nothing would be gained by trying it again.
    return failure if job["kind"] == LATENCY else _explained(failure, place)


def verdict_path(trial_folder: Path, rung: int) -> Path:
    """The file that ends a trial at a rung; a name of its own each, which no file system can have cached as absent."""
    return trial_folder / f".stop-{rung}"


class _Reporter:
    """Reports epochs now and then, and at the rungs without fail, where it waits for the driver's verdict."""

    def __init__(self, store: Store, trial_id: str, folder: Path, rungs: list[float], tell: Tell) -> None:
        self._store = store
        self._trial_id, self._folder, self._rungs, self._tell = trial_id, folder, rungs, tell
        self._last = 0.0
        self._sizes: dict[str, float] | None = None
        self._curve: list[float] = []

    def forget_verdicts(self) -> None:
        for rung in range(len(self._rungs)):
            self._store.delete_marker(verdict_path(self._folder, rung))

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
        why = self._store.read_marker(path)
        if why is not None:
            self._store.delete_marker(path)
            raise Stopped(why, share)

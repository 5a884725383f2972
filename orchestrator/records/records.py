"""The records of truth: one ``result.json`` a trial, written once, and beside it the latency measured later.

Functions that write take the store and a trial's folder; functions that read take folders, or a file's path, alone.

A float that is not finite (the loss of a diverged trial) is written as the string ``"NaN"``, ``"Infinity"`` or
``"-Infinity"``, so that the files are JSON to every reader, and comes back as the float it was.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.spec.errors import PrunesweepError
from orchestrator.spec.result import FAILED_STATUSES, Status, TrialResult
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import RESULT, SweepPaths, TrialPaths

_ID = re.compile(r"\w[\w.-]*")

Record = TypeVar("Record", bound=BaseModel)


class DamagedRecord(PrunesweepError, ValueError):
    """A record cannot be read; the message names the file."""


class FinishedTrial(PrunesweepError, ValueError):
    """A trial that did not fail was to be forgotten."""


class Latency(BaseModel):
    """Latency of one forward pass, alone on the device: medians and standard deviations in milliseconds.

    A record of its own: it belongs to a machine rather than to the trial, and is measured later. The dense network's
    figures and the speed-up (dense / pruned) are None where the dense network was not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    latency_ms: float
    latency_ms_std: float
    dense_latency_ms: float | None = None
    dense_latency_ms_std: float | None = None
    latency_speedup: float | None = None
    device: str = ""
    host: str = ""
    batch_size: int = Field(default=1, ge=1)
    measured: str = ""
    """Time of the measurement: ISO 8601 with a time zone."""


class Ending(BaseModel):
    """The part of a record that tells how the trial ended: all that the progress of a sweep needs."""

    model_config = ConfigDict(frozen=True)

    trial_id: str
    arm: str = ""
    point: dict[str, Any] = Field(default_factory=dict)
    status: Status
    metrics: dict[str, float] = Field(default_factory=dict)
    started: str = ""
    ended: str = ""


def write_result(store: Store, folder: Path, result: TrialResult) -> bool:
    """Write the record of a trial into its folder, unless there is one; return whether this call wrote it."""
    return store.write_once(TrialPaths(folder).result, _json(result))


def read_result(path: Path) -> TrialResult:
    """Return the record in a ``result.json``.

    Raises:
        DamagedRecord: not a whole, valid record, or one whose id could lead out of the sweep's folder.
        FileNotFoundError: there is none.
    """
    result = _read(path, TrialResult)
    if not _ID.fullmatch(result.trial_id):
        # Paths are made of ids.
        raise DamagedRecord(f"{path}: trial_id {result.trial_id[:80]!r} is no name of a folder")
    return result


def read_results(sweep_folder: Path) -> Iterator[TrialResult]:
    """Yield every record of a sweep in the order of trial ids; raise :class:`DamagedRecord`."""
    for trial_id in sorted(recorded_ids(sweep_folder)):
        yield read_result(SweepPaths(sweep_folder).trial(trial_id).result)


def read_endings(sweep_folder: Path) -> Iterator[Ending]:
    """Yield how every recorded trial ended, in the order of trial ids; raise :class:`DamagedRecord`.

    Layers, curves and analyses, nine tenths of a record, are skipped.
    """
    for trial_id in sorted(recorded_ids(sweep_folder)):
        yield _read(SweepPaths(sweep_folder).trial(trial_id).result, Ending)


def recorded_ids(sweep_folder: Path) -> set[str]:
    """Return the ids of the trials that have a record; no file is opened."""
    return {entry.name for entry in _trial_folders(sweep_folder) if os.path.exists(os.path.join(entry, RESULT))}


def forget(store: Store, folder: Path) -> bool:
    """Delete the record of a failed trial, and its latency, so that it can run again; return whether there was one.

    A damaged record counts as failed.

    Raises:
        FinishedTrial: the record says ``done`` or ``stopped``: there is nothing to repair.
    """
    paths = TrialPaths(folder)
    try:
        status = read_result(paths.result).status
    except FileNotFoundError:
        return False
    except DamagedRecord:
        status = "failed"
    if status not in FAILED_STATUSES:
        raise FinishedTrial(f"{paths.result}: only a failed trial can be forgotten, this one is {status!r}")
    for path in (paths.latency, paths.result):
        store.delete_marker(path)
    return True


def write_latency(store: Store, folder: Path, latency: Latency) -> None:
    """Write the latency of a trial into its folder, in place of an earlier measurement."""
    with store.replacing(TrialPaths(folder).latency) as temporary:
        temporary.write_bytes(_json(latency))


def read_latency(folder: Path) -> Latency | None:
    """Return the latency of a trial, or None where it was not measured; raise :class:`DamagedRecord`."""
    try:
        return _read(TrialPaths(folder).latency, Latency)
    except FileNotFoundError:
        return None


def _trial_folders(sweep_folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(SweepPaths(sweep_folder).trials) as entries:
            return [entry for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []


def _read(path: Path, kind: type[Record]) -> Record:
    data = path.read_bytes()
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise DamagedRecord(f"{path}: not a whole record: {where + ': ' if where else ''}{problem['msg']}") from error


def _json(value: BaseModel) -> bytes:
    return json.dumps(_spelled(value.model_dump()), allow_nan=False, separators=(",", ":")).encode()


def _spelled(value: Any) -> Any:
    """Return a value with every float that JSON cannot hold as a string."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _spelled(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(inner) for inner in value]
    return value

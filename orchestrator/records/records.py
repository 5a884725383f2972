"""The records of truth: one ``result.json`` a trial, written once, and beside it the latency measured later.

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
from orchestrator.spec.result import Status, TrialResult
from orchestrator.storage.atomic import replacing, write_once
from orchestrator.storage.bucket import bucket_of

RESULT = "result.json"
LATENCY = "latency.json"
_ID = re.compile(r"\w[\w.-]*")

Record = TypeVar("Record", bound=BaseModel)


class DamagedRecord(PrunesweepError, ValueError):
    """A record that cannot be read; the message names the file."""


class FinishedTrial(PrunesweepError, ValueError):
    """An attempt to forget a trial that did not fail."""


class Latency(BaseModel):
    """How long one forward pass takes, measured alone on the device: medians and spreads in milliseconds.

    It belongs to a machine rather than to the trial, and is measured after it: a record of its own. The dense network's
    figures and the speed-up (dense / pruned) are None where nothing was measured to compare with.
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
    """When: ISO 8601 with a time zone."""


class Ending(BaseModel):
    """How a trial ended: the part of its record from which a sweep's progress is told."""

    model_config = ConfigDict(frozen=True)

    trial_id: str
    arm: str = ""
    point: dict[str, Any] = Field(default_factory=dict)
    status: Status
    metrics: dict[str, float] = Field(default_factory=dict)
    started: str = ""
    ended: str = ""


def write_result(folder: Path, result: TrialResult) -> bool:
    """Write ``folder/result.json`` whole and once; False (and nothing written) where a record stands already."""
    return write_once(folder / RESULT, _json(result))


def read_result(path: Path) -> TrialResult:
    """The record in a ``result.json``.

    Raises:
        DamagedRecord: it is not a whole, valid record, or its id could lead out of the sweep's folder.
        FileNotFoundError: there is none.
    """
    result = _read(path, TrialResult)
    if not _ID.fullmatch(result.trial_id):
        # Paths are made of ids.
        raise DamagedRecord(f"{path}: trial_id {result.trial_id[:80]!r} is no name of a folder")
    return result


def read_results(sweep_folder: Path) -> Iterator[TrialResult]:
    """Every record of a sweep in the order of trial ids, one at a time; raises :class:`DamagedRecord`."""
    for trial_id in sorted(recorded_ids(sweep_folder)):
        yield read_result(sweep_folder / "trials" / trial_id / RESULT)


def read_endings(sweep_folder: Path) -> Iterator[Ending]:
    """How every recorded trial of a sweep ended, in the order of trial ids; raises :class:`DamagedRecord`.

    Layers, curves and analyses, nine tenths of a record, are passed over.
    """
    for trial_id in sorted(recorded_ids(sweep_folder)):
        yield _read(sweep_folder / "trials" / trial_id / RESULT, Ending)


def recorded_ids(sweep_folder: Path) -> set[str]:
    """The trials that have a record, by looking at names alone."""
    return {folder.name for folder in _trial_folders(sweep_folder) if os.path.exists(os.path.join(folder, RESULT))}


def forget(folder: Path) -> bool:
    """Remove the record of a failed trial, and what was measured of it, so that it can run again.

    A damaged record is forgotten too. Returns False where there is no record.

    Raises:
        FinishedTrial: the record says ``done`` or ``stopped``: there is nothing to repair.
    """
    path = folder / RESULT
    try:
        status = read_result(path).status
    except FileNotFoundError:
        return False
    except DamagedRecord:
        status = "failed"
    if status in ("done", "stopped"):
        raise FinishedTrial(f"{path}: only a failed trial can be forgotten, this one is {status!r}")
    bucket = bucket_of(folder)
    for lost in (folder / LATENCY, path):
        if bucket is not None:
            bucket.remove(lost)
        lost.unlink(missing_ok=True)
    return True


def write_latency(folder: Path, latency: Latency) -> None:
    """Write ``folder/latency.json`` whole; a later measurement takes the place of an earlier one."""
    with replacing(folder / LATENCY) as temporary:
        temporary.write_bytes(_json(latency))


def read_latency(folder: Path) -> Latency | None:
    """What was measured of a trial, or None; raises :class:`DamagedRecord`."""
    try:
        return _read(folder / LATENCY, Latency)
    except FileNotFoundError:
        return None


def read_latencies(sweep_folder: Path) -> dict[str, Latency]:
    """What was measured, by trial id."""
    found: dict[str, Latency] = {}
    for folder in _trial_folders(sweep_folder):
        latency = read_latency(Path(folder.path))
        if latency is not None:
            found[folder.name] = latency
    return found


def _trial_folders(sweep_folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(sweep_folder / "trials") as entries:
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
    """The same with floats that JSON has no word for spelled out."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _spelled(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_spelled(inner) for inner in value]
    return value

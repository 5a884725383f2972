"""Stamps of records: what tells a view that it shows a record already, without the record being opened."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.records.records import LATENCY, RESULT, recorded_ids


def record_fingerprints(sweep_folder: Path) -> dict[str, str]:
    """Trial id -> stamp, for every recorded trial of a sweep, in the order of trial ids."""
    return {
        trial_id: record_fingerprint(sweep_folder / "trials" / trial_id)
        for trial_id in sorted(recorded_ids(sweep_folder))
    }


def record_fingerprint(folder: Path) -> str:
    """Changes whenever the record in a trial's folder, or its latency, comes, goes or is replaced; opens neither.

    Times and sizes alone, so that a store that was copied with its times is not shown anew.
    """
    return f"{_file(folder, RESULT)} {_file(folder, LATENCY)}"


def _file(folder: Path, name: str) -> str:
    try:
        found = os.stat(os.path.join(folder, name))
    except FileNotFoundError:
        return "-"
    return f"{found.st_mtime_ns}:{found.st_size}"

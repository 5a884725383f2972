"""Fingerprints of records, by which a view knows that it shows a record already; no record is opened."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.records.records import recorded_ids
from orchestrator.storage.sweep_paths import SweepPaths, TrialPaths


def record_fingerprints(sweep_folder: Path) -> dict[str, str]:
    """Return the fingerprint of every recorded trial of a sweep, by trial id, in the order of trial ids."""
    trials = SweepPaths(sweep_folder).trials
    return {trial_id: record_fingerprint(trials / trial_id) for trial_id in sorted(recorded_ids(sweep_folder))}


def record_fingerprint(folder: Path) -> str:
    """Return a text that changes whenever a trial's record, or its latency, is created, deleted or replaced.

    Made of times and sizes alone, so that a store that was copied with its times keeps its fingerprints.
    """
    paths = TrialPaths(folder)
    return f"{_fingerprint(paths.result)} {_fingerprint(paths.latency)}"


def _fingerprint(path: Path) -> str:
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return "-"
    return f"{stat.st_mtime_ns}:{stat.st_size}"

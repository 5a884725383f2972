"""Records of the trials that a search has drawn: a killed sweep runs those that have not ended before it draws more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.spec.errors import SpecError
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.sweep.space.arms import ExpandedArm, PlannedTrial


def note_drawn(store: Store, sweep_folder: Path, trial: PlannedTrial) -> None:
    """Record that a trial was drawn."""
    record = {"arm": trial.arm, "point": dict(trial.point)}
    store.write_once(SweepPaths(sweep_folder).trial(trial.trial_id).drawn, json.dumps(record).encode())


def forget_drawn(store: Store, sweep_folder: Path, trial: PlannedTrial) -> None:
    """Delete the record of a drawn trial that was not started."""
    paths = SweepPaths(sweep_folder).trial(trial.trial_id)
    store.delete_marker(paths.drawn)
    with suppress(OSError):
        paths.folder.rmdir()


def drawn_and_not_ended(arms: Sequence[ExpandedArm], sweep_folder: Path) -> list[PlannedTrial]:
    """Return the drawn trials that lie in the space and have no result, in the order of trial ids."""
    trials: list[PlannedTrial] = []
    for paths in SweepPaths(sweep_folder).drawn_trials():
        if paths.result.exists():
            continue
        record = json.loads(paths.drawn.read_text(encoding="utf-8"))
        for arm in arms:
            if arm.label == record["arm"] and arm.contains(record["point"]):
                try:
                    trial = arm.trial(record["point"])
                except SpecError:
                    continue
                if trial.trial_id == paths.folder.name:
                    trials.append(trial)
                    break
    return trials

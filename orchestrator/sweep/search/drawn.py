"""Trials that a search has drawn and that have not ended: a killed sweep takes them up again before it draws more."""

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
    """Keep that a trial was drawn."""
    told = {"arm": trial.arm, "point": dict(trial.point)}
    store.write_once(SweepPaths(sweep_folder).trial(trial.trial_id).drawn, json.dumps(told).encode())


def forget_drawn(store: Store, sweep_folder: Path, trial: PlannedTrial) -> None:
    """Take back that a trial was drawn which has not been started."""
    paths = SweepPaths(sweep_folder).trial(trial.trial_id)
    store.delete_marker(paths.drawn)
    with suppress(OSError):
        paths.folder.rmdir()


def drawn_and_not_ended(arms: Sequence[ExpandedArm], sweep_folder: Path) -> list[PlannedTrial]:
    """What was drawn, lies in the space still and has no record; in the order of trial ids."""
    found: list[PlannedTrial] = []
    for paths in SweepPaths(sweep_folder).drawn_trials():
        if paths.result.exists():
            continue
        told = json.loads(paths.drawn.read_text(encoding="utf-8"))
        for arm in arms:
            if arm.label == told["arm"] and arm.contains(told["point"]):
                try:
                    trial = arm.trial(told["point"])
                except SpecError:
                    continue
                if trial.trial_id == paths.folder.name:
                    found.append(trial)
                    break
    return found

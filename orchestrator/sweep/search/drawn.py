"""Trials that a search has drawn and that have not ended: a killed sweep takes them up again before it draws more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from orchestrator.records.bucket_sync import delete_marker
from orchestrator.records.records import RESULT
from orchestrator.spec.errors import SpecError
from orchestrator.storage.atomic import write_once
from orchestrator.sweep.space.arms import ExpandedArm, PlannedTrial

DRAWN = "drawn.json"
"""In a trial's folder: where it lies in the search space, written before it starts."""


def note_drawn(sweep_folder: Path, trial: PlannedTrial) -> None:
    """Keep that a trial was drawn."""
    told = {"arm": trial.arm, "point": dict(trial.point)}
    write_once(sweep_folder / "trials" / trial.trial_id / DRAWN, json.dumps(told).encode())


def forget_drawn(sweep_folder: Path, trial: PlannedTrial) -> None:
    """Take back that a trial was drawn which has not been started."""
    folder = sweep_folder / "trials" / trial.trial_id
    delete_marker(folder / DRAWN)
    with suppress(OSError):
        folder.rmdir()


def drawn_and_not_ended(arms: Sequence[ExpandedArm], sweep_folder: Path) -> list[PlannedTrial]:
    """What was drawn, lies in the space still and has no record; in the order of trial ids."""
    found: list[PlannedTrial] = []
    for path in sorted(sweep_folder.glob(f"trials/*/{DRAWN}")):
        if (path.parent / RESULT).exists():
            continue
        told = json.loads(path.read_text(encoding="utf-8"))
        for arm in arms:
            if arm.label == told["arm"] and arm.contains(told["point"]):
                try:
                    trial = arm.trial(told["point"])
                except SpecError:
                    continue
                if trial.trial_id == path.parent.name:
                    found.append(trial)
                    break
    return found

"""Read the status of a sweep from its folder alone, while it runs or afterwards."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.records.records import Ending, read_endings, read_latency
from orchestrator.spec.result import FAILED_STATUSES
from orchestrator.spec.search_space import SearchSpace
from orchestrator.storage.driver_lock import is_driven
from orchestrator.storage.store import Store
from orchestrator.storage.sweep_paths import SweepPaths
from orchestrator.sweep.driver.allocation import resources_of
from orchestrator.sweep.planning import plan


def state_of(store: Store, folder: Path) -> dict[str, Any]:
    """Return the counts of planned trials by state, the best finished one, and the time left (None: not known)."""
    space = SearchSpace.load(SweepPaths(folder).searchspace)
    planned = plan(space, folder)
    planned_ids = {trial.trial_id for trial in planned.trials}
    metric, direction = next(iter(space.objectives.items()))
    ended = failed = 0
    lengths: list[float] = []
    best: tuple[float, Ending] | None = None
    # One at a time: keeping ten thousand of them would cost more than reading them.
    for ending in read_endings(folder):
        if ending.trial_id not in planned_ids:
            continue
        ended += 1
        failed += ending.status in FAILED_STATUSES
        lengths += _length(ending)
        value = _value(ending, metric, folder) if ending.status == "done" else None
        if value is not None and (best is None or (value > best[0] if direction == "max" else value < best[0])):
            best = value, ending
    alive = is_driven(store, folder)
    missing = max(0, planned.total - ended)
    slots = max(1, int((_cpus() if alive else 1) // resources_of(space, folder).cpus))
    running = min(missing, slots) if alive else 0
    return {
        "sweep": space.name,
        "planned": planned.total,
        "done": ended - failed,
        "running": running,
        "failed": failed,
        "waiting": missing - running,
        "driver_alive": alive,
        "seconds_left": missing * sum(lengths) / len(lengths) / slots if alive and lengths else None,
        "best": _described(best, metric) if best is not None else None,
    }


def _cpus() -> int:
    import os

    return os.cpu_count() or 1


def _length(ending: Ending) -> list[float]:
    """Seconds from start to end; none where the record does not say."""
    if not ending.started or not ending.ended:
        return []
    return [(datetime.fromisoformat(ending.ended) - datetime.fromisoformat(ending.started)).total_seconds()]


def _value(ending: Ending, metric: str, folder: Path) -> float | None:
    if metric in ending.metrics:
        return ending.metrics[metric]
    return getattr(read_latency(SweepPaths(folder).trial(ending.trial_id).folder), metric, None)


def _described(best: tuple[float, Ending], metric: str) -> dict[str, Any]:
    value, ending = best
    return {
        "metric": metric,
        "value": value,
        "arm": ending.arm,
        "trial_id": ending.trial_id,
        "point": ending.point,
    }

"""How far a sweep is, from its folder alone: readable from anywhere while it runs."""

from __future__ import annotations

import fcntl
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.store.records import read_latency, read_results
from orchestrator.sweep.planning import plan


def state_of(folder: Path) -> dict[str, Any]:
    """Counts of planned trials by state, the best finished one, and the time left (None where it cannot be told)."""
    space = SearchSpace.load(folder / "searchspace.yaml")
    planned = plan(space, folder)
    wanted = {trial.trial_id for trial in planned.trials}
    results = [result for result in read_results(folder) if result.trial_id in wanted]
    failed = sum(result.status in ("failed", "diverged") for result in results)
    alive = is_running(folder)
    missing = max(0, planned.total - len(results))
    slots = max(1, int((_cpus() if alive else 1) // space.resources.cpus))
    running = min(missing, slots) if alive else 0
    return {
        "sweep": space.name,
        "planned": planned.total,
        "done": len(results) - failed,
        "running": running,
        "failed": failed,
        "waiting": missing - running,
        "driver_alive": alive,
        "seconds_left": _seconds_left(results, missing, slots) if alive else None,
        "best": _best(space, results, folder),
    }


def is_running(folder: Path) -> bool:
    """A driver holds the sweep's lock."""
    try:
        with open(folder / ".driver", "a+", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _cpus() -> int:
    import os

    return os.cpu_count() or 1


def _seconds_left(results: list[TrialResult], missing: int, slots: int) -> float | None:
    lengths = [
        (datetime.fromisoformat(r.ended) - datetime.fromisoformat(r.started)).total_seconds()
        for r in results
        if r.started and r.ended
    ]
    return missing * sum(lengths) / len(lengths) / slots if lengths else None


def _best(space: SearchSpace, results: list[TrialResult], folder: Path) -> dict[str, Any] | None:
    metric, direction = next(iter(space.objectives.items()))

    def value(result: TrialResult) -> float | None:
        if metric in result.metrics:
            return result.metrics[metric]
        latency = read_latency(folder / "trials" / result.trial_id)
        return getattr(latency, metric, None)

    found = [(v, r) for r in results if r.status == "done" and (v := value(r)) is not None]
    if not found:
        return None
    best, result = (max if direction == "max" else min)(found, key=lambda pair: pair[0])
    return {
        "metric": metric,
        "value": best,
        "arm": result.arm,
        "trial_id": result.trial_id,
        "point": result.point,
    }

"""prunesweep: distributed sweeps over network pruning methods, sparsities and retraining schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.analysis.load import load_results
    from orchestrator.spec.errors import PrunesweepError
    from orchestrator.spec.search_space import SearchSpace
    from orchestrator.sweep.planning import plan
    from orchestrator.sweep.run import run
    from orchestrator.trial.run import run_trial

_HOMES = {
    "PrunesweepError": "orchestrator.spec.errors",
    "SearchSpace": "orchestrator.spec.search_space",
    "plan": "orchestrator.sweep.planning",
    "run": "orchestrator.sweep.run",
    "run_trial": "orchestrator.trial.run",
    "load_results": "orchestrator.analysis.load",
}

__all__ = ["PrunesweepError", "SearchSpace", "load_results", "plan", "run", "run_trial"]


def __getattr__(name: str) -> Any:
    """Import on first use: planning must not wait for torch, nor a trial for Ray."""
    if name not in _HOMES:
        raise AttributeError(f"module 'orchestrator' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)

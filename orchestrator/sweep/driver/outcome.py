"""What one run of a sweep did, as a value for its caller."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.spec.result import TrialResult
from orchestrator.sweep.planning import Plan


@dataclass
class SweepOutcome:
    """What one run of a sweep did."""

    plan: Plan
    folder: Path
    executed: int = 0
    """Trials run now."""
    trained: dict[str, int] = field(default_factory=dict)
    """Shared stages computed now, by name."""
    measured: int = 0
    """Latencies measured now."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time of the checks, the trials and the measuring."""
    failures: list[TrialResult] = field(default_factory=list)
    """Planned trials that failed or diverged, now or before."""
    interrupted: bool = False
    warnings: list[str] = field(default_factory=list)

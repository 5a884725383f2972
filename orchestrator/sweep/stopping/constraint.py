"""Ends trials whose network, once cut, breaks a constraint on its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.spec.constraint import violation
from orchestrator.spec.errors import SpecError
from orchestrator.spec.metric import SIZES
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.stopping.rule import Progress, StoppingRule


@dataclass(frozen=True)
class Constraint(StoppingRule):
    """Ends a trial right after the cut if the network it got breaks a constraint that retraining cannot mend."""

    def shares(self) -> tuple[float, ...]:
        return (0.0,)

    def verdict(self, progress: Progress, others: Sequence[Progress], space: SearchSpace) -> str | None:
        for name, text in space.constraints.items():
            if name in SIZES and name in progress.sizes and violation(text, progress.sizes[name]) > 0:
                return f"{name} is {progress.sizes[name]:g} after the cut, the constraint is {text.strip()}"
        return None

    def check(self, space: SearchSpace) -> None:
        if not any(name in SIZES for name in space.constraints):
            named = ", ".join(space.constraints) or "none"
            problem = f"'constraint' needs a constraint on one of {', '.join(SIZES)}; found {named}"
            raise SpecError("stopper.name", problem)

"""Asynchronous successive halving, the stopping variant.

Source: Li et al., A System for Massively Parallel Hyperparameter Tuning (2020). Differs from the paper: the best trial
at a rung is never stopped, and rungs are equally spaced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.stopping.rule import (
    Costs,
    Progress,
    StoppingRule,
    check_accuracy_alone,
    costs_of,
    equal_shares,
)


@dataclass(frozen=True)
class Asha(StoppingRule):
    """Asynchronous successive halving: at every rung only the best share of the trials so far goes on."""

    rungs: Annotated[int, Field(ge=1, le=100)] = 3
    """Rung r of R is passed after the share r / (R + 1) of the trial's own retraining."""
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.34
    """The share of the trials at a rung that goes on; the best one always does."""

    def shares(self) -> tuple[float, ...]:
        return equal_shares(self.rungs)

    def verdict(self, progress: Progress, others: Sequence[Progress], space: SearchSpace) -> str | None:
        costs = [costs_of(other, space) for other in others]
        ahead = self.n_ahead(costs_of(progress, space), costs)
        if ahead < n_survivors(self.keep, len(others) + 1):
            return None
        return f"{ahead} of {len(others) + 1} trials are ahead at {self.position(progress)}, {self.keep:g} go on"

    def n_ahead(self, costs: Costs, others: Sequence[Costs]) -> int:
        """Return how many trials are better."""
        return sum(other < costs for other in others)

    def check(self, space: SearchSpace) -> None:
        check_accuracy_alone("asha", space)


def n_survivors(keep: float, trials: int) -> int:
    """Return how many of the trials at a rung go on, at least one."""
    return max(1, math.floor(keep * trials + 1e-9))

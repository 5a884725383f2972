"""The median rule.

Source: Golovin et al., Google Vizier (2017), section 3.2.2. Differs from the paper: rungs are equally spaced.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.stopping.rule import Progress, StoppingRule, check_accuracy_alone, equal_shares


@dataclass(frozen=True)
class Median(StoppingRule):
    """Ends a trial whose best epoch so far is below the median of the other trials' mean up to the same rung."""

    rungs: Annotated[int, Field(ge=1, le=100)] = 3
    trials: Annotated[int, Field(ge=2)] = 5
    """Trials that must have reached the rung before anything is ended there."""

    def shares(self) -> tuple[float, ...]:
        return equal_shares(self.rungs)

    def verdict(self, progress: Progress, others: Sequence[Progress], space: SearchSpace) -> str | None:
        if len(others) < self.trials:
            return None
        middle = statistics.median(statistics.fmean(other.curve) for other in others)
        best = max(progress.curve)
        if best >= middle:
            return None
        return (
            f"val_accuracy {best:.4f} at best, below {middle:.4f}, the median of the means of "
            f"{len(others)} trials at {self.position(progress)}"
        )

    def check(self, space: SearchSpace) -> None:
        check_accuracy_alone("median", space)

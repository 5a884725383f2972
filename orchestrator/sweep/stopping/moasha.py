"""Asynchronous successive halving for several objectives.

Source: Schmucker et al., Multi-objective Asynchronous Successive Halving (2021), by non-dominated fronts. Differs from
the paper: no trial on the first front is ever stopped, and rungs are equally spaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.metrics.pareto import non_dominated
from orchestrator.spec.errors import SpecError
from orchestrator.spec.metric import SIZES, VALIDATED
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.stopping.asha import Asha
from orchestrator.sweep.stopping.rule import Costs


@dataclass(frozen=True)
class Moasha(Asha):
    """The same for several objectives: what counts is the rank of the non-dominated front a trial stands on."""

    def n_ahead(self, costs: Costs, others: Sequence[Costs]) -> int:
        return n_on_better_fronts(costs, others)

    def check(self, space: SearchSpace) -> None:
        if len(space.objectives) < 2:
            objectives = ", ".join(space.objectives)
            raise SpecError("stopper.name", f"'moasha' is for several objectives, found {objectives}; use 'asha'")
        for name in space.objectives:
            if name not in (*VALIDATED, *SIZES):
                raise SpecError(f"objectives.{name}", "is not known while a trial runs: 'moasha' cannot compare it")


def n_on_better_fronts(costs: Costs, others: Sequence[Costs]) -> int:
    """Return how many points stand on a non-dominated front before that of `costs`; NaN stands on the first."""
    remaining = [*others, costs]
    ahead = 0
    while remaining:
        first = {remaining[i] for i in non_dominated(remaining)}
        if costs in first:
            return ahead
        ahead += sum(point in first for point in remaining)
        remaining = [point for point in remaining if point not in first]
    return ahead

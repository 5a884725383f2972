"""What every stopper is made of: the rungs at which trials report, and a verdict on one report beside the others.

A rung is a share of the trial's own schedule, never a number of epochs: under CLR the accuracy falls before it rises,
and trials of different length are at the same point of their cycle only at the same share.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.spec.errors import SpecError
from orchestrator.spec.metric import VALIDATED
from orchestrator.spec.search_space import SearchSpace

Costs = tuple[float, ...]
"""Values of the objectives, all of which are to be small: those that are to be large are negated."""


@dataclass(frozen=True)
class Progress:
    """A worker's report of one trial at a rung."""

    trial_id: str
    rung: int
    """Index in the stopper's rungs."""
    curve: Sequence[float]
    """Validation accuracy after each epoch of the retraining so far."""
    sizes: Mapping[str, float]
    """Metrics of the network right after the cut."""


class StoppingRule(metaclass=ABCMeta):
    """Base of a stopper; its dataclass fields are its parameters. Trials alone are stopped, never shared stages."""

    @abstractmethod
    def shares(self) -> tuple[float, ...]:
        """Return the rungs as shares of the retraining; 0 is right after the cut."""

    @abstractmethod
    def verdict(self, progress: Progress, others: Sequence[Progress], space: SearchSpace) -> str | None:
        """Return why a trial ends at a rung, or None if it goes on.

        Args:
            progress: the trial's report.
            others: the reports of all other trials at the same rung.
            space: the search space, with objectives and constraints.
        """

    def check(self, space: SearchSpace) -> None:  # noqa: B027
        """Raise :class:`SpecError` where the rule could never compare what objectives and constraints ask for."""

    def position(self, progress: Progress) -> str:
        """Return where in its retraining a trial is: ``25% of the retraining``."""
        return f"{self.shares()[progress.rung]:.0%} of the retraining"


def equal_shares(rungs: int) -> tuple[float, ...]:
    """Return rungs that divide the retraining into equal parts: r / (R + 1) for r of 1 to R."""
    return tuple(i / (rungs + 1) for i in range(1, rungs + 1))


def costs_of(progress: Progress, space: SearchSpace) -> Costs:
    """Return the objectives of a trial at a rung as costs."""
    values = {**progress.sizes, **dict.fromkeys(VALIDATED, progress.curve[-1])}
    return tuple(-values[name] if way == "max" else values[name] for name, way in space.objectives.items())


def check_accuracy_alone(name: str, space: SearchSpace) -> None:
    """Refuse objectives other than the highest accuracy; raises :class:`SpecError`."""
    objectives = ", ".join(space.objectives)
    if len(space.objectives) > 1:
        raise SpecError("stopper.name", f"{name!r} compares one objective, found {objectives}; use 'moasha'")
    if objectives not in VALIDATED or space.objectives[objectives] != "max":
        raise SpecError("stopper.name", f"{name!r} wants accuracy at its highest, found {dict(space.objectives)}")

"""What every search is: fixed points that follow from the axes alone, or a study that is asked and told."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from orchestrator.spec.errors import PrunesweepError, SpecError
from orchestrator.spec.search_space import SearchSpace
from orchestrator.sweep.search.observation import EvaluatedTrial, Observation
from orchestrator.sweep.space.arms import ExpandedArm, PlannedTrial

ArmPoint = tuple[int, dict[str, Any]]
"""Index of an arm and a point of its axes."""


class FixedSearch(metaclass=ABCMeta):
    """Base of a search whose points are known before any trial has run; its dataclass fields are its parameters."""

    adaptive: ClassVar[bool] = False

    @abstractmethod
    def points(self, arms: Sequence[ExpandedArm]) -> Iterator[ArmPoint]:
        """Yield the points to run, in order; points that resolve to one trial run once.

        Raises:
            SpecError: axes that the search cannot take.
        """


class AdaptiveSearch(metaclass=ABCMeta):
    """Base of a search that draws the next trial from what earlier ones gave; its dataclass fields are its parameters.

    The number of trials to draw is `search.trials` of the search space.
    """

    adaptive: ClassVar[bool] = True

    @abstractmethod
    def start(
        self,
        space: SearchSpace,
        arms: Sequence[ExpandedArm],
        evaluated: Sequence[EvaluatedTrial] = (),
        journal: Path | None = None,
    ) -> Study:
        """Return a study that knows the recorded trials.

        Args:
            space: the search space, with objectives and constraints.
            arms: its arms, expanded.
            evaluated: what is recorded already, in order.
            journal: a file that the study may keep as a view of itself; None: no file.
        """


class Study(Protocol):
    """A running adaptive search; called from one thread at a time."""

    impossible: int
    """Suggestions that resolve to no trial."""
    problem: SpecError | None
    """Why the last of them does not."""

    def ask(self) -> PlannedTrial:
        """Return a trial that is neither recorded nor running.

        Raises:
            Exhausted: there is none, or none was found.
            SpecError: nothing that was suggested could be tried, and no trial has ever ended.
        """

    def tell(self, trial_id: str, observation: Observation) -> None:
        """Take in the observation of an ended trial."""

    def register_running(self, trial: PlannedTrial) -> None:
        """Register a trial that an earlier driver drew, so that its observation can be told."""

    def cancel(self, trial_id: str) -> None:
        """Take back a trial that was asked for and will not run now."""


class Exhausted(PrunesweepError):
    """The search finds no new trial; the message says why."""

"""What a search space may say of ending weak trials early: the stoppers by name, and their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from orchestrator.spec.errors import SpecError, first_problem, join, nearest, shown
from orchestrator.spec.trial import Value


class Stopper(Value):
    """A named rule; trials alone are stopped, never the stages they share."""

    name: str


class Asha(Stopper):
    """Asynchronous successive halving: at every rung only the best share of the trials so far goes on."""

    rungs: int = Field(default=3, ge=1, le=100)
    """Rung r of R is passed after the share r / (R + 1) of the trial's own retraining."""
    keep: float = Field(default=0.34, gt=0, lt=1)
    """The share of the trials at a rung that goes on; the best one always does."""


class Moasha(Asha):
    """The same for several objectives: what counts is the rank of the non-dominated front a trial stands on."""


class Median(Stopper):
    """Ends a trial whose best epoch so far is below the median of the other trials' mean up to the same rung."""

    rungs: int = Field(default=3, ge=1, le=100)
    trials: int = Field(default=5, ge=2)
    """Trials that must have reached the rung before anything is ended there."""


class Constraint(Stopper):
    """Ends a trial right after the cut if the network it got breaks a constraint that retraining cannot mend."""


STOPPERS: dict[str, type[Stopper]] = {"asha": Asha, "median": Median, "moasha": Moasha, "constraint": Constraint}


def stopper_from(raw: Any) -> Stopper:
    """The stopper from a name or a mapping with one.

    Raises:
        SpecError: with path, value and the nearest valid name.
    """
    if isinstance(raw, str):
        raw = {"name": raw}
    if not isinstance(raw, Mapping):
        raise SpecError("stopper", f"must be a name or a mapping with a name, found {shown(raw)}")
    if "name" not in raw:
        raise SpecError("stopper.name", f"is missing{nearest('', STOPPERS)}")
    name = raw["name"]
    if not isinstance(name, str) or name not in STOPPERS:
        raise SpecError("stopper.name", f"unknown stopper {shown(name)}{nearest(str(name), STOPPERS)}")
    kind = STOPPERS[name]
    try:
        return kind.model_validate(dict(raw))
    except ValidationError as error:
        location, message = first_problem(error, kind)
        raise SpecError(join("stopper", *location), message) from None

"""Building of the schedule that a trial's retraining names."""

from __future__ import annotations

from pydantic import ValidationError

from orchestrator.plugins import UnknownName
from orchestrator.retrain import SCHEDULES
from orchestrator.spec.errors import SpecError, first_problem, join
from orchestrator.spec.trial import Baseline, Retrain
from orchestrator.training.schedule import Budget, Schedule


def build(retrain: Retrain, baseline: Baseline, *, steps_per_epoch: int, macs_ratio: float) -> Schedule:
    """Return the named schedule for a baseline and a budget.

    ``steps_per_epoch``: minibatches of the retraining's batch size; ``macs_ratio``: MACs of the dense network over
    those of the pruned one. Raises :class:`SpecError` with the path for an unknown name or parameter, and
    ``ScheduleError`` for steps or a ratio out of range.
    """
    try:
        parameters = SCHEDULES.parameters(retrain.name)
    except UnknownName as error:
        raise SpecError("retrain", str(error)) from None
    try:
        parameters.model_validate(dict(retrain.params))
    except ValidationError as error:
        location, message = first_problem(error, parameters)
        raise SpecError(join("retrain", *location), message) from None
    budget = Budget(retrain.epochs, steps_per_epoch, macs_ratio)
    schedule: Schedule = SCHEDULES.load(retrain.name)(baseline, budget, **retrain.params)
    return schedule

"""Applies the stopper of a search space on the driver, to what workers report at equal shares of their retraining."""

from __future__ import annotations

import math
from collections.abc import Iterable

from orchestrator.spec.errors import SpecError
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.trial import Choice
from orchestrator.sweep.space.choices import checked_parameters, instance, own_code
from orchestrator.sweep.stopping import STOPPERS
from orchestrator.sweep.stopping.rule import Progress, StoppingRule


class StoppingPolicy:
    """Keeps the reports of every trial at every rung and decides which trials end.

    Reports can be replayed from the records, so that a resumed sweep compares with all that ran before.
    """

    def __init__(self, space: SearchSpace) -> None:
        assert space.stopper is not None
        self.name = space.stopper.name
        self.rule = rule_of(space)
        self.rungs = self.rule.shares()
        self.space = space
        self.reports: list[dict[str, Progress]] = [{} for _ in self.rungs]
        """By rung and trial."""

    def decide(self, progress: Progress) -> str | None:
        """Return why the trial ends here, or None if it goes on."""
        reports = self.reports[progress.rung]
        reports[progress.trial_id] = progress
        others = [other for trial_id, other in reports.items() if trial_id != progress.trial_id]
        return self.rule.verdict(progress, others, self.space)

    def replay(self, results: Iterable[TrialResult]) -> None:
        """Take in the reports that recorded trials had made; nothing is decided anew."""
        for result in results:
            if result.status not in ("done", "stopped"):
                continue
            curve = retraining_curve(result)
            share = 1.0 if result.status == "done" else result.stopped_at or 0.0
            epochs = round(len(curve) / share) if share else 0
            for index, rung in enumerate(self.rungs):
                length = epochs_at(rung, epochs)
                if length <= len(curve) and (curve or rung == 0):
                    report = Progress(result.trial_id, index, curve[:length], result.metrics)
                    self.reports[index][result.trial_id] = report


def rule_of(space: SearchSpace) -> StoppingRule:
    """Return the stopper of a search space that has one.

    Raises:
        SpecError: an unknown name, a bad parameter, objectives that it cannot compare, or rungs that are no shares.
    """
    assert space.stopper is not None
    name = space.stopper.name
    rule = instance(STOPPERS, name, space.stopper.params, "stopper", StoppingRule)  # type: ignore[type-abstract]
    with own_code("stopper.name", f"{name!r} cannot check the search space"):
        rule.check(space)
    with own_code("stopper.name", f"{name!r} has no usable rungs"):
        rungs = rule.shares()
        if not all(0 <= rung <= 1 for rung in rungs):
            raise SpecError("stopper.name", f"{name!r} has rungs that are no shares of the retraining: {rungs}")
    return rule


def without_defaults(space: SearchSpace) -> SearchSpace:
    """Return the search space without those parameters of its stopper that equal their defaults.

    Raises:
        SpecError: an unknown stopper or parameter.
    """
    if space.stopper is None:
        return space
    params = checked_parameters(STOPPERS, space.stopper.name, space.stopper.params, "stopper")
    stopper = Choice(name=space.stopper.name, params=params.model_dump(exclude_defaults=True))
    return space.model_copy(update={"stopper": stopper})


def epochs_at(rung: float, epochs: int) -> int:
    """Return the epochs done when a rung is reached: the first whole number that is at least the share."""
    return math.ceil(rung * epochs - 1e-9)


def retraining_curve(result: TrialResult) -> list[float]:
    """Return the validation accuracy after each epoch of a trial's own retraining, without that of steps before it."""
    rows = [row for row in result.epochs if row.stage == "retrain"]
    starts = [i for i, row in enumerate(rows) if row.epoch == 0]
    return [row.val_accuracy for row in rows[starts[-1] :]] if starts else []


__all__ = ["Progress", "StoppingPolicy", "epochs_at", "retraining_curve", "rule_of", "without_defaults"]

"""Stoppers: which trials end early, decided on the driver from what workers report at equal shares of a retraining.

A rung is a share of the trial's own schedule, never a number of epochs: under CLR the accuracy falls before it rises,
and trials of different length are at the same place of their cycle only at the same share.

Sources: Li et al., A System for Massively Parallel Hyperparameter Tuning (2020), the stopping variant (ASHA); Schmucker
et al., Multi-objective Asynchronous Successive Halving (2021), by non-dominated fronts; Golovin et al., Google Vizier
(2017), section 3.2.2, the median rule. Differs from the papers: no trial on the first front is ever stopped, and rungs
are equally spaced.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from orchestrator.metrics.pareto import front
from orchestrator.spec.constraint import violation
from orchestrator.spec.errors import SpecError
from orchestrator.spec.metric import SIZES, VALIDATED
from orchestrator.spec.result import TrialResult
from orchestrator.spec.search_space import SearchSpace
from orchestrator.spec.stopper import Asha, Constraint, Median, Moasha, Stopper

Costs = tuple[float, ...]
"""Values to be small: objectives that are to be large are negated."""


@dataclass(frozen=True)
class Progress:
    """What a worker tells at a rung."""

    trial_id: str
    rung: int
    """Index in the stopper's rungs."""
    curve: Sequence[float]
    """Validation accuracy after each epoch of the retraining so far."""
    sizes: Mapping[str, float]
    """Of the network after the cut."""


class StoppingPolicy:
    """Hears every trial at every rung and says which of them end.

    What it has heard can be told again from the records, so that a resumed sweep compares with all that ran before.
    """

    def __init__(self, space: SearchSpace) -> None:
        assert space.stopper is not None
        self.rule: Stopper = space.stopper
        self.rungs = rungs_of(self.rule)
        self._objectives = space.objectives
        self._constraints = space.constraints
        self._heard: list[dict[str, Progress]] = [{} for _ in self.rungs]

    def decide(self, progress: Progress) -> str | None:
        """Why the trial ends here, or None if it goes on."""
        heard = self._heard[progress.rung]
        heard[progress.trial_id] = progress
        others = [other for trial_id, other in heard.items() if trial_id != progress.trial_id]
        if isinstance(self.rule, Constraint):
            return self._broken(progress.sizes)
        if isinstance(self.rule, Median):
            return self._below_median(progress, others, self.rule.trials)
        assert isinstance(self.rule, Asha)
        costs = [self._costs(other) for other in others]
        ahead = (better_fronts if isinstance(self.rule, Moasha) else better)(self._costs(progress), costs)
        if ahead < n_survivors(self.rule.keep, len(others) + 1):
            return None
        return f"{ahead} of {len(others) + 1} trials are ahead at {self._where(progress)}, {self.rule.keep:g} go on"

    def recall(self, results: Iterable[TrialResult]) -> None:
        """Take in what recorded trials had told; nothing is decided anew."""
        for result in results:
            if result.status not in ("done", "stopped"):
                continue
            curve = retraining(result)
            share = 1.0 if result.status == "done" else result.stopped_at or 0.0
            epochs = round(len(curve) / share) if share else 0
            for index, rung in enumerate(self.rungs):
                length = epochs_at(rung, epochs)
                if length <= len(curve) and (curve or rung == 0):
                    told = Progress(result.trial_id, index, curve[:length], result.metrics)
                    self._heard[index][result.trial_id] = told

    def _broken(self, sizes: Mapping[str, float]) -> str | None:
        for name, text in self._constraints.items():
            if name in SIZES and name in sizes and violation(text, sizes[name]) > 0:
                return f"{name} is {sizes[name]:g} after the cut, the constraint is {text.strip()}"
        return None

    def _below_median(self, progress: Progress, others: Sequence[Progress], least: int) -> str | None:
        if len(others) < least:
            return None
        middle = median(fmean(other.curve) for other in others)
        best = max(progress.curve)
        if best >= middle:
            return None
        return (
            f"val_accuracy {best:.4f} at best, below {middle:.4f}, the median of the means of "
            f"{len(others)} trials at {self._where(progress)}"
        )

    def _costs(self, progress: Progress) -> Costs:
        values = {**progress.sizes, **dict.fromkeys(VALIDATED, progress.curve[-1])}
        return tuple(-values[name] if way == "max" else values[name] for name, way in self._objectives.items())

    def _where(self, progress: Progress) -> str:
        return f"{self.rungs[progress.rung]:.0%} of the retraining"


def rungs_of(rule: Stopper) -> tuple[float, ...]:
    """Shares of the retraining after which a stopper wants to hear; 0 is right after the cut."""
    if isinstance(rule, Asha | Median):
        return tuple(i / (rule.rungs + 1) for i in range(1, rule.rungs + 1))
    return (0.0,)


def epochs_at(rung: float, epochs: int) -> int:
    """Epochs done when a rung is reached: the first whole number that is at least the share."""
    return math.ceil(rung * epochs - 1e-9)


def n_survivors(keep: float, trials: int) -> int:
    """How many of the trials at a rung go on, at least one."""
    return max(1, math.floor(keep * trials + 1e-9))


def better(mine: Costs, others: Sequence[Costs]) -> int:
    """How many have less cost."""
    return sum(other < mine for other in others)


def better_fronts(mine: Costs, others: Sequence[Costs]) -> int:
    """How many stand on a front before mine; the first front is of those that none is better than in every respect."""
    remaining = [*others, mine]
    ahead = 0
    while remaining:
        first = {remaining[i] for i in front(remaining)}
        if not first or mine in first:
            return ahead
        ahead += sum(costs in first for costs in remaining)
        remaining = [costs for costs in remaining if costs not in first]
    return ahead


def retraining(result: TrialResult) -> list[float]:
    """Validation accuracy after each epoch of a trial's own retraining, without that of steps before it."""
    rows = [row for row in result.epochs if row.stage == "retrain"]
    starts = [i for i, row in enumerate(rows) if row.epoch == 0]
    return [row.val_accuracy for row in rows[starts[-1] :]] if starts else []


def check_stopper(space: SearchSpace) -> None:
    """Refuse a stopper that could never compare what the objectives and constraints ask for."""
    rule, objectives = space.stopper, space.objectives
    if rule is None:
        return
    found = ", ".join(objectives)
    if isinstance(rule, Moasha):
        if len(objectives) < 2:
            raise SpecError("stopper.name", f"'moasha' is for several objectives, found {found}; use 'asha'")
        for name in objectives:
            if name not in (*VALIDATED, *SIZES):
                raise SpecError(f"objectives.{name}", "is not known while a trial runs: 'moasha' cannot compare it")
    elif isinstance(rule, Asha | Median):
        if len(objectives) > 1:
            raise SpecError("stopper.name", f"{rule.name!r} compares one objective, found {found}; use 'moasha'")
        if found not in VALIDATED or objectives[found] != "max":
            raise SpecError("stopper.name", f"{rule.name!r} wants accuracy at its highest, found {dict(objectives)}")
    elif not any(name in SIZES for name in space.constraints):
        told = ", ".join(space.constraints) or "none"
        raise SpecError("stopper.name", f"'constraint' needs a constraint on one of {', '.join(SIZES)}; found {told}")

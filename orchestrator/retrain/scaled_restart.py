"""Scaled restarting: a warm-up, then the dense step schedule compressed into the remaining epochs."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.plugins import Share
from orchestrator.spec.trial import Baseline
from orchestrator.training.schedule import (
    Budget,
    Constant,
    EpochSteps,
    Schedule,
    cosmix,
    lowest_lr,
    step_recipe,
    whole_epochs,
)


def scaled_restart(baseline: Baseline, budget: Budget, *, warmup: Share = 0.1) -> Schedule:
    """SLR: warm up to the highest dense rate, then the dense step schedule compressed into the rest.

    By epoch t of E, with W = int(warmup E):

    - t <= W: lr(t) = cosmix(low, high, t / W); W = 0 is no warm-up, the first epoch has the highest rate
    - t > W: lr(t) = high gamma^n, n the number of milestones int(m (1 - warmup) E) <= t - W

    for each dense milestone m, a share of the dense epochs: 50 % and 75 % in the paper. E = 40 drops at epochs 22 and
    31; 72 at 39 and 55; 104 at 56 and 80; 152 at 83 and 117. Momentum is the baseline's. A baseline trained by cosine
    or CLR is restarted with the paper's own milestones and factor (Table 14).

    Source: paper 001 (Network Pruning That Matters), section 1.2. Differs from the paper: with a warm-up other than
    0.1 the milestones are shares of the epochs that remain after it, where its code keeps 0.9 E.
    """
    shares, gamma = step_recipe(baseline)
    warm_epochs = whole_epochs(warmup, budget.epochs)
    drops = tuple(warm_epochs + whole_epochs(share * (1 - warmup), budget.epochs) for share in shares)
    steps = EpochSteps(baseline.lr, gamma, drops, budget.steps_per_epoch)
    rate = WarmedSteps(lowest_lr(baseline), warm_epochs, steps)
    return Schedule(budget.epochs, budget.steps_per_epoch, rate, Constant(baseline.momentum))


@dataclass(frozen=True)
class WarmedSteps:
    """A step schedule that first rises from ``low`` to its highest rate; milestones count from epoch 0."""

    low: float
    warm_epochs: int
    then: EpochSteps

    def __call__(self, step: int) -> float:
        epoch = step // self.then.steps_per_epoch
        if epoch > self.warm_epochs:
            return self.then(step)
        return cosmix(self.low, self.then.lr, epoch / self.warm_epochs if self.warm_epochs else 1.0)

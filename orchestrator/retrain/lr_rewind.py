"""Learning-rate rewinding: the end of the dense schedule, repeated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.spec.trial import Baseline
from orchestrator.training.schedule import Budget, Constant, Schedule, dense_schedule, lowest_lr


def lr_rewind(baseline: Baseline, budget: Budget) -> Schedule:
    """LRW: repeat the last E epochs of the dense schedule on the final weights.

    lr(t) = LR_dense(E_dense - E + t), the momentum likewise. For the paper's 160 dense epochs: up to 40 epochs it is
    fine-tuning; up to 80, 0.01 until E - 40, then 0.001; beyond, 0.1 until E - 80, 0.01 until E - 40, then 0.001.

    A budget longer than dense training has the first dense rate for the epochs in excess, so that it always ends as
    dense training did (as in the paper's code). Without any dense epoch, the rate is the last dense one, as in
    fine-tuning.

    Source: paper 001 (Network Pruning That Matters), section 1.2, after Renda et al.
    """
    if baseline.epochs == 0:
        rate, momentum = Constant(lowest_lr(baseline)), Constant(baseline.momentum)
        return Schedule(budget.epochs, budget.steps_per_epoch, rate, momentum)
    dense = dense_schedule(baseline, budget.steps_per_epoch)
    by = (baseline.epochs - budget.epochs) * budget.steps_per_epoch
    return Schedule(budget.epochs, budget.steps_per_epoch, Rewound(dense.lr_at, by), Rewound(dense.momentum_at, by))


@dataclass(frozen=True)
class Rewound:
    """A curve shifted by ``by`` steps; before its beginning it has its first value."""

    curve: Callable[[int], float]
    by: int

    def __call__(self, step: int) -> float:
        return self.curve(max(0, step + self.by))

"""Fine-tuning: the last rate of dense training, unchanged."""

from __future__ import annotations

from orchestrator.plugins import Positive
from orchestrator.spec.trial import Baseline
from orchestrator.training.schedule import Budget, Constant, Schedule, lowest_lr


def fine_tune(baseline: Baseline, budget: Budget, *, lr: Positive | None = None) -> Schedule:
    """FT: retrain at the last learning rate of dense training.

    lr(t) = LR_dense(last) for every epoch t (0.001 after 0.1, x0.1 at 50 % and 75 %); ``lr`` sets another constant.
    Momentum is the baseline's.

    Source: paper 001 (Network Pruning That Matters), section 1.2. After cosine or CLR training, which end near 0, the
    rate is a hundredth of the highest: the 0.001 of its Table 14.
    """
    rate = lowest_lr(baseline) if lr is None else lr
    return Schedule(budget.epochs, budget.steps_per_epoch, Constant(rate), Constant(baseline.momentum))

"""Cyclic learning-rate restarting: one warm-up and one cosine decay, per step, with the momentum cycled inversely."""

from __future__ import annotations

from orchestrator.plugins import Positive, Share
from orchestrator.spec.trial import Baseline
from orchestrator.training.schedule import (
    Budget,
    Constant,
    OneCycle,
    Schedule,
    lowest_lr,
    momentum_cycle,
    one_cycle,
)


def clr(
    baseline: Baseline,
    budget: Budget,
    *,
    warmup: Share = 0.1,
    div: Positive | None = None,
    final_div: Positive = 100.0,
    cycle_momentum: bool = True,
) -> Schedule:
    """CLR: warm up from the lowest to the highest dense rate, then decay by a cosine, step by step.

    With T steps in all, e1 = warmup T - 1, and cosmix(a, b, p) = b + (a - b) (1 + cos(pi p)) / 2:

    - k <= e1: lr(k) = cosmix(low, high, k / e1)
    - k > e1: lr(k) = cosmix(high, low / final_div, (k - e1) / (T - 1 - e1))

    where high is the baseline's ``lr`` and low is high / ``div``, or the last dense rate where ``div`` is None: for the
    paper's 0.1 and 0.001 (div 100) the rate ends at 1e-5. Momentum is 0.95, 0.85, 0.95 at the ends of the same phases
    and replaces the baseline's; with ``cycle_momentum: false`` it is the baseline's. Equal at every step to PyTorch's
    ``OneCycleLR``; where that divides by zero (e1 = 0), step 0 has the highest rate.

    Source: paper 001 (Network Pruning That Matters), section 1.2; ``warmup`` is its ablation's 0, 0.05, 0.1, 0.15.
    """
    steps = budget.epochs * budget.steps_per_epoch
    low = lowest_lr(baseline) if div is None else baseline.lr / div
    momentum_at: OneCycle | Constant = momentum_cycle(warmup, steps) if cycle_momentum else Constant(baseline.momentum)
    rate = one_cycle(low, baseline.lr, low / final_div, warmup, steps)
    return Schedule(budget.epochs, budget.steps_per_epoch, rate, momentum_at)

"""Scratch-E: the pruned architecture from new weights, for the epochs of dense training and retraining together."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.spec.trial import Baseline
from orchestrator.training.schedule import Budget, Schedule, dense_schedule


def scratch_e(baseline: Baseline, budget: Budget) -> Schedule:
    """Scratch-E: train the pruned network from new weights for the epochs of dense training and retraining together.

    The dense schedule stretched over E_dense + E epochs: 160 + 40 = 200 in the paper, x0.1 at 50 % and 75 %
    (100 and 150).

    Source: paper 001 (Network Pruning That Matters), section 1.4, which adds the retraining budget to the Scratch-E of
    Rethinking the Value of Network Pruning; E = 0 gives the latter's.
    """
    epochs = baseline.epochs + budget.epochs
    return replace(dense_schedule(baseline, budget.steps_per_epoch, epochs), reset_weights=True)

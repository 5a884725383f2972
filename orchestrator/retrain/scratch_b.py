"""Scratch-B: the pruned architecture from new weights, for the computation of dense training."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.spec.trial import Baseline
from orchestrator.training.schedule import Budget, Schedule, dense_schedule, whole_epochs


def scratch_b(baseline: Baseline, budget: Budget) -> Schedule:
    """Scratch-B: train the pruned network from new weights for as much computation as the dense training.

    The dense schedule stretched over int(E_dense MACs_dense / MACs_pruned) epochs, x0.1 at 50 % and 75 % in the paper.
    The budget's epochs are not used.

    Source: paper 001 (Network Pruning That Matters), section 1.4, after Rethinking the Value of Network Pruning.
    """
    epochs = whole_epochs(budget.macs_ratio, baseline.epochs)
    return replace(dense_schedule(baseline, budget.steps_per_epoch, epochs), reset_weights=True)

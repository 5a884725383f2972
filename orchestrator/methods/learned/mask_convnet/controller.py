"""A controller of the penalty on masks: proportional to the distance from the budget (MaskConvNet)."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.methods.base import PruneTask
from orchestrator.methods.parts.target_counts import target_counts
from orchestrator.surgery.costs import Counts, Quantity


class Controller:
    """Multipliers lambda_m = base * clip(2 (T - s) / T, 0, 1) and lambda_v = base, summed over the quantities.

    T is the share of a quantity to remove: the target's, or that of its counts to keep, or else ``budget``; s is the
    share removed at the last `update`. ``bases``: for every quantity the bases of lambda_m and lambda_v. Before the
    first update both multipliers are 0; ``met``: every quantity had reached its T at the last one.
    """

    def __init__(self, task: PruneTask, bases: Mapping[Quantity, tuple[float, float]], budget: float) -> None:
        self._task = task
        self._bases = bases
        self.goals = {quantity: self._goal(quantity, budget) for quantity in bases}
        self.multipliers = (0.0, 0.0)
        self.met = False

    def update(self, counts: Counts) -> None:
        """Set the multipliers by the units that each group has. counts: (groups,)."""
        lambda_m = lambda_v = 0.0
        self.met = True
        for quantity, (base_m, base_v) in self._bases.items():
            goal = self.goals[quantity]
            gap = min(1.0, max(0.0, 2 * (goal - self.removed(quantity, counts)) / goal)) if goal else 0.0
            lambda_m += base_m * gap
            lambda_v += base_v
            self.met = self.met and gap == 0
        self.multipliers = (lambda_m, lambda_v)

    def removed(self, quantity: Quantity, counts: Counts) -> float:
        """Return the share of a quantity that is removed with these counts of units. counts: (groups,)."""
        costs = self._task.costs
        return 1 - costs.measure(quantity, counts) / costs.dense(quantity)

    def _goal(self, quantity: Quantity, budget: float) -> float:
        target = self._task.target
        if target.sparsity is not None:
            return target.sparsity
        return self.removed(quantity, target_counts(self._task)) if target.kept is not None else budget

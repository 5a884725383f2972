"""Filter pruning by the first-order Taylor expansion of the loss (Molchanov et al. 2019), gate form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores, per_unit
from orchestrator.methods.parts.gates import gated
from orchestrator.surgery.selection import Scope


@dataclass
class Taylor(Method):
    """Filters whose removal changes the loss least, to first order, are removed first.

    Paper 001, section 1.4 (Taylor): a gate z = 1 on every output channel, after batch-norm where there is one; score =
    (z dL/dz)^2 of a batch, averaged over batches; all layers are ranked together. The gates of channels that several
    layers share are one gate: their gradients add up before they are squared.

    Differs from the paper: all filters are removed at once, by one set of scores, and not 100 at a time by a moving
    average; shared gates are not divided by the number of branches.
    """

    default_scope: ClassVar[Scope] = "global"
    reads_data: ClassVar[bool] = True
    paper: ClassVar[str] = "001, section 1.4"

    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        training = model.training
        model.eval()
        totals: dict[str, Tensor] = {}
        batches = task.calibration()
        with gated(model, task.groups) as gates:
            for inputs, targets in batches:
                loss = task.loss(model(inputs), targets)
                parts = [gate.values for gate in gates]
                gradients = torch.autograd.grad(loss, parts)
                by_group: dict[str, Tensor] = {}
                for gate, gradient in zip(gates, gradients, strict=True):
                    unit = per_unit(gradient, gate.channels)
                    by_group[gate.group] = by_group[gate.group] + unit if gate.group in by_group else unit
                for name, unit in by_group.items():
                    score = unit.square() / len(batches)
                    totals[name] = totals[name] + score if name in totals else score
        model.train(training)
        return totals

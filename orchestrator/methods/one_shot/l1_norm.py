"""Filter pruning by the l1 norm (PFEC, Li et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from orchestrator.methods.base import Method, PruneTask, Scores, filter_norms
from orchestrator.surgery.selection import Scope


@dataclass
class L1Norm(Method):
    """Filters with the smallest sum of absolute weights are removed first.

    Paper 001, section 1.4 (PFEC): score of a filter = sum |w|, ranked inside each layer. Channels that several layers
    share (residual sums, depthwise convolutions) score the mean of their layers' sums.

    Differs from the paper: shared channels may be pruned too, where PFEC leaves a residual block's output alone; state
    the counts in ``target.kept`` for PFEC's own plans.
    """

    default_scope: ClassVar[Scope] = "uniform"
    paper: ClassVar[str] = "001, section 1.4"

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        return {group.name: filter_norms(model, group, power=1) for group in task.groups}

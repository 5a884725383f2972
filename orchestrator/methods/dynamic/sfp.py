"""Soft filter pruning (He et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from orchestrator.methods.base import Method, PruneTask, Scores, filter_norms, filters, select
from orchestrator.plugins import Count
from orchestrator.surgery.selection import ChannelSelection, Scope


@dataclass
class SoftFilterPruning(Method):
    """Filters of smallest l2 norm are set to zero after every epoch of a training from scratch, and may recover.

    Paper 001, section 1.4 (SFP): the same share of every layer is removed; batch-norm parameters are not masked; the
    filters that are smallest after the last epoch are removed.

    Differs from the paper: the share follows from the target (of channels, parameters or MACs) and not from a rate of
    its own; the dense training's schedule is used; channels that several layers share are ranked together.
    """

    sparse_epochs: Count | None = None
    """Epochs of the sparse training; None: as many as the dense training has."""
    trains: ClassVar[bool] = True
    trains_for_target: ClassVar[bool] = True
    training_state: ClassVar[tuple[str, ...]] = ()
    default_scope: ClassVar[Scope] = "uniform"
    paper: ClassVar[str] = "001, section 1.4"

    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        self._task = task

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        return {group.name: filter_norms(model, group, power=2) for group in task.groups}

    @torch.no_grad()
    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        selection = select(self, self.scores(model, self._task), self._task)
        assert isinstance(selection, ChannelSelection)
        for group in self._task.groups:
            kept = set(selection.kept[group.name])
            for _, layer, channels in filters(group, model):
                zeroed = [c for unit, members in enumerate(channels) if unit not in kept for c in members]
                layer.weight[zeroed] = 0
                if layer.bias is not None:
                    layer.bias[zeroed] = 0

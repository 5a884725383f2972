"""Network Slimming (Liu et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Channels, Method, PruneTask, Scores, norms, per_unit
from orchestrator.methods.parts.gates import TrainedGate, fold, gate_sites, insert
from orchestrator.plugins import Count, NonNegative, Positive
from orchestrator.surgery.selection import Scope
from orchestrator.training.loop import Batch


@dataclass
class NetworkSlimming(Method):
    """Channels of small batch-norm scale, trained with an l1 penalty from scratch, are removed over all layers.

    Paper 004, section 3.1: penalty s * sum |gamma|, scales start at 0.5, one threshold over the whole network.

    Differs from the paper: layers without batch-norm get a trained scale of their own, which is folded into their
    weights afterwards; channels that several layers share (residual sums) score the mean of their scales and are
    removed together, where the paper's code selects channels after the first batch-norm of a block.
    """

    penalty_weight: NonNegative = 1e-4
    """s of the paper: 1e-4 for VGG, 1e-5 for ResNet-164 and DenseNet-40."""
    start: Positive = 0.5
    """Initial value of the scales."""
    sparse_epochs: Count | None = None
    """Epochs of the sparse training; None: as many as the dense training has."""
    trains: ClassVar[bool] = True
    training_state: ClassVar[tuple[str, ...]] = ("_inserted",)
    default_scope: ClassVar[Scope] = "global"
    paper: ClassVar[str] = "004, section 3.1"

    @torch.no_grad()
    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        self._gates: list[TrainedGate] = []
        self._scales: dict[str, list[tuple[Tensor, Channels]]] = {}
        for group in task.groups:
            scales: list[tuple[Tensor, Channels]] = []
            for _, norm, channels in norms(group, model):
                norm.weight.fill_(self.start)
                scales.append((norm.weight, channels))
            if not scales:
                for layer, channels in gate_sites(model, group):
                    gate = insert(model, layer, self.start)
                    self._gates.append(gate)
                    scales.append((gate.values, channels))
            self._scales[group.name] = scales
        self._inserted = [gate.values for gate in self._gates]

    def extra_parameters(self) -> Sequence[dict[str, Any]]:
        return [{"params": self._inserted, "weight_decay": 0.0}] if self._inserted else []

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        parts = [scale.abs().sum() for scales in self._scales.values() for scale, _ in scales]
        return self.penalty_weight * torch.stack(parts).sum() if parts else None

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        return {
            name: torch.stack([per_unit(scale.detach().abs(), channels) for scale, channels in scales]).mean(0)
            for name, scales in self._scales.items()
        }

    def finish(self, model: nn.Module) -> None:
        for gate in self._gates:
            fold(model, gate)
        self._gates, self._inserted, self._scales = [], [], {}

"""BAR: budget-aware regularization (Lemaire et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.methods.base import Method, PruneTask, Scores
from orchestrator.methods.learned.bar.activation_volume import budget_factor, progress, unit_areas
from orchestrator.methods.parts.target_counts import target_counts
from orchestrator.methods.parts.unit_gates import UnitGates
from orchestrator.plugins import Count, NonNegative, OpenShare, Positive
from orchestrator.surgery.selection import Scope
from orchestrator.training.loop import Batch, autocast

_BETA, _GAMMA, _ZETA = 0.667, -0.1, 1.1
_SLACK = 1.01
_DISTILLED = 0.9


def stretched(s: Tensor) -> Tensor:
    """Return s (zeta - gamma) + gamma: a gate before it is clipped to [0, 1]."""
    return s * (_ZETA - _GAMMA) + _GAMMA


@dataclass
class BAR(Method):
    """Hard Concrete gates on the channels of the dense network are trained under a decreasing activation budget.

    Paper 004, section 3.3: gate z = clip(1.2 s - 0.1, 0, 1), with s = sigmoid((log u - log(1 - u) + alpha) / 0.667)
    in training, one u a gate and step, and s = sigmoid(alpha) otherwise. Loss = 0.1 cross-entropy + 0.9 * 16 *
    distillation from the dense network at temperature 4 + lambda f(V, a, b) L_S, where L_S is the sum over gates of
    map area * sigmoid(alpha - 0.667 log(-gamma / zeta)), V the activation volume (map areas of the gates above 0 at
    test), f = r^2 / (1 - r) of r = (V - a) / (b - a), and b goes from 1.01 of the dense volume to the budget along a
    sigmoid; a is 1.01e-4 of the dense volume below the budget. Scores are the gates at test before they are clipped:
    without a sparsity in the target, those above 0 stay.

    Differs from the paper: the budget is the volume of the network that meets the target with the same share of every
    group removed, unless ``volume`` states one; the gates have Adam, the weights the dense training's optimizer, where
    the code has Adam at 1e-3 for both; gradients of gates and of weights are each clipped to a norm of 5,
    where the code clips them together; channels that several layers share have one gate, weighted by the area of all
    their maps; there is no mixed-connectivity block.
    """

    penalty_weight: NonNegative = 1e-5
    """lambda, times the batch size."""
    volume: OpenShare | None = None
    """Share of the activation volume to keep; None: as the target asks."""
    gate_lr: Positive | None = None
    """Adam's rate; None: 1e-3 as in the code, but 15 / steps in a training too short to close a gate at that rate."""
    temperature: Positive = 4.0
    sparse_epochs: Count | None = 80
    """Epochs of the sparse training; None: as many as the dense training has."""
    trains: ClassVar[bool] = True
    trains_for_target: ClassVar[bool] = True
    starts_from: ClassVar[Literal["scratch", "baseline"]] = "baseline"
    finds_sparsity: ClassVar[bool] = True
    default_scope: ClassVar[Scope] = "global"
    task_loss_weight: ClassVar[float] = 0.1
    gradient_clip: ClassVar[float] = 5.0
    training_state: ClassVar[tuple[str, ...]] = ("_gates.values", "_optimizer", "_noise", "_step")
    paper: ClassVar[str] = "004, section 3.3"

    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        self._areas = unit_areas(model, task.groups, task.example)
        whole = float(self._areas.sum())
        kept = self._planned_volume(task) / whole if self.volume is None else self.volume
        self._budget, self._whole = kept * whole, whole
        seed = int(torch.randint(2**62, (), generator=task.generator))
        self._noise = torch.Generator(task.example.device).manual_seed(seed)
        start = torch.rand(len(self._areas), generator=task.generator) * 0.01
        self._gates = UnitGates(model, task.groups, task.example, start, self._gate)
        self._step, self._steps = 0, max(task.steps, 1)
        self._optimizer = torch.optim.Adam([self._gates.values], lr=self.gate_lr or max(1e-3, 15 / self._steps))
        self._teacher = task.dense().eval().requires_grad_(False)

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        with torch.no_grad(), autocast(batch.inputs.device):
            teacher_logits = self._teacher(batch.inputs)
        student, teacher = (
            F.log_softmax(logits.float() / self.temperature, 1) for logits in (batch.logits, teacher_logits)
        )
        distilled = F.kl_div(student, teacher, reduction="batchmean", log_target=True) * self.temperature**2
        alive = torch.sigmoid(self._gates.values - _BETA * math.log(-_GAMMA / _ZETA))
        multiplier = self.penalty_weight / len(batch.inputs) * budget_factor(self.volume_now(), *self._bounds())
        return _DISTILLED * distilled + multiplier * (self._areas * alive).sum()

    def after_step(self, model: nn.Module) -> None:
        nn.utils.clip_grad_norm_([self._gates.values], self.gradient_clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1

    @torch.no_grad()
    def volume_now(self) -> Tensor:
        """Return the sum of the map areas of all gates above 0 at test."""
        return ((self._gates.factors() > 0) * self._areas).sum()

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        return self._gates.by_group(stretched(self._gates.values.sigmoid()))

    def keep(self, scores: Scores) -> Mapping[str, Tensor]:
        return {name: score > 0 for name, score in scores.items()}

    def finish(self, model: nn.Module) -> None:
        self._gates.fold(model)
        del self._gates, self._optimizer, self._teacher

    def _gate(self, alpha: Tensor, training: bool) -> Tensor:
        if not training:
            return stretched(alpha.sigmoid()).clamp(0, 1)
        u = torch.rand(alpha.shape, generator=self._noise, device=alpha.device).clamp(1e-6, 1 - 1e-6)
        return stretched(((u.logit() + alpha) / _BETA).sigmoid()).clamp(0, 1)

    def _bounds(self) -> tuple[float, float]:
        """Return a and b of this step."""
        p = progress(self._step / self._steps)
        budget = (1 - p) * _SLACK * self._whole + p * self._budget
        return self._budget - 1e-4 * _SLACK * self._whole, budget

    def _planned_volume(self, task: PruneTask) -> float:
        areas = torch.split(self._areas, [group.size for group in task.groups])
        counts = target_counts(task)
        return sum(float(own[0]) * int(count) for own, count in zip(areas, counts, strict=True))

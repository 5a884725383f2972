"""MaskConvNet (submitted to ICLR 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores
from orchestrator.methods.learned.mask_convnet.controller import Controller
from orchestrator.methods.parts.unit_gates import UnitGates
from orchestrator.plugins import Count, NonNegative, OpenShare, Share
from orchestrator.surgery.costs import Counts, Quantity
from orchestrator.surgery.selection import Scope
from orchestrator.training.loop import Batch

_SLOPE, _MIDDLE, _START = 0.2, 0.5, 2.4
# `scale` was tuned with this many masks and steps, at a rate of 0.1 / (1 - momentum) = 1.
_CHECK_MASKS, _CHECK_STEPS = 5504, 6000


def hard_sigmoid(v: Tensor) -> Tensor:
    """Return clip(0.2 v + 0.5, 0, 1)."""
    return (_SLOPE * v + _MIDDLE).clamp(0, 1)


def second_term(v: Tensor, kind: str, *, met: bool) -> Tensor:
    """Return L_v: minus the masks' mean square distance (from their mean, or from 0 once the budget is ``met``), the
    mean of v^2, or the mean of m (1 - m)."""
    if kind == "squares":
        return v.square().mean()
    m = hard_sigmoid(v)
    if kind == "bernoulli":
        return (m * (1 - m)).mean()
    return -m.square().mean() if met else -m.var(correction=0)


@dataclass
class MaskConvNet(Method):
    """Hard sigmoid masks on the channels, trained from scratch, are pushed down until the budget is met.

    Paper 004, section 2.1: mask m = clip(0.2 v + 0.5, 0, 1) behind batch-norm; loss = task + lambda_m L_m +
    lambda_v L_v, with L_m the mean of the masks and lambda_m = base * clip(2 (T - s) / T, 0, 1), where T is the
    sparsity to reach and s that of the masks m > 0 now, of the ``metric``; with two metrics the multipliers add up. The
    masks that remain are folded into batch-norm. Scores are the masks before they are clipped, so m > 0 is score > 0:
    a target with a sparsity ranks by them, one without keeps m > 0.

    Chosen where the paper is silent: the mask's slope; v starts from U(2.4 - ``spread``, 2.4), since masks with
    equal starts reach 0 together, far past the budget; L_v, whose lambda_v is always its base: it drives the masks away
    from their mean until the budget is met, and from 0 afterwards, which keeps the budget and leaves zeros and ones.
    (If it decreased with the gap, masks would shrink together, which the next batch-norm undoes, and stay small.) The
    gap counts twice, as weak multipliers would approach the budget slowly. v is trained by plain SGD of its own, whose
    rate, or else the penalty, follows from the number of steps, so that masks which the task does not need close early.

    Differs from the paper: channels that several layers share have one mask, block outputs included; a target with a
    sparsity is met within 1 %, whatever sparsity the masks have reached by then, where the paper's stays within some 5
    points of it; the sparsity is measured every few steps.
    """

    base_lambda_m: NonNegative = 3.0
    base_lambda_v: NonNegative = 4.0
    base_lambda_m_macs: NonNegative | None = None
    """With ``metric: both``, that of the multiply-adds; None: as ``base_lambda_m``, which is that of the parameters."""
    base_lambda_v_macs: NonNegative | None = None
    metric: Literal["target", "params", "macs", "both"] = "target"
    """The quantity that the controller measures: the target's own, or the paper's variants -P, -F and -PF."""
    budget: OpenShare = 0.5
    """Sparsity the controller aims at where the target states none."""
    l_v: Literal["variance", "squares", "bernoulli"] = "variance"
    """L_v: minus the masks' variance (their mean square once the budget is met), the mean of v^2 or of m (1 - m)."""
    scale: NonNegative = 100.0
    """Factor on both terms for 5504 masks (VGG-19); scaled so that the penalty a mask is the same for any width."""
    spread: NonNegative = 1.0
    """Width of the interval of initial v."""
    mask_decay: NonNegative = 1e-5
    """Weight decay of v: brings masks at 0 back to where they have a gradient."""
    warm_up: Share = 0.125
    """Share of the training without a penalty on masks: 20 of 160 epochs for VGG, 50 for ResNet-56."""
    interval: Count = 20
    """Steps between two measurements of the sparsity, or 0.1 % of all steps where that is less."""
    sparse_epochs: Count | None = None
    """Epochs of the sparse training; None: as many as the dense training has."""
    trains: ClassVar[bool] = True
    trains_for_target: ClassVar[bool] = True
    training_state: ClassVar[tuple[str, ...]] = ("_gates.values", "_controller.multipliers", "_controller.met", "_step")
    finds_sparsity: ClassVar[bool] = True
    default_scope: ClassVar[Scope] = "global"
    paper: ClassVar[str] = "004, section 2.1"

    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        units = sum(group.size for group in task.groups)
        start = _START - self.spread * torch.rand(units, generator=task.generator)
        self._gates = UnitGates(model, task.groups, task.example, start, lambda v, training: hard_sigmoid(v))
        speed = _CHECK_STEPS / max(task.steps, 1)
        self._push = self.scale * units / _CHECK_MASKS * max(speed, 1)
        self._optimizer = torch.optim.SGD([self._gates.values], lr=min(speed, 1), weight_decay=self.mask_decay)
        self._every = max(1, min(self.interval, task.steps // 1000))
        self._step = 0
        self._first_step = round(self.warm_up * task.steps)
        self._controller = Controller(task, self._bases(task), self.budget)

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        past = self._step - self._first_step
        if past >= 0 and past % self._every == 0:
            self._controller.update(self._live_counts())
        lambda_m, lambda_v = self._controller.multipliers
        if lambda_m == 0 and lambda_v == 0:
            return None
        v = self._gates.values
        second = second_term(v, self.l_v, met=self._controller.met)
        return self._push * (lambda_m * hard_sigmoid(v).mean() + lambda_v * second)

    def after_step(self, model: nn.Module) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._step += 1

    def sparsity(self, quantity: Quantity) -> float:
        """Return the share of a quantity that the masks at 0 remove."""
        return self._controller.removed(quantity, self._live_counts())

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        return self._gates.by_group(_SLOPE * self._gates.values + _MIDDLE)

    def keep(self, scores: Scores) -> Mapping[str, Tensor]:
        return {name: score > 0 for name, score in scores.items()}

    def finish(self, model: nn.Module) -> None:
        self._gates.fold(model)
        del self._gates, self._optimizer, self._controller

    def _bases(self, task: PruneTask) -> dict[Quantity, tuple[float, float]]:
        """Return the bases of both multipliers, for every quantity that is measured."""
        own = (self.base_lambda_m, self.base_lambda_v)
        if self.metric == "both":
            m, v = self.base_lambda_m_macs, self.base_lambda_v_macs
            return {"params": own, "macs": (own[0] if m is None else m, own[1] if v is None else v)}
        quantity = task.target.quantity if self.metric == "target" else self.metric
        assert quantity != "weights"
        return {quantity: own}

    @torch.no_grad()
    def _live_counts(self) -> Counts:
        """Return the number of units with a mask above 0, at least one a group. Shape (groups,)."""
        live = self._gates.by_group(self._gates.factors() > 0)
        return np.array([max(count, 1) for count in torch.stack([mask.sum() for mask in live.values()]).tolist()])

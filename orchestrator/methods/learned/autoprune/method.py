"""AutoPrune (Xiao et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores
from orchestrator.methods.learned.autoprune.learned_masks import FilterMask, WeightMask
from orchestrator.plugins import Count, NonNegative, Positive, Share
from orchestrator.surgery.selection import Scope
from orchestrator.training.loop import Batch, autocast


@dataclass
class AutoPrune(Method):
    """A number m for every weight, or filter, trained on held-out batches, decides whether it is used.

    Paper 003, section 3.1: h(m) = 1 where m > 0, else 0; the network computes with t = w h(m). Training batches update
    w by dL/dt h(m) plus R(w) = l2 |w|^2 + l1 |w|. After every such step a held-out batch updates
    m <- m - eta g'(m) (dL/dt sgn(w) + mu), by plain SGD, where g is the surrogate of h and sgn(w) replaces w:
    unused weights still have a gradient, and can return. For filters one m gates the filter, and the task's term is
    the sum of dL/dt sgn(w) over it. Without a sparsity in the target, m > 0 stays; with one, the lowest m are
    removed. Scores are the m.

    Chosen where the paper is silent: training starts from the dense network, m at ``start``; a tenth of the
    training images is held out for m, apart from the validation split; the network sees them in evaluation mode, so
    that batch-norm neither learns from them nor hides a filter's size. A weight that the target keeps although its m is
    below 0 returns with its present value.

    Differs from the paper: where batch-norm follows a filter, the filter's gate stands behind it, so that a gated
    network is the cut network; filters that several layers share have one m, moved by the sum of their terms; l2 and
    l1 come on top of the recipe's weight decay.
    """

    surrogate: Literal["leaky_relu", "softplus", "linear", "relu"] = "leaky_relu"
    """g: leaky_relu sparsifies fast, softplus smoothly; linear and relu (unused stays unused) are for comparison."""
    alpha: Share = 0.1
    """Slope of leaky_relu below 0."""
    start: Positive = 1.0
    """Initial value of every m."""
    mu: Positive | None = None
    """Weight of the number of weights, or filters, in use. None: 1e-3 for weights, 1e-2 for filters, whose task terms
    are sums over their weights (tuned on small networks; the paper gives none)."""
    eta: Positive | None = None
    """Learning rate of m. None: start / (mu g'(start) 0.3 steps): an m without opposing gradients reaches 0 after about
    30 % of the training."""
    l2: NonNegative = 5e-5
    l1: NonNegative = 1e-6
    on_training: bool = False
    """Whether the training batches train m, with nothing held out."""
    by_macs: bool = False
    """Whether a filter's ``mu`` is weighted by its multiply-adds, with a mean of 1; of no effect on single weights."""
    sparse_epochs: Count | None = None
    """Epochs of the sparse training; None: as many as the dense training has."""
    sparse_lr: Positive | None = None
    """Highest learning rate of the sparse training; None: as in the dense training."""
    granularities: ClassVar[tuple[str, ...]] = ("channels", "weights")
    default_scope: ClassVar[Scope] = "global"
    trains: ClassVar[bool] = True
    # The training does not depend on the sparsity, but on the granularity, which is otherwise not part of its key.
    starts_from: ClassVar[Literal["scratch", "baseline"]] = "baseline"
    finds_sparsity: ClassVar[bool] = True
    paper: ClassVar[str] = "003, section 3.1"

    def held_out(self) -> float:
        return 0.0 if self.on_training else 0.1

    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        layers = {
            f"{name}.weight" if name else "weight": module
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        }
        self._weights = [layer.weight for layer in layers.values()]
        self._masks: list[WeightMask | FilterMask]
        if task.target.granularity == "weights":
            self._masks = [WeightMask(name, layer, self.start) for name, layer in layers.items()]
        else:
            costs = _relative_macs(task) if self.by_macs else {}
            self._masks = [FilterMask(group, model, self.start, costs.get(group.name, 1.0)) for group in task.groups]
        self._pressure = self.mu or (1e-3 if task.target.granularity == "weights" else 1e-2)
        slope = float(self.slope(torch.tensor(self.start)))
        self._rate = self.eta or self.start / (self._pressure * slope * 0.3 * max(task.steps, 1))
        self._task = task
        self._held_out_batches: Iterator[tuple[Tensor, Tensor]] = iter(())

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        self._batch = (batch.inputs, batch.targets)
        parts = [self.l2 * w.square().sum() + self.l1 * w.abs().sum() for w in self._weights]
        return torch.stack(parts).sum() if self.l2 or self.l1 else None

    def after_step(self, model: nn.Module) -> None:
        inputs, targets = self._batch if self.on_training else self._next_batch()
        weights = [weight for mask in self._masks for weight in mask.weights]
        training = model.training
        model.eval()
        for mask in self._masks:
            mask.through = True
        with autocast(inputs.device):
            loss = self._task.loss(model(inputs), targets)
        gradients = iter(torch.autograd.grad(loss, weights, materialize_grads=True))
        for mask in self._masks:
            mask.through = False
            with torch.no_grad():
                task_term = mask.task_term([next(gradients) for _ in mask.weights])
                mask.m -= self._rate * self.slope(mask.m) * (task_term + self._pressure * mask.cost)
        model.train(training)

    def slope(self, m: Tensor) -> Tensor:
        """Return g'(m) of the surrogate."""
        if self.surrogate == "softplus":
            return m.sigmoid()
        below = {"leaky_relu": self.alpha, "linear": 1.0, "relu": 0.0}[self.surrogate]
        return torch.where(m < 0, below, 1.0)

    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        return {mask.name: mask.m for mask in self._masks}

    def keep(self, scores: Scores) -> dict[str, Tensor]:
        return {name: score > 0 for name, score in scores.items()}

    def finish(self, model: nn.Module) -> None:
        for mask in self._masks:
            mask.remove()
        self._masks, self._weights, self._held_out_batches = [], [], iter(())

    def _next_batch(self) -> tuple[Tensor, Tensor]:
        for batch in self._held_out_batches:
            return batch
        self._held_out_batches = iter(self._task.held_out())
        return next(self._held_out_batches)


def _relative_macs(task: PruneTask) -> dict[str, float]:
    """Return the multiply-adds of one unit of every group in the dense network, divided by their mean over units."""
    dense = task.costs.dense("macs")
    costs = {group.name: dense - task.costs.macs({group.name: group.size - 1}) for group in task.groups}
    units = sum(group.size for group in task.groups)
    mean = sum(costs[group.name] * group.size for group in task.groups) / units
    return {name: cost / mean for name, cost in costs.items()}

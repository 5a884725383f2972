"""Dynamic network surgery (Guo et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores, select
from orchestrator.methods.dynamic.dns.masked_weight import MaskedWeight
from orchestrator.methods.parts.reparametrization import Reparametrization
from orchestrator.plugins import Count, NonNegative, Positive, Share
from orchestrator.spec.errors import PrunesweepError
from orchestrator.surgery.selection import Scope, WeightSelection


class UnusableThresholds(PrunesweepError, ValueError):
    """Raised for threshold factors that do not fit the network's layers."""


@dataclass
class DynamicNetworkSurgery(Method):
    """Small weights are masked while all of them train on, and restored where they have grown.

    Paper 002, section 2.2 (DNS): per layer mu = mean |w| and sigma = std |w| over its non-zero weights, once, at the
    start; a = 0.9 max(mu + c sigma, 0), b = 1.1 max(mu + c sigma, 0). At iteration i, with probability
    (1 + gamma i)^-power and until ``iter_stop``, weights of |w| <= a are masked, masked weights of |w| > b return, the
    others stay as they are. The network computes with w * mask; the gradient reaches masked weights, too. Without a
    sparsity in the target, the weights masked at the end are removed.

    With a sparsity, the target decides instead of ``c``: one c for all layers (``scope: global``) or one for each
    (``uniform``) gives every layer a number of weights to lose, by the weights at the start; at every update the
    layer's threshold is the quantile of its |w| at that number, and at ``iter_stop`` the numbers are met exactly.

    Differs from the paper: biases stay, and mu and sigma are the weights' alone; with a sparsity in the target the
    thresholds follow the weights (see above); ``iter_stop`` is one for all layers.
    """

    c: float = 1.0
    """Standard deviations of |w| above its mean; may be negative. The authors' LeNet-5: 1, 3, 4, 2."""
    c_by_layer: list[float] | None = None
    """One c for every convolution and linear layer in order, instead of ``c``."""
    gamma: NonNegative = 1e-4
    power: NonNegative = 1.0
    iter_stop: Share = 0.5
    """Share of the training after which masks stay (LeNet-5: at iteration 10,000 to 14,000)."""
    sparse_epochs: Count | None = None
    """Epochs of the sparse training; None: as many as the dense training has."""
    sparse_lr: Positive | None = None
    """Highest learning rate of the sparse training; None: as in the dense training."""
    granularities: ClassVar[tuple[str, ...]] = ("weights",)
    default_scope: ClassVar[Scope] = "global"
    trains: ClassVar[bool] = True
    trains_for_target: ClassVar[bool] = True
    starts_from: ClassVar[Literal["scratch", "baseline"]] = "baseline"
    finds_sparsity: ClassVar[bool] = True
    paper: ClassVar[str] = "002, section 2.2"

    @torch.no_grad()
    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        factors = [self.c] * len(layers) if self.c_by_layer is None else self.c_by_layer
        if len(factors) != len(layers):
            names = ", ".join(name for name, _ in layers)
            raise UnusableThresholds(f"c_by_layer: {len(factors)} values for {len(layers)} layers: {names}")
        self._masked = [
            MaskedWeight(f"{name}.weight" if name else "weight", layer, c)
            for (name, layer), c in zip(layers, factors, strict=True)
        ]
        if task.target.sparsity is not None or task.target.kept is not None:
            above = {part.name: (part.weight.abs() - part.mean) / part.deviation for part in self._masked}
            selection = select(self, above, task)
            assert isinstance(selection, WeightSelection)
            for part in self._masked:
                part.quota = int((~selection.masks[part.name]).sum())
        self._reparametrizations = [Reparametrization(part.layer, part.effective) for part in self._masked]
        self._generator = task.generator
        self._iteration = 0
        self._last_iteration = round(self.iter_stop * task.steps)
        self._update()
        if self._last_iteration == 0:
            self._meet_quotas()

    @torch.no_grad()
    def after_step(self, model: nn.Module) -> None:
        self._iteration += 1
        if self._iteration < self._last_iteration:
            self._update()
        elif self._iteration == self._last_iteration:
            self._meet_quotas()

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        """Return |w| of active weights; below zero, in the order of |w|, for masked ones."""
        if self._iteration < self._last_iteration:
            self._meet_quotas()
        return {
            part.name: torch.where(part.mask > 0, part.weight.abs(), part.weight.abs() - part.weight.abs().max() - 1)
            for part in self._masked
        }

    def keep(self, scores: Scores) -> dict[str, Tensor]:
        return {name: score >= 0 for name, score in scores.items()}

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        for part, reparametrization in zip(self._masked, self._reparametrizations, strict=True):
            reparametrization.remove()
            part.weight.mul_(part.mask)
        self._masked, self._reparametrizations = [], []

    def _update(self) -> None:
        probability = (1 + self.gamma * self._iteration) ** -self.power
        for part in self._masked:
            if float(torch.rand((), generator=self._generator)) < probability:
                part.update()

    def _meet_quotas(self) -> None:
        for part in self._masked:
            part.meet_quota()

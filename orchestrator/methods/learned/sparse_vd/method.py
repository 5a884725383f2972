"""Sparse variational dropout (Molchanov et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores
from orchestrator.methods.learned.sparse_vd.noisy_layer import NoisyLayer, divergence
from orchestrator.plugins import Count, Positive, Share
from orchestrator.surgery.selection import Scope
from orchestrator.training.loop import Batch


@dataclass
class SparseVariationalDropout(Method):
    """Every weight learns its own dropout rate in training; weights that are mostly noise are removed.

    Comparators, section 4.1: q(w) = N(theta, sigma^2), log alpha = log sigma^2 - log theta^2, clipped to [-8, 8]. In
    training a layer outputs mean + sqrt(var + 1e-8) noise, with mean = layer(x; theta) and var = layer(x^2; alpha
    theta^2), noise N(0, 1) for every output element. Added to the mean loss: rw / N times the sum of
    KL = k1 - k1 sigmoid(k2 + k3 log alpha) + log(1 + 1/alpha) / 2. rw is 0 at first, then rises to 1. Weights with
    log alpha >= 3 are removed; evaluation uses the other theta, without noise. Scores are -log alpha.

    With a sparsity in the target, that share of the weights, those of the highest log alpha, is removed instead.

    Differs from the paper: log sigma^2 is trained by Adam, theta by the recipe's optimizer with its weight decay; the
    warm-up runs by steps, over the shares of the training that epochs 5 and 20 are of the authors' 200; the 1e-8 is
    added to theta^2 in every logarithm.
    """

    start: float = -10.0
    """Initial log sigma^2: -10 for the LeNets, -15 for VGG."""
    threshold: float = 3.0
    """log alpha from which a weight is removed."""
    warmup_from: Share = 0.025
    """Share of the training with rw = 0."""
    warmup_to: Share = 0.1
    """Share of the training from which rw = 1."""
    train_clip: bool = False
    """Whether weights past the threshold are left out of the mean in training, too (the authors' LeNets)."""
    lr: Positive | None = None
    """Adam's rate for log sigma^2. None: 1e-3; where the training has fewer than 20,000 steps 20 / steps, so that
    log sigma^2 can change by 20, but at most 0.1."""
    sparse_epochs: Count | None = None
    """Epochs of the sparse training; None: as many as the dense training has."""
    granularities: ClassVar[tuple[str, ...]] = ("weights",)
    default_scope: ClassVar[Scope] = "global"
    trains: ClassVar[bool] = True
    training_state: ClassVar[tuple[str, ...]] = ("_variances", "_optimizer", "_generator", "_step")
    finds_sparsity: ClassVar[bool] = True
    paper: ClassVar[str] = "comparators, section 4"

    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        device = next(model.parameters()).device
        self._generator = torch.Generator(device=device)
        self._generator.manual_seed(int(torch.randint(2**62, (), generator=task.generator)))
        self._noisy = [
            NoisyLayer(
                f"{name}.weight" if name else "weight",
                layer,
                self._generator,
                start=self.start,
                threshold=self.threshold,
                train_clip=self.train_clip,
            )
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        ]
        rate = self.lr or min(max(1e-3, 20 / max(task.steps, 1)), 0.1)
        self._variances = [part.log_variance for part in self._noisy]
        self._optimizer = torch.optim.Adam(self._variances, lr=rate)
        self._training_size = task.training_size
        self._steps = task.steps
        self._step = 0

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        first, last = self.warmup_from * self._steps, self.warmup_to * self._steps
        if self._step < first:
            return None
        weight = 1.0 if self._step >= last else (self._step - first) / (last - first)
        parts = [divergence(part.log_alpha()).sum() for part in self._noisy]
        return weight / self._training_size * torch.stack(parts).sum()

    def after_step(self, model: nn.Module) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._step += 1

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        return {part.name: -part.log_alpha() for part in self._noisy}

    def keep(self, scores: Scores) -> dict[str, Tensor]:
        return {name: score > -self.threshold for name, score in scores.items()}

    def finish(self, model: nn.Module) -> None:
        for part in self._noisy:
            part.remove()
        self._noisy, self._variances = [], []
        del self._optimizer, self._generator

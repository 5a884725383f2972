"""GAL: generative adversarial learning of what to prune (Lin et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.methods.base import Method, PruneTask, Scores
from orchestrator.methods.learned.gal.fista import fista, momenta
from orchestrator.methods.parts.unit_gates import UnitGates
from orchestrator.plugins import Count, NonNegative, Positive
from orchestrator.surgery.selection import Scope
from orchestrator.training.loop import Batch, autocast


class Discriminator(nn.Module):
    """Linear maps classes-128-256-128-1 without activations between them, then a sigmoid, as in the authors' code."""

    def __init__(self, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        widths = (classes, 128, 256, 128, 1)
        self.layers = nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=0.01, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, logits: Tensor) -> Tensor:
        scores: Tensor = self.layers(logits).sigmoid()
        return scores

    def loss(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return BCE(D(t), 1) + BCE(D(s), 0) + BCE(D(s), 1), the last being the adversarial regularisation."""
        return _verdict_loss(self(teacher), 1) + _verdict_loss(self(student), 0) + _verdict_loss(self(student), 1)


def _verdict_loss(scores: Tensor, truth: float) -> Tensor:
    # With a second sigmoid, as in the authors' code: scores have passed one already.
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, truth))


@dataclass
class GAL(Method):
    """Gates on the channels are learned without labels: the gated network has to fool a discriminator of logits.

    Comparators, section 1: student and teacher start from the dense network; the student's loss is
    mu mean((t - s)^2) + BCE(D(s), 1) + lambda sum |m|, with t and s the logits, D trained beside it by
    BCE(D(t), 1) + BCE(D(s), 0) + BCE(D(s), 1). Gates m start from N(0, 1); every ``fista_interval`` steps FISTA moves
    them by that step's gradient, which holds lambda sign(m) beside the proximal step's own lambda, as in the authors'
    code. Scores are the gates: without a sparsity in the target, those above 0 stay.

    Differs from the paper: there are no gates on residual blocks or branches, only on channels, since our cut keeps a
    unit of every group: a block can become narrow, but not vanish; channels that several layers share have one gate;
    the teacher is in evaluation mode, where the code leaves it on batch statistics; the last epoch is used, not the one
    of best test accuracy; the weights have the dense training's rate and decay, while ``lr`` falls to a tenth after 30,
    60 and 90 % of the steps.
    """

    penalty_weight: NonNegative = 0.05
    """lambda: 0.05 or 0.1 for VGG-16, 0.01 for DenseNet-40, 0.6 or 0.8 for the blocks of ResNet-56,
    which have no counterpart here."""
    mu: NonNegative = 0.1
    """Weight of the distance between logits: 0.1, or 1 for ResNet-56."""
    fista_interval: Count = 200
    """Optimizer steps between two updates of the gates."""
    lr: Positive = 0.01
    """Learning rate of the gates and of the discriminator (momentum 0.9, weight decay 2e-4)."""
    sparse_epochs: Count | None = 100
    """Epochs of the sparse training; None: as many as the dense training has."""
    trains: ClassVar[bool] = True
    starts_from: ClassVar[Literal["scratch", "baseline"]] = "baseline"
    finds_sparsity: ClassVar[bool] = True
    default_scope: ClassVar[Scope] = "global"
    task_loss_weight: ClassVar[float] = 0.0
    training_state: ClassVar[tuple[str, ...]] = (
        "_gates.values", "_before", "_a", "_discriminator", "_optimizer", "_step"
    )  # fmt: skip
    paper: ClassVar[str] = "comparators, section 1"

    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        units = sum(group.size for group in task.groups)
        start = torch.randn(units, generator=task.generator)
        self._gates = UnitGates(model, task.groups, task.example, start, lambda values, training: values)
        self._before = self._gates.values.detach().clone()
        self._a: float | None = None
        self._teacher = task.dense().eval().requires_grad_(False)
        with torch.no_grad():
            classes = self._teacher(task.example).shape[-1]
        self._discriminator = Discriminator(classes, task.generator).to(task.example.device)
        self._optimizer = torch.optim.SGD(self._discriminator.parameters(), lr=self.lr, momentum=0.9, weight_decay=2e-4)
        self._step, self._steps = 0, max(task.steps, 1)

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        with torch.no_grad(), autocast(batch.inputs.device):
            teacher_logits = self._teacher(batch.inputs)
        teacher_logits, logits = teacher_logits.float(), batch.logits.float()
        self._train_discriminator(teacher_logits, logits.detach())
        gates = self._gates.values.abs().sum()
        adversarial = _verdict_loss(self._discriminator(logits), 1)
        return self.mu * F.mse_loss(logits, teacher_logits) + adversarial + self.penalty_weight * gates

    def after_step(self, model: nn.Module) -> None:
        self._step += 1
        if self._step % self.fista_interval == 0:
            self._move_gates()
        self._gates.values.grad = None

    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        return self._gates.by_group(self._gates.values)

    def keep(self, scores: Scores) -> Mapping[str, Tensor]:
        return {name: score > 0 for name, score in scores.items()}

    def finish(self, model: nn.Module) -> None:
        self._gates.fold(model)
        del self._gates, self._teacher, self._discriminator, self._optimizer

    def _train_discriminator(self, teacher_logits: Tensor, logits: Tensor) -> None:
        self._discriminator.requires_grad_(True)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate()
        self._optimizer.zero_grad()
        self._discriminator.loss(teacher_logits, logits).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._discriminator.requires_grad_(False)  # the student's loss must not train it

    @torch.no_grad()
    def _move_gates(self) -> None:
        values = self._gates.values
        assert values.grad is not None
        # The first update has no momentum; the sequence of a starts with the second.
        momentum, self._a = (0.0, 1.0) if self._a is None else momenta(self._a)
        moved = fista(
            values, self._before, values.grad, momentum=momentum, rate=self._rate(), weight=self.penalty_weight
        )
        self._before = values.detach().clone()
        values.copy_(moved)

    def _rate(self) -> float:
        return self.lr * 0.1 ** (10 * self._step // (3 * self._steps))

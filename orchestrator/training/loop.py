"""The training loop, used by dense training, sparse training and retraining."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.data.images import ImageData, Split, batches
from orchestrator.spec.failures import Diverged
from orchestrator.spec.result import EpochRow
from orchestrator.training.checkpoint import Checkpoint
from orchestrator.training.schedule import Schedule
from orchestrator.training.state import TrainingState


@dataclass(frozen=True)
class Batch:
    """Inputs, targets and outputs of one step; ``logits`` carry the autograd graph."""

    inputs: Tensor
    targets: Tensor
    logits: Tensor


class TrainingHook(Protocol):
    """A participant in the training of a network, such as a pruning method or a fixed mask."""

    @property
    def task_loss_weight(self) -> float: ...

    @property
    def gradient_clip(self) -> float | None: ...

    @property
    def training_state(self) -> tuple[str, ...] | None: ...

    def extra_parameters(self) -> Sequence[dict[str, Any]]: ...

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None: ...

    def after_step(self, model: nn.Module) -> None: ...

    def after_epoch(self, model: nn.Module, epoch: int) -> None: ...


Report = Callable[[EpochRow, int], None]
"""Called after every epoch with its row and the number of epochs of the stage. A training resumed from a checkpoint
first reports the epochs before it."""


@dataclass(frozen=True)
class Recipe:
    """SGD, or Adam, under a schedule."""

    schedule: Schedule
    batch_size: int
    weight_decay: float
    nesterov: bool = False
    optimizer: Literal["sgd", "adam"] = "sgd"


def steps_per_epoch(data: ImageData, batch_size: int) -> int:
    """Return the number of batches of one epoch, the last one included where it is smaller."""
    return -(-len(data.train) // batch_size)


def train(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe,
    *,
    stage: str,
    generator: torch.Generator,
    report: Report,
    hook: TrainingHook | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[EpochRow]:
    """Train ``model`` in place and return one row per epoch.

    The device is synchronised once per epoch, to read the loss. With a ``checkpoint``, training resumes where an
    earlier call was interrupted, with the same result; it starts over if the hook's state cannot be saved.

    Raises:
        Diverged: the mean loss of an epoch is not finite.
    """
    schedule = recipe.schedule
    if schedule.epochs == 0:
        return []
    model.to(memory_format=torch.channels_last)
    extra = list(hook.extra_parameters()) if hook else []
    optimizer = _optimizer(model, recipe, extra)
    scales = [group.pop("lr_scale", 1.0) for group in optimizer.param_groups]
    fixed = [group.pop("fixed_lr", False) for group in optimizer.param_groups]
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = None
    hook_attributes = hook.training_state if hook else ()
    if checkpoint is not None and hook_attributes is not None:
        device = data.train.labels.device.type
        checkpoint = checkpoint.narrowed(stage=stage, epochs=schedule.epochs, steps=schedule.steps, device=device)
        state = TrainingState(checkpoint, model, optimizer, generator, hook, hook_attributes)
    resumed = state.restore() if state else None
    rows = [EpochRow.model_validate(row) for row in resumed["rows"]] if resumed else []
    for row in rows:
        report(row, schedule.epochs)
    step = resumed["step"] if resumed else 0
    for epoch in range(len(rows), schedule.epochs):
        started = time.perf_counter()
        model.train()
        total_loss = torch.zeros((), device=data.train.labels.device)
        correct = torch.zeros((), device=data.train.labels.device)
        lr = 0.0
        for inputs, targets in batches(
            data.train, recipe.batch_size, data=data, generator=generator, augment=data.augment != "none"
        ):
            lr, momentum = schedule.lr_at(step), schedule.momentum_at(step)
            for group, scale, is_fixed in zip(optimizer.param_groups, scales, fixed, strict=True):
                if not is_fixed:
                    group["lr"] = lr * scale
                    if "momentum" in group:
                        group["momentum"] = momentum
            with autocast(inputs.device):
                logits = model(inputs)
                loss = F.cross_entropy(logits, targets)
            objective = loss
            if hook is not None:
                penalty = hook.penalty(model, Batch(inputs, targets, logits))
                objective = loss * hook.task_loss_weight
                if penalty is not None:
                    objective = objective + penalty
            optimizer.zero_grad(set_to_none=True)
            objective.backward()  # type: ignore[no-untyped-call]
            if hook is not None and hook.gradient_clip is not None:
                nn.utils.clip_grad_norm_(trained, hook.gradient_clip)
            optimizer.step()
            if hook is not None:
                hook.after_step(model)
            total_loss += loss.detach() * len(targets)
            correct += (logits.detach().argmax(1) == targets).sum()
            step += 1
        if hook is not None:
            hook.after_epoch(model, epoch)
        mean_loss = float(total_loss) / len(data.train)
        if not torch.isfinite(torch.tensor(mean_loss)):
            raise Diverged(f"{stage}: the training loss is {mean_loss} after epoch {epoch + 1} of {schedule.epochs}")
        row = EpochRow(
            stage=stage,
            epoch=epoch,
            lr=lr,
            train_loss=mean_loss,
            train_accuracy=float(correct) / len(data.train),
            val_accuracy=accuracy(model, data.val, data)[0],
            seconds=time.perf_counter() - started,
        )
        rows.append(row)
        if state is not None and len(rows) < schedule.epochs:
            state.save({"step": step, "rows": [row.model_dump() for row in rows]})
        report(row, schedule.epochs)
    return rows


@torch.no_grad()
def accuracy(model: nn.Module, split: Split, data: ImageData) -> tuple[float, float]:
    """Return top-1 and top-5 accuracy on a split, from 0 to 1 (top-5 of fewer than five classes is 1)."""
    training = model.training
    model.eval()
    k = min(5, data.class_count)
    top1 = torch.zeros((), device=split.labels.device)
    top5 = torch.zeros((), device=split.labels.device)
    for inputs, targets in batches(split, 512, data=data, generator=None, augment=False):
        with autocast(inputs.device):
            predicted = model(inputs).topk(k, dim=1).indices
        hits = predicted == targets[:, None]
        top1 += hits[:, 0].sum()
        top5 += hits.sum()
    model.train(training)
    return float(top1) / len(split), float(top5) / len(split)


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return an autocast context: bfloat16 on a GPU, nothing elsewhere."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def _optimizer(model: nn.Module, recipe: Recipe, extra: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": parameters, "weight_decay": recipe.weight_decay}, *extra]
    fused = parameters[0].device.type == "cuda"
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.schedule.lr_at(0), fused=fused)
    momentum = recipe.schedule.momentum_at(0)
    return torch.optim.SGD(
        groups,
        lr=recipe.schedule.lr_at(0),
        momentum=momentum,
        nesterov=recipe.nesterov and momentum > 0,
        fused=fused,
    )

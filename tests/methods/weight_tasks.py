"""A task around any network, a step of training as the loop makes it, and a decision as trials make it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.methods.base import Method, PruneTask, select
from orchestrator.spec.trial import Target
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.groups import channel_groups
from orchestrator.training.loop import Batch

Batches = Sequence[tuple[Tensor, Tensor]]


def task_of(
    model: nn.Module,
    batches: Batches,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    validation: Batches | None = None,
    steps: int = 10,
    size: int = 100,
    **target: object,
) -> PruneTask:
    """By default no sparsity: the method's own rule decides."""
    example = batches[0][0][:1]
    stated = Target(**{"quantity": "weights", **target})
    groups = channel_groups(model, example) if stated.granularity == "channels" else []
    return PruneTask(
        target=stated,
        groups=groups,
        costs=Costs(model, example, groups) if groups else None,  # type: ignore[arg-type]
        calibration=lambda: batches,
        loss=loss,
        training_size=size,
        generator=torch.Generator().manual_seed(0),
        example=example,
        training=lambda: iter(batches),
        validation=lambda: iter(batches if validation is None else validation),
        held_out=lambda: iter(batches if validation is None else validation),
        dense=lambda: model,
        steps=steps,
    )


def step_of(
    model: nn.Module, method: Method, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], task: PruneTask
) -> None:
    """One step of the loop."""
    logits = model(batch[0])
    objective = task.loss(logits, batch[1])
    penalty = method.penalty(model, Batch(*batch, logits))
    optimizer.zero_grad()
    (objective if penalty is None else objective + penalty).backward()
    optimizer.step()
    method.after_step(model)


def decide(method: Method, model: nn.Module, task: PruneTask) -> Any:
    """Return the selection of a method for a network, in its present state of training."""
    return method.compensate(model, task, select(method, method.scores(model, task), task))

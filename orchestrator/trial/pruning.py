"""The steps of pruning that trials and the conformance suite share: sparse training, scores, selection, cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.data.images import ImageData, Split, batches, calibration_batches
from orchestrator.methods.base import Method, PruneTask, Scores, select
from orchestrator.spec.result import EpochRow
from orchestrator.spec.trial import Target
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.cutting import apply_weight_masks, cut
from orchestrator.surgery.groups import ChannelGroup
from orchestrator.surgery.selection import ChannelSelection, Selection
from orchestrator.training.checkpoint import Checkpoint
from orchestrator.training.loop import Recipe, Report, train
from orchestrator.training.rng import generator_for, seed_for
from orchestrator.trial.diagnostics import selection_diagnostics

_CALIBRATION_IMAGES = 1024


def prune_task(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    *,
    target: Target,
    data: ImageData,
    example: Tensor,
    batch_size: int,
    seed: int,
    dense: Callable[[], nn.Module],
    steps: int = 0,
    held_out: Split | None = None,
) -> PruneTask:
    """Return what a method may use to prune a network as it stands."""

    def shuffled(split: Split, purpose: str) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(split, batch_size, data=data, generator=generator_for(seed, purpose), augment=False)

    return PruneTask(
        target=target,
        groups=groups,
        costs=Costs(model, example, groups),
        calibration=lambda: calibration_batches(data, _CALIBRATION_IMAGES, batch_size, seed_for(seed, "calibration")),
        loss=F.cross_entropy,
        training_size=len(data.train),
        generator=generator_for(seed, "method"),
        example=example,
        training=lambda: batches(data.train, batch_size, data=data, generator=None, augment=False),
        validation=lambda: shuffled(data.val, "validation"),
        held_out=lambda: shuffled(held_out or data.train, "held_out"),
        dense=dense,
        steps=steps,
    )


def train_with_method(
    method: Method,
    model: nn.Module,
    task: PruneTask,
    data: ImageData,
    recipe: Recipe,
    *,
    generator: torch.Generator,
    report: Report,
    checkpoint: Checkpoint | None = None,
) -> tuple[dict[str, Tensor], list[EpochRow]]:
    """Run a method's sparse training, fold its gates into the network, and return its scores as they are stored."""
    method.prepare(model, task)
    rows = train(
        model, data, recipe, stage="sparse_training", generator=generator, report=report, hook=method,
        checkpoint=checkpoint,
    )  # fmt: skip
    scores = method.scores(model, task)
    method.finish(model)
    return stored(scores), rows


def stored(scores: Scores) -> dict[str, Tensor]:
    """Return scores as shared stages store them: float32, on the CPU."""
    return {name: score.detach().float().cpu() for name, score in scores.items()}


@dataclass(frozen=True)
class PrunedNetwork:
    """A network right after pruning."""

    network: nn.Module
    selection: Selection
    analysis: dict[str, Any]


def prune_network(method: Method, network: nn.Module, scores: Scores, task: PruneTask) -> PrunedNetwork:
    """Select by the scores, let the method compensate, and cut the network (or set single weights to zero)."""
    selection = method.compensate(network, task, select(method, scores, task))
    analysis = selection_diagnostics(scores, selection, network, task)
    if isinstance(selection, ChannelSelection):
        return PrunedNetwork(cut(network, task.example, selection), selection, analysis)
    return PrunedNetwork(apply_weight_masks(network, selection), selection, analysis)

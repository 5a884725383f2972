"""What a pruning method is: it decides which channels or weights go; `surgery` cuts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from orchestrator.spec.trial import Target
from orchestrator.surgery.costs import Costs
from orchestrator.surgery.groups import ChannelGroup
from orchestrator.surgery.selection import Scope, Selection, select_channels, select_kept, select_weights
from orchestrator.training.loop import Batch

Scores = Mapping[str, Tensor]
"""By channel group (one score a unit) or by weight parameter (one a weight); what scores lowest goes first.
A method may add entries under other names for its own `select_from` and `keep`."""

Channels = Sequence[Sequence[int]]
"""A layer's channels of each unit of a group."""


@dataclass(frozen=True)
class PruneTask:
    """All a method may look at besides the network."""

    target: Target
    groups: Sequence[ChannelGroup]
    costs: Costs
    calibration: Callable[[], Sequence[tuple[Tensor, Tensor]]]
    """Batches of training images without augmentation, on the device; the same at every call."""
    loss: Callable[[Tensor, Tensor], Tensor]
    training_size: int
    generator: torch.Generator
    """On the CPU."""
    example: Tensor
    """One empty image, on the device. Shape (1, channels, size, size)."""
    training: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    """One pass over the whole training set, in order, without augmentation."""
    validation: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    """One pass over the validation split, shuffled the same way each time. Its images may be looked at; what is fitted
    to its labels would make the validation accuracy too good."""
    held_out: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    """One pass over the images held out of the sparse training (`Method.held_out`), shuffled the same way each time."""
    dense: Callable[[], nn.Module]
    """A copy of the trained dense network (a teacher)."""
    steps: int = 0
    """Optimizer steps of the sparse training; 0 outside one."""


class Method:
    """A pruning method. Subclasses are dataclasses: their fields are its hyper-parameters.

    The class attributes say what a plan must know without importing the method.
    """

    granularities: ClassVar[tuple[str, ...]] = ("channels",)
    """What it can remove: ``channels``, ``weights``, or both."""
    default_scope: ClassVar[Scope] = "uniform"
    trains: ClassVar[bool] = False
    """It trains with the network before anything is removed."""
    starts_from: ClassVar[Literal["scratch", "baseline"]] = "scratch"
    """Weights that training begins with: new ones, or the dense network's."""
    finds_sparsity: ClassVar[bool] = False
    """How much goes can follow from the method's own rule: the target then needs no sparsity."""
    trains_for_target: ClassVar[bool] = False
    """That training aims at the target's sparsity, so trials of different sparsity cannot share it."""
    reads_data: ClassVar[bool] = False
    """Its scores look at images; worth keeping for the trials that share them."""
    paper: ClassVar[str] = ""
    task_loss_weight: ClassVar[float] = 1.0
    gradient_clip: ClassVar[float | None] = None
    """Largest l2 norm of the gradients of one step of the sparse training, over the network and `extra_parameters`
    together; longer ones are shortened to it."""
    training_state: ClassVar[tuple[str, ...] | None] = None
    """Dotted names of the attributes that its sparse training changes, beside the network: tensors, lists of tensors,
    modules, optimizers, generators, or plain JSON. A training that was interrupted goes on with them. None: it starts
    over."""

    def held_out(self) -> float:
        """Share of the training images that the network's weights must not see, for the method's own use."""
        return 0.0

    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        """Insert gates, remember the task."""

    def extra_parameters(self) -> Sequence[dict[str, Any]]:
        """Optimizer groups beside the network's own; ``lr_scale`` scales the schedule's rate, ``fixed_lr`` keeps
        the group's own ``lr`` and ``momentum``."""
        return ()

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Added to the task loss of a step; None for nothing."""
        return None

    def after_step(self, model: nn.Module) -> None:
        """Called after every optimizer step."""

    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called after every epoch, counted from 0."""

    def select(self, model: nn.Module, task: PruneTask) -> Selection:
        """Decide what goes."""
        raise NotImplementedError

    def finish(self, model: nn.Module) -> None:
        """Fold gates into the network and leave no trace; its function stays what it was."""


class Ranking(Method):
    """A method that ranks: it gives scores, and `surgery.selecting` finds how many of the lowest must go."""

    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        """A score for every unit of every group of the task, or for every weight."""
        raise NotImplementedError

    def select(self, model: nn.Module, task: PruneTask) -> Selection:
        return self.compensate(model, task, self.select_from(self.scores(model, task), task))

    def keep(self, scores: Scores) -> Mapping[str, Tensor]:
        """The method's own rule, for targets without a sparsity: boolean tensors of the scores' shapes, True stays."""
        raise NotImplementedError

    def compensate(self, model: nn.Module, task: PruneTask, selection: Selection) -> Selection:
        """Called with the network just before it is pruned; may add new values for what survives."""
        return selection

    def analyse(
        self, dense: nn.Module, before: nn.Module, after: nn.Module, task: PruneTask, scores: Scores
    ) -> dict[str, Any]:
        """Plain JSON for the trial's record, from the dense network and the pruned one before and after retraining."""
        return {}

    def select_from(self, scores: Scores, task: PruneTask) -> Selection:
        """The selection that scores computed before lead to."""
        if task.target.sparsity is None and task.target.kept is None:
            keep = self.keep(scores)
            return select_kept(keep, task.groups, task.costs, quantity=task.target.quantity)
        scope, kept, layers = task.target.scope or self.default_scope, task.target.kept, task.target.layers
        if task.target.quantity == "weights":
            return select_weights(scores, sparsity=task.target.sparsity, scope=scope, kept=kept, layers=layers)
        return select_channels(
            scores,
            task.groups,
            task.costs,
            quantity=task.target.quantity,
            sparsity=task.target.sparsity,
            scope=scope,
            kept=kept,
            layers=layers,
        )


def first_images(batches: Sequence[tuple[Tensor, Tensor]], count: int) -> list[tuple[Tensor, Tensor]]:
    """The batches' first ``count`` images with their labels, or all there are."""
    taken: list[tuple[Tensor, Tensor]] = []
    for inputs, targets in batches:
        left = count - sum(len(labels) for _, labels in taken)
        if left <= 0:
            break
        taken.append((inputs[:left], targets[:left]))
    return taken


def prunable_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights of convolutions and linear layers; biases and norms stay (papers 002 and 003 count so)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield f"{name}.weight" if name else "weight", module.weight


def filters(group: ChannelGroup, model: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear, Channels]]:
    """The convolutions and linear layers that make the group's channels: name, module, channels of each unit."""
    for name, module, channels in _makers(group, model):
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield name, module, channels


def norms(group: ChannelGroup, model: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d | nn.BatchNorm1d, Channels]]:
    """The batch-norm layers, with scales, that the group's channels pass: name, module, channels of each unit."""
    for name, module, channels in _makers(group, model):
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.affine:
            yield name, module, channels


def _makers(group: ChannelGroup, model: nn.Module) -> Iterator[tuple[str, nn.Module, Channels]]:
    for member in group.members:
        if member.axis == "out":
            yield member.layer, model.get_submodule(member.layer), member.channels


def per_unit(values: Tensor, channels: Channels) -> Tensor:
    """Sum per-channel values over the channels of each unit. values: (C,); returns (units,)."""
    if all(len(unit) == 1 for unit in channels):
        return values[torch.tensor([unit[0] for unit in channels], device=values.device)]
    return torch.stack([values[torch.tensor(unit, device=values.device)].sum() for unit in channels])


def unit_of_channel(channels: Channels, width: int) -> Tensor:
    """The unit of each of a layer's channels; one past the last unit for channels of other groups. Shape (width,)."""
    units = torch.full((width,), len(channels))
    for unit, members in enumerate(channels):
        units[list(members)] = unit
    return units


def filter_norms(model: nn.Module, group: ChannelGroup, power: int) -> Tensor:
    """Sum of |w|^power of every unit's filters, averaged over the layers that share the units. Shape (units,)."""
    norms = [
        per_unit(layer.weight.detach().abs().pow(power).flatten(1).sum(1), channels)
        for _, layer, channels in filters(group, model)
    ]
    return torch.stack(norms).mean(0)

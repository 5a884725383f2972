"""The interface of pruning methods: a method decides which channels or weights go, `surgery` cuts them."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
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
"""By channel group (one score a unit) or by weight parameter (one a weight); the lowest scores are removed first.
A method may add entries under other names for its own `keep` and `reselect`."""

Channels = Sequence[Sequence[int]]
"""A layer's channels of each unit of a group."""


@dataclass(frozen=True)
class PruneTask:
    """Everything besides the network that a method may use."""

    target: Target
    groups: Sequence[ChannelGroup]
    costs: Costs
    calibration: Callable[[], Sequence[tuple[Tensor, Tensor]]]
    """Batches of training images without augmentation, on the device; the same at every call."""
    loss: Callable[[Tensor, Tensor], Tensor]
    training_size: int
    generator: torch.Generator
    """Random numbers for the method, on the CPU."""
    example: Tensor
    """One empty image, on the device. Shape (1, channels, size, size)."""
    training: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    """One pass over the whole training set, in order, without augmentation."""
    validation: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    """One pass over the validation split, in the same shuffled order at every call. Use its images only: fitting to its
    labels would bias the validation accuracy."""
    held_out: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    """One pass over the images held out of the sparse training (`Method.held_out`), in the same shuffled order at every
    call."""
    dense: Callable[[], nn.Module]
    """A copy of the trained dense network (a teacher)."""
    steps: int = 0
    """Optimizer steps of the sparse training; 0 outside one."""


class Method(metaclass=ABCMeta):
    """A pruning method. Subclasses are dataclasses whose fields are the method's hyper-parameters.

    Only `scores` is required. Class attributes are read from the source: planning does not import the method.
    """

    granularities: ClassVar[tuple[str, ...]] = ("channels",)
    """What the method can remove: ``channels``, ``weights``, or both."""
    default_scope: ClassVar[Scope] = "uniform"
    trains: ClassVar[bool] = False
    """Whether the method has a sparse training: it trains with the network before anything is removed."""
    starts_from: ClassVar[Literal["scratch", "baseline"]] = "scratch"
    """First weights of the sparse training: new ones, or the dense network's."""
    finds_sparsity: ClassVar[bool] = False
    """Whether the method has a rule of its own for how much is removed (`keep`); the target then needs no sparsity."""
    trains_for_target: ClassVar[bool] = False
    """Whether the sparse training aims at the target's sparsity, so that trials of different sparsity share none."""
    reads_data: ClassVar[bool] = False
    """Whether the scores depend on images; such scores are stored for the trials that share them."""
    paper: ClassVar[str] = ""
    task_loss_weight: ClassVar[float] = 1.0
    gradient_clip: ClassVar[float | None] = None
    """Largest l2 norm of the gradients of one step of the sparse training, over the network and `extra_parameters`
    together; longer gradients are scaled down to it."""
    training_state: ClassVar[tuple[str, ...] | None] = None
    """Dotted names of the attributes that the sparse training changes, besides the network: tensors, lists of tensors,
    modules, optimizers, generators, or plain JSON. An interrupted training resumes with them. None: it starts over."""

    sparse_epochs: int | None = None
    """Epochs of the sparse training; None: as many as the dense training. A subclass may make it a hyper-parameter."""
    sparse_lr: float | None = None
    """Highest learning rate of the sparse training; None: the dense training's. A subclass may make it a
    hyper-parameter."""

    def held_out(self) -> float:
        """Return the share of the training images to withhold from the network's weights, for the method's own use."""
        return 0.0

    def prepare(self, model: nn.Module, task: PruneTask) -> None:  # noqa: B027
        """Insert gates and keep the task, before the sparse training."""

    def extra_parameters(self) -> Sequence[dict[str, Any]]:
        """Return optimizer groups besides the network's own; ``lr_scale`` scales the schedule's rate, ``fixed_lr``
        keeps the group's own ``lr`` and ``momentum``."""
        return ()

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Return a term to add to the task loss of a step; None for nothing."""
        return None

    def after_step(self, model: nn.Module) -> None:  # noqa: B027
        """Run after every optimizer step."""

    def after_epoch(self, model: nn.Module, epoch: int) -> None:  # noqa: B027
        """Run after every epoch, counted from 0."""

    @abstractmethod
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        """Return a score for every unit of every group of the task, or for every weight.

        A method that trains is asked after its training, before `finish`. Scores are stored as float32: a trial that
        reuses them has a new instance of the method, without the training's state.
        """

    def finish(self, model: nn.Module) -> None:  # noqa: B027
        """Fold gates into the network and remove every hook, after the sparse training; the network's function stays
        the same."""

    def keep(self, scores: Scores) -> Mapping[str, Tensor]:
        """Apply the method's own rule, for targets without a sparsity: boolean tensors of the scores' shapes, True
        stays."""
        raise NotImplementedError(f"{type(self).__name__} needs a target with a sparsity or counts to keep")

    def reselect(self, selection: Selection, scores: Scores) -> Selection:
        """Exchange units of a selection made by budget; every group must keep as many as before."""
        return selection

    def compensate(self, model: nn.Module, task: PruneTask, selection: Selection) -> Selection:
        """Return the selection with new values for the surviving weights, just before the network is pruned."""
        return selection

    def analyse(
        self, dense: nn.Module, before: nn.Module, after: nn.Module, task: PruneTask, scores: Scores
    ) -> dict[str, Any]:
        """Return plain JSON for the trial's record, from the dense network and the pruned one before and after
        retraining."""
        return {}


def select(method: Method, scores: Scores, task: PruneTask) -> Selection:
    """Select what stays: by the method's own rule where the target states no budget, else by the lowest scores."""
    target = task.target
    if target.sparsity is None and target.kept is None:
        return select_kept(method.keep(scores), task.groups, task.costs, quantity=target.quantity)
    scope, kept, layers = target.scope or method.default_scope, target.kept, target.layers
    selection: Selection
    if target.quantity == "weights":
        selection = select_weights(scores, sparsity=target.sparsity, scope=scope, kept=kept, layers=layers)
    else:
        selection = select_channels(
            scores,
            task.groups,
            task.costs,
            quantity=target.quantity,
            sparsity=target.sparsity,
            scope=scope,
            kept=kept,
            layers=layers,
        )
    return method.reselect(selection, scores)


def first_images(batches: Sequence[tuple[Tensor, Tensor]], count: int) -> list[tuple[Tensor, Tensor]]:
    """Return the first ``count`` images of the batches with their labels, or all if there are fewer."""
    first: list[tuple[Tensor, Tensor]] = []
    for inputs, targets in batches:
        missing = count - sum(len(labels) for _, labels in first)
        if missing <= 0:
            break
        first.append((inputs[:missing], targets[:missing]))
    return first


def prunable_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of convolutions and linear layers; biases and norms stay (as papers 002 and 003 count)."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield f"{name}.weight" if name else "weight", module.weight


def filters(group: ChannelGroup, model: nn.Module) -> Iterator[tuple[str, nn.Conv2d | nn.Linear, Channels]]:
    """Yield the layers with filters that produce the group's channels: name, module, channels of each unit."""
    for name, module, channels in _producers(group, model):
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield name, module, channels


def norms(group: ChannelGroup, model: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d | nn.BatchNorm1d, Channels]]:
    """Yield the affine batch-norm layers that the group's channels pass: name, module, channels of each unit."""
    for name, module, channels in _producers(group, model):
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and module.affine:
            yield name, module, channels


def _producers(group: ChannelGroup, model: nn.Module) -> Iterator[tuple[str, nn.Module, Channels]]:
    for member in group.members:
        if member.axis == "out":
            yield member.layer, model.get_submodule(member.layer), member.channels


def per_unit(values: Tensor, channels: Channels) -> Tensor:
    """Sum per-channel values over the channels of each unit. values: (C,); returns (units,)."""
    if all(len(unit) == 1 for unit in channels):
        return values[torch.tensor([unit[0] for unit in channels], device=values.device)]
    return torch.stack([values[torch.tensor(unit, device=values.device)].sum() for unit in channels])


def unit_of_channel(channels: Channels, width: int) -> Tensor:
    """Return the unit of each of a layer's channels; one past the last for channels of other groups. Shape (width,)."""
    units = torch.full((width,), len(channels))
    for unit, members in enumerate(channels):
        units[list(members)] = unit
    return units


def filter_norms(model: nn.Module, group: ChannelGroup, power: int) -> Tensor:
    """Return the sum of |w|^power of every unit's filters, the mean over the layers that share it. Shape (units,)."""
    norms = [
        per_unit(layer.weight.detach().abs().pow(power).flatten(1).sum(1), channels)
        for _, layer, channels in filters(group, model)
    ]
    return torch.stack(norms).mean(0)

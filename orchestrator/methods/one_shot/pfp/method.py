"""Provable filter pruning (PFP, Liebenwein et al. 2020), the deterministic form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from orchestrator.methods.base import Method, PruneTask, Scores
from orchestrator.methods.one_shot.pfp.input_sensitivity import Sensitivities
from orchestrator.methods.one_shot.pfp.sensitivity_bounds import descending, errors_kept_to, sample_size
from orchestrator.plugins import Positive
from orchestrator.surgery.groups import ChannelGroup
from orchestrator.surgery.selection import Scope


@dataclass
class PFP(Method):
    """Channels on which the filters of the next layer depend least are removed first, by one error bound for all
    layers.

    Comparators, section 3 (Liebenwein et al., ICLR 2020): the sensitivity s_j of a layer's input channel is the largest
    share that one of its entries has in a filter's sum over weights of one sign, max_{image, filter, patch, entry}
    w a / sum w a. With S = sum s, q = s / S and A = 6 S ln(8 (patches + 1) kernel / delta), an error eps needs m =
    ceil(3 (6 + 2 eps) A / eps^2) samples, of which ceil(sum_j 1 - (1 - q_j)^m) channels are expected to be distinct:
    so many stay, those of largest s. The score of a channel is the eps at which it is removed: one ranking over all
    layers then is the paper's allocation.

    Differs from the paper: a channel that several layers read has the largest of their sensitivities, and as many stay
    as the strictest of these layers needs (the paper masks each layer's inputs by themselves); sizes are exact
    instead of predicted; one step, unless the target has steps.
    """

    delta: Positive = 1e-16
    """Probability that the bound fails: 1e-16, for LeNet-5 1e-9."""
    default_scope: ClassVar[Scope] = "global"
    reads_data: ClassVar[bool] = True
    paper: ClassVar[str] = "comparators, section 3"

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        consumers = {
            member.layer: model.get_submodule(member.layer)
            for group in task.groups
            for member in group.members
            if member.axis == "in" and isinstance(model.get_submodule(member.layer), nn.Conv2d | nn.Linear)
        }
        training = model.training
        model.eval()
        count = sample_size(_activations(model, task.example), self.delta)
        sensitivities = Sensitivities(consumers)
        handles = [layer.register_forward_pre_hook(sensitivities.hook(name)) for name, layer in consumers.items()]
        try:
            for images in image_sample(task.validation(), count):
                model(images)
        finally:
            for handle in handles:
                handle.remove()
            model.train(training)
        return {group.name: self._errors(group, consumers, sensitivities) for group in task.groups}

    def _errors(self, group: ChannelGroup, consumers: Mapping[str, nn.Module], sensitivities: Sensitivities) -> Tensor:
        """Return the eps at which each unit is removed; infinite where no consumer is known. Shape (units,)."""
        if not any(member.axis == "in" and member.layer in consumers for member in group.members):
            return torch.full((group.size,), math.inf)
        largest = np.zeros(group.size)
        thresholds = np.zeros(group.size)
        for member in group.members:
            if member.axis == "in" and member.layer in consumers:
                sensitivity, patches, kernel = sensitivities.of(member.layer)
                # A unit's channels behind a flatten are entries of one channel.
                own = np.array([sensitivity[list(channels)].max() for channels in member.channels])
                others = np.delete(sensitivity, [c for channels in member.channels for c in channels])
                errors = errors_kept_to(np.concatenate([own, others]), patches, kernel, self.delta)[: group.size]
                largest = np.maximum(largest, own)
                thresholds = np.maximum(thresholds, np.sort(errors)[::-1])
        scores = np.empty(group.size)
        scores[descending(largest)] = thresholds
        return torch.from_numpy(scores)


def image_sample(batches: Iterator[tuple[Tensor, Tensor]], count: int) -> list[Tensor]:
    """Return the first ``count`` images in batches, at most half of all images (and at least one)."""
    pieces: list[Tensor] = []
    available = 0
    for images, _ in batches:
        pieces.append(images)
        available += len(images)
        if available >= 2 * count:
            break
    size = max(1, min(count, available // 2))
    return list(torch.split(torch.cat(pieces)[:size], len(pieces[0]))) if pieces else []


def _activations(model: nn.Module, example: Tensor) -> list[int]:
    """Return the number of outputs of each convolution and linear layer for one image."""
    sizes: list[int] = []
    handles: list[RemovableHandle] = [
        layer.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    model(example)
    for handle in handles:
        handle.remove()
    return sizes

"""Provable filter pruning (PFP, Liebenwein et al. 2020), the deterministic form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from orchestrator.methods.base import PruneTask, Ranking, Scores
from orchestrator.plugins import Positive
from orchestrator.surgery.groups import ChannelGroup
from orchestrator.surgery.selecting import Scope

_MOST_SAMPLES = 2**60


@dataclass
class PFP(Ranking):
    """Channels that no filter of the next layer ever leans on go first, shared among layers by one bound on the error.

    Comparators, section 3 (Liebenwein et al., ICLR 2020): the sensitivity s_j of a layer's input channel is the largest
    share that one of its entries has in a filter's sum over weights of one sign, max_{image, filter, patch, entry}
    w a / sum w a. With S = sum s, q = s / S and A = 6 S ln(8 (patches + 1) kernel / delta), an error eps needs m =
    ceil(3 (6 + 2 eps) A / eps^2) samples, of which ceil(sum_j 1 - (1 - q_j)^m) channels are expected to be distinct:
    so many stay, those of largest s. The score of a channel is the eps at which it goes: one ranking over all layers
    then is the paper's allocation.

    Differs from the paper: a channel that several layers read has the largest of their sensitivities, and as many stay
    as the strictest of these layers asks for (the paper masks each layer's inputs by themselves); sizes are exact
    instead of predicted; one step, unless the target has steps.
    """

    delta: Positive = 1e-16
    """Probability of failure: 1e-16, for LeNet-5 1e-9."""
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
        seen = _Sensitivities(consumers)
        handles = [layer.register_forward_pre_hook(seen.look_from(name)) for name, layer in consumers.items()]
        try:
            for images in held_out(task.validation(), count):
                model(images)
        finally:
            for handle in handles:
                handle.remove()
            model.train(training)
        return {group.name: self._errors(group, consumers, seen) for group in task.groups}

    def _errors(self, group: ChannelGroup, consumers: Mapping[str, nn.Module], seen: _Sensitivities) -> Tensor:
        """The eps at which each unit goes; infinite for all if no layer that reads them is known. Shape (units,)."""
        if not any(member.axis == "in" and member.layer in consumers for member in group.members):
            return torch.full((group.size,), math.inf)
        largest = np.zeros(group.size)
        places = np.zeros(group.size)
        for member in group.members:
            if member.axis == "in" and member.layer in consumers:
                sensitivity, patches, kernel = seen.of(member.layer)
                # A unit's channels behind a flatten are entries of one channel.
                own = np.array([sensitivity[list(channels)].max() for channels in member.channels])
                others = np.delete(sensitivity, [c for channels in member.channels for c in channels])
                errors = errors_kept_to(np.concatenate([own, others]), patches, kernel, self.delta)[: group.size]
                largest = np.maximum(largest, own)
                places = np.maximum(places, np.sort(errors)[::-1])
        scores = np.empty(group.size)
        scores[_descending(largest)] = places
        return torch.from_numpy(scores)


def errors_kept_to(sensitivity: NDArray[np.float64], patches: int, kernel: int, delta: float) -> NDArray[np.float64]:
    """For each channel the smallest eps at which it is no longer among those that stay; infinite for the largest s.

    sensitivity: (channels,); patches: positions of the layer's output; kernel: its weights per channel and filter.
    """
    total = sensitivity.sum()
    errors = np.zeros(len(sensitivity))
    if total == 0:
        return errors
    bound = error_constant(float(total), patches, kernel, delta)
    order = _descending(sensitivity)
    for place, needed in enumerate(samples_for_more_than(sensitivity / total)):
        if needed <= 1:
            errors[order[place]] = math.inf
        elif needed < _MOST_SAMPLES:
            # samples(eps) <= needed - 1, solved for the smallest eps
            spare = needed - 1
            errors[order[place]] = (3 * bound + math.sqrt(9 * bound**2 + 18 * bound * spare)) / spare
    return errors


def _descending(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices from the largest value to the smallest; of equals the last comes first, as the first goes first."""
    return np.argsort(values, kind="stable")[::-1]


def error_constant(total: float, patches: int, kernel: int, delta: float) -> float:
    """A of the paper."""
    return 6 * total * math.log(8 * (patches + 1) * kernel / delta)


def samples(error: float, bound: float) -> int:
    """m: samples that an error needs."""
    return math.ceil(3 * (6 + 2 * error) * bound / error**2)


def expected_distinct(shares: NDArray[np.float64], samples: float) -> float:
    """Distinct channels to expect among so many drawn with the given probabilities."""
    with np.errstate(divide="ignore"):  # a share of 1: log 0, and the channel is drawn for sure
        return float(-np.expm1(samples * np.log1p(-shares)).sum())


def samples_for_more_than(shares: NDArray[np.float64]) -> list[int]:
    """For n = 0, 1, ... the fewest samples for which more than n distinct channels are expected."""
    found = []
    least = 1
    for n in range(len(shares)):
        low, high = least, least
        while high < _MOST_SAMPLES and expected_distinct(shares, high) <= n + 1e-9:
            low, high = high + 1, high * 2
        high = min(high, _MOST_SAMPLES)
        while low < high:
            middle = (low + high) // 2
            if expected_distinct(shares, middle) > n + 1e-9:
                high = middle
            else:
                low = middle + 1
        found.append(low)
        least = low
    return found


def sample_size(activations: Sequence[int], delta: float) -> int:
    """|S| = ceil(3 ln(8 eta_max eta / delta)) images. ``activations``: outputs of each layer for one image."""
    return math.ceil(3 * math.log(8 * max(activations, default=1) * max(sum(activations), 1) / delta))


def held_out(batches: Iterator[tuple[Tensor, Tensor]], count: int) -> list[Tensor]:
    """The first ``count`` images, at most half of all there are (and at least one)."""
    found: list[Tensor] = []
    seen = 0
    for images, _ in batches:
        found.append(images)
        seen += len(images)
        if seen >= 2 * count:
            break
    wanted = max(1, min(count, seen // 2))
    return list(torch.split(torch.cat(found)[:wanted], len(found[0]))) if found else []


def input_sensitivity(layer: nn.Conv2d | nn.Linear, inputs: Tensor) -> tuple[Tensor, int]:
    """The largest share of each input channel over filters, signs, patches, entries and images; and the patches.

    inputs: (images, channels, height, width) or (..., features); returns (channels,). Negative inputs count as
    channels of their own, of the opposite sign. Shares of sums at or below the float epsilon are 0.
    """
    if isinstance(layer, nn.Conv2d):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
        columns = F.unfold(padded, layer.kernel_size, dilation=layer.dilation, stride=layer.stride)
        groups, channels = layer.groups, layer.in_channels
    else:
        columns = inputs.reshape(-1, layer.in_features, 1)
        groups, channels = 1, layer.in_features
    weights = layer.weight.reshape(groups, layer.weight.shape[0] // groups, -1)  # (groups, filters, entries)
    columns = columns.reshape(len(columns), groups, -1, columns.shape[2])  # (images, groups, entries, patches)
    largest = torch.zeros(weights.shape[0], weights.shape[2], device=weights.device, dtype=weights.dtype)
    epsilon = torch.finfo(weights.dtype).eps
    for entries in (columns.relu(), (-columns).relu()):
        if bool(entries.any()):  # after a ReLU there is no negative half
            for signed in (weights.relu(), (-weights).relu()):
                sums = torch.einsum("gfe,ngep->gfnp", signed, entries)
                parts = torch.where(sums > epsilon, 1 / sums, 0)
                for f in range(weights.shape[1]):  # filter by filter: all at once would not fit into memory
                    shares = (entries * parts[:, f].transpose(0, 1)[:, :, None]).amax((0, 3))
                    largest = torch.maximum(largest, shares * signed[:, f])
    return largest.reshape(channels, -1).amax(1), columns.shape[3]


class _Sensitivities:
    """The largest shares seen so far, by layer."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self._layers = layers
        self._largest: dict[str, Tensor] = {}
        self._patches: dict[str, int] = {}

    def look_from(self, name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            found, self._patches[name] = input_sensitivity(layer, inputs[0])
            self._largest[name] = torch.maximum(self._largest[name], found) if name in self._largest else found

        return hook

    def of(self, name: str) -> tuple[NDArray[np.float64], int, int]:
        """Sensitivity of each input channel, patches, kernel area."""
        layer = self._layers[name]
        kernel = math.prod(layer.kernel_size) if isinstance(layer, nn.Conv2d) else 1
        return self._largest[name].double().cpu().numpy(), self._patches[name], kernel


def _activations(model: nn.Module, example: Tensor) -> list[int]:
    """Outputs of each convolution and linear layer for one image."""
    found: list[int] = []
    handles: list[RemovableHandle] = [
        layer.register_forward_hook(lambda module, inputs, output: found.append(output.numel()))
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    model(example)
    for handle in handles:
        handle.remove()
    return found

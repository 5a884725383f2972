"""Input sensitivity: the largest share that an input channel has in the sums of a layer's filters (PFP)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F


def input_sensitivity(layer: nn.Conv2d | nn.Linear, inputs: Tensor) -> tuple[Tensor, int]:
    """Return the largest share of each input channel over filters, signs, patches, entries and images; and the patches.

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


class Sensitivities:
    """The largest shares of all images so far, by layer."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self._layers = layers
        self._largest: dict[str, Tensor] = {}
        self._patches: dict[str, int] = {}

    def hook(self, name: str) -> Any:
        """Return a forward pre-hook that updates the shares of a layer."""

        def update(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            shares, self._patches[name] = input_sensitivity(layer, inputs[0])
            self._largest[name] = torch.maximum(self._largest[name], shares) if name in self._largest else shares

        return update

    def of(self, name: str) -> tuple[NDArray[float64], int, int]:
        """Return the sensitivity of each input channel, patches, kernel area."""
        layer = self._layers[name]
        kernel = math.prod(layer.kernel_size) if isinstance(layer, nn.Conv2d) else 1
        return self._largest[name].double().cpu().numpy(), self._patches[name], kernel

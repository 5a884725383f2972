"""What a network costs as a function of how many units each channel group keeps, without cutting it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from orchestrator.metrics.macs import layer_macs
from orchestrator.surgery.groups import ChannelGroup
from orchestrator.surgery.layers import Axis, Convolution, drops_whole_groups, is_depthwise

Counts = NDArray[np.int64]
Quantity = Literal["channels", "weights", "params", "macs"]


class Costs:
    """The exact size of the network that is left where each group keeps so many of its units.

    Each layer's number of input and output channels is a constant plus, for each group, units kept times the group's
    channels in the layer. Groups that ``kept`` does not name keep everything. Multiply-adds are those of convolutions
    and linear layers for one image of the shape of ``example``.
    """

    def __init__(self, model: nn.Module, example: Tensor, groups: Sequence[ChannelGroup]) -> None:
        self.names = [group.name for group in groups]
        self.dense_counts: Counts = np.array([group.size for group in groups], dtype=np.int64)
        self._index = {name: i for i, name in enumerate(self.names)}
        makers = [_channels_made(model, group) for group in groups]
        self._channels_per_unit: Counts = np.array(makers, dtype=np.int64)
        macs = layer_macs(model, example)
        changed = {member.layer for group in groups for member in group.members}
        layers = {name: layer for name, layer in model.named_modules() if name in changed}
        per_unit: dict[Axis, Counts] = {
            "out": np.zeros((len(layers), len(groups)), dtype=np.int64),
            "in": np.zeros((len(layers), len(groups)), dtype=np.int64),
        }
        rows = {name: row for row, name in enumerate(layers)}
        for g, group in enumerate(groups):
            for member in group.members:
                per_unit[member.axis][rows[member.layer], g] += member.per_unit
        formulas = [_formula(layer, macs.get(name, 0)) for name, layer in layers.items()]
        table: Counts = np.array(formulas, dtype=np.int64).reshape(len(layers), 6)
        made, read, self._window, self._read_divisor, self._each, self._macs_per_weight = table.T
        reads_per_unit = per_unit["in"].copy()
        # What a filter reads does not change with the number of filter groups, nor in a depthwise convolution.
        fixed = self._read_divisor == 0
        reads_per_unit[fixed] = 0
        self._read_divisor = np.where(fixed, 1, self._read_divisor)
        self._made_per_unit, self._reads_per_unit = per_unit["out"], reads_per_unit
        self._made = made - per_unit["out"] @ self.dense_counts
        self._read = read - reads_per_unit @ self.dense_counts
        self._other_params = 0
        self._other_weights = 0
        self._other_macs = 0
        self._other_params = sum(p.numel() for p in model.parameters()) - self.measure("params", self.dense_counts)
        all_weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, Convolution | nn.Linear))
        self._other_weights = all_weights - self.measure("weights", self.dense_counts)
        self._other_macs = sum(macs.values()) - self.measure("macs", self.dense_counts)

    def params(self, kept: Mapping[str, int]) -> int:
        return self.measure("params", self.counts(kept))

    def macs(self, kept: Mapping[str, int]) -> int:
        return self.measure("macs", self.counts(kept))

    def channels(self, kept: Mapping[str, int]) -> int:
        """Prunable output channels (filters) of convolutions and linear layers that are kept."""
        return self.measure("channels", self.counts(kept))

    def dense(self, quantity: Quantity) -> int:
        """The quantity with nothing removed."""
        return self.measure(quantity, self.dense_counts)

    def of_groups(self, chosen: Sequence[int]) -> Costs:
        """The costs of some groups, by index, as if nothing else could go: with none of their units left they are 0.

        So a quantity is what the layers of these groups carry, together with what other layers spend on reading them.
        """
        part = copy.copy(self)
        others = self.dense_counts.copy()
        others[list(chosen)] = 0
        part.names = [self.names[g] for g in chosen]
        part._index = {name: i for i, name in enumerate(part.names)}
        part.dense_counts = self.dense_counts[list(chosen)]
        part._channels_per_unit = self._channels_per_unit[list(chosen)]
        part._made = self._made + self._made_per_unit @ others
        part._read = self._read + self._reads_per_unit @ others
        part._made_per_unit = self._made_per_unit[:, list(chosen)]
        part._reads_per_unit = self._reads_per_unit[:, list(chosen)]
        nothing = np.zeros_like(part.dense_counts)
        part._other_params -= part.measure("params", nothing)
        part._other_weights -= part.measure("weights", nothing)
        part._other_macs -= part.measure("macs", nothing)
        return part

    def counts(self, kept: Mapping[str, int]) -> Counts:
        """Units kept, in the order of the groups."""
        counts = self.dense_counts.copy()
        for name, count in kept.items():
            counts[self._index[name]] = count
        return counts

    def measure(self, quantity: Quantity, counts: Counts) -> int:
        """A quantity for units kept in the order of the groups: shape (groups,)."""
        if quantity == "channels":
            return int(self._channels_per_unit @ counts)
        made = self._made + self._made_per_unit @ counts
        read = (self._read + self._reads_per_unit @ counts) // self._read_divisor
        weights = made * read * self._window
        if quantity == "weights":
            return int(weights.sum()) + self._other_weights
        if quantity == "params":
            return int((weights + made * self._each).sum()) + self._other_params
        return int((weights * self._macs_per_weight).sum()) + self._other_macs


def _channels_made(model: nn.Module, group: ChannelGroup) -> int:
    """Filters and neurons in one unit."""
    return sum(
        member.per_unit
        for member in group.members
        if member.axis == "out" and isinstance(model.get_submodule(member.layer), Convolution | nn.Linear)
    )


def _formula(layer: nn.Module, macs: int) -> tuple[int, int, int, int, int, int]:
    """Channels made, channels read, window, filter groups (0: reads are constant), parameters per channel, MACs/weight.

    Weights = made * read / filter groups * window; other parameters = made * parameters per channel.
    """
    if isinstance(layer, Convolution):
        each = layer.weight.numel() // (layer.in_channels * layer.out_channels // layer.groups)
        bias = int(layer.bias is not None)
        per_weight = macs // layer.weight.numel()
        if is_depthwise(layer) or drops_whole_groups(layer):
            return layer.out_channels, layer.in_channels // layer.groups, each, 0, bias, per_weight
        return layer.out_channels, layer.in_channels, each, layer.groups, bias, per_weight
    if isinstance(layer, nn.Linear):
        per_weight = macs // layer.weight.numel()
        return layer.out_features, layer.in_features, 1, 1, int(layer.bias is not None), per_weight
    channels = next(
        getattr(layer, attribute)
        for attribute in ("num_features", "num_channels", "num_parameters")
        if hasattr(layer, attribute)
    )
    return channels, 1, 0, 0, sum(p.numel() for p in layer.parameters()) // channels, 0

"""Costs of a network (channels, weights, parameters, MACs) as a function of the units each channel group keeps."""

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
    """The exact size of the network in which each group keeps a given number of units.

    Each layer's number of input and output channels is a constant plus, for each group, units kept times the group's
    channels in the layer. Groups not named in ``kept`` keep everything. Multiply-adds are those of convolutions
    and linear layers for one image of the shape of ``example``.
    """

    def __init__(self, model: nn.Module, example: Tensor, groups: Sequence[ChannelGroup]) -> None:
        self.names = [group.name for group in groups]
        self.dense_counts: Counts = np.array([group.size for group in groups], dtype=np.int64)
        self._index = {name: i for i, name in enumerate(self.names)}
        channels_per_unit = [_filters_per_unit(model, group) for group in groups]
        self._channels_per_unit: Counts = np.array(channels_per_unit, dtype=np.int64)
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
        outputs, inputs, self._window, self._input_divisor, self._params_per_output, self._macs_per_weight = table.T
        inputs_per_unit = per_unit["in"].copy()
        # The inputs of a filter do not change with the number of filter groups, nor in a depthwise convolution.
        fixed = self._input_divisor == 0
        inputs_per_unit[fixed] = 0
        self._input_divisor = np.where(fixed, 1, self._input_divisor)
        self._outputs_per_unit, self._inputs_per_unit = per_unit["out"], inputs_per_unit
        self._outputs = outputs - per_unit["out"] @ self.dense_counts
        self._inputs = inputs - inputs_per_unit @ self.dense_counts
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
        """Return the kept output channels (filters) of convolutions and linear layers."""
        return self.measure("channels", self.counts(kept))

    def dense(self, quantity: Quantity) -> int:
        """Return the quantity with nothing removed."""
        return self.measure(quantity, self.dense_counts)

    def of_groups(self, indices: Sequence[int]) -> Costs:
        """Return the costs of some groups, by index: 0 where none of their units are kept.

        A quantity then is that of the layers of these groups, and of the weights of other layers that read them.
        """
        part = copy.copy(self)
        others = self.dense_counts.copy()
        others[list(indices)] = 0
        part.names = [self.names[g] for g in indices]
        part._index = {name: i for i, name in enumerate(part.names)}
        part.dense_counts = self.dense_counts[list(indices)]
        part._channels_per_unit = self._channels_per_unit[list(indices)]
        part._outputs = self._outputs + self._outputs_per_unit @ others
        part._inputs = self._inputs + self._inputs_per_unit @ others
        part._outputs_per_unit = self._outputs_per_unit[:, list(indices)]
        part._inputs_per_unit = self._inputs_per_unit[:, list(indices)]
        nothing = np.zeros_like(part.dense_counts)
        part._other_params -= part.measure("params", nothing)
        part._other_weights -= part.measure("weights", nothing)
        part._other_macs -= part.measure("macs", nothing)
        return part

    def counts(self, kept: Mapping[str, int]) -> Counts:
        """Return the units kept, in the order of the groups."""
        counts = self.dense_counts.copy()
        for name, count in kept.items():
            counts[self._index[name]] = count
        return counts

    def measure(self, quantity: Quantity, counts: Counts) -> int:
        """Return a quantity for the units kept, in the order of the groups. counts: (groups,)."""
        if quantity == "channels":
            return int(self._channels_per_unit @ counts)
        outputs = self._outputs + self._outputs_per_unit @ counts
        inputs = (self._inputs + self._inputs_per_unit @ counts) // self._input_divisor
        weights = outputs * inputs * self._window
        if quantity == "weights":
            return int(weights.sum()) + self._other_weights
        if quantity == "params":
            return int((weights + outputs * self._params_per_output).sum()) + self._other_params
        return int((weights * self._macs_per_weight).sum()) + self._other_macs


def _filters_per_unit(model: nn.Module, group: ChannelGroup) -> int:
    """Return the number of filters and neurons in one unit."""
    return sum(
        member.per_unit
        for member in group.members
        if member.axis == "out" and isinstance(model.get_submodule(member.layer), Convolution | nn.Linear)
    )


def _formula(layer: nn.Module, macs: int) -> tuple[int, int, int, int, int, int]:
    """Return outputs, inputs, window, filter groups (0: inputs are constant), parameters per output, MACs per weight.

    Weights = outputs * inputs / filter groups * window; other parameters = outputs * parameters per output.
    """
    if isinstance(layer, Convolution):
        window = layer.weight.numel() // (layer.in_channels * layer.out_channels // layer.groups)
        bias = int(layer.bias is not None)
        per_weight = macs // layer.weight.numel()
        if is_depthwise(layer) or drops_whole_groups(layer):
            return layer.out_channels, layer.in_channels // layer.groups, window, 0, bias, per_weight
        return layer.out_channels, layer.in_channels, window, layer.groups, bias, per_weight
    if isinstance(layer, nn.Linear):
        per_weight = macs // layer.weight.numel()
        return layer.out_features, layer.in_features, 1, 1, int(layer.bias is not None), per_weight
    channels = next(
        getattr(layer, attribute)
        for attribute in ("num_features", "num_channels", "num_parameters")
        if hasattr(layer, attribute)
    )
    return channels, 1, 0, 0, sum(p.numel() for p in layer.parameters()) // channels, 0

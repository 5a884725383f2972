"""Tracing of every channel of a network from the layer that outputs it to the layers that read it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from orchestrator.surgery.channel_ids import ChannelIds, Ids
from orchestrator.surgery.layers import Axis, BatchNorm, Convolution, InstanceNorm, drops_whole_groups, is_depthwise

# fmt: off
# Operations that leave channels where they are, and a channel of zeros at zero.
_KEEPS_ZERO = frozenset((
    "Relu", "LeakyRelu", "Elu", "Gelu", "Silu", "Mish", "Tanh", "Hardswish", "PreluKernel", "Clone", "ToCopy", "Neg",
    "Abs", "NativeDropout", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "MkldnnMaxPool2D",
    "MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D", "UpsampleNearest1D",
    "UpsampleNearest2D", "UpsampleNearest3D", "UpsampleBilinear2D", "UpsampleBicubic2D", "UpsampleTrilinear3D",
    "ReflectionPad1D", "ReflectionPad2D", "ReplicationPad1D", "ReplicationPad2D",
))
# Operations that leave channels where they are, but may turn zeros into something else.
_CHANGES_ZERO = frozenset((
    "Sigmoid", "Hardsigmoid", "Softplus", "LogSigmoid", "Exp", "Clamp", "ClampMin", "ClampMax", "Pow", "Sqrt", "Rsqrt",
))
# fmt: on
_MERGES = frozenset(("Add", "Sub", "Mul", "Div", "Maximum", "Minimum"))
_REDUCES = frozenset(("Mean", "Sum", "Amax", "Amin"))
_RESHAPES = frozenset(("View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Expand"))


@dataclass(frozen=True)
class Track:
    """The channels of one axis of one layer, as ids; layers that read or output the same channel have the same id."""

    layer: str
    axis: Axis
    ids: Ids
    sees_zero: bool
    """Whether a channel arrives here as zero when the layers that output it are zeroed."""


@dataclass(frozen=True)
class _Flow:
    """The output of an operation: the ids of its channels, and whether zeroed channels are zero there."""

    ids: Ids
    zero: bool


def trace_channels(outputs: Iterable[Any], source: Any, layers: Mapping[Any, tuple[str, nn.Module]]) -> ChannelTracer:
    """Trace channels forward through the autograd graph behind ``outputs`` (the ``grad_fn`` of each result).

    ``source`` is the ``grad_fn`` of the network's input; ``layers``: the layer of a ``grad_fn``, with its name.
    Channels are axis 1 of every tensor, the batch axis 0. Channels that an unknown operation reads are pinned, as its
    effect is unknown: such a network has fewer prunable channels, but is cut correctly. Results and input are pinned,
    too.
    """
    tracer = ChannelTracer(source, layers)
    outputs = list(outputs)
    for node in _forward_order(outputs):
        tracer.visit(node)
    for node in outputs:
        tracer.channels.pin(tracer.flow(node).ids)
    return tracer


def _forward_order(outputs: list[Any]) -> list[Any]:
    order: list[Any] = []
    visited: set[Any] = set()
    stack: list[tuple[Any, bool]] = [(node, False) for node in reversed(outputs)]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            order.append(node)
        elif node not in visited:
            visited.add(node)
            stack.append((node, True))
            stack.extend((f, False) for f, _ in reversed(node.next_functions) if f is not None and not _is_leaf(f))
    return order


def _is_leaf(node: Any) -> bool:
    return hasattr(node, "variable")


def _shape(node: Any) -> tuple[int, ...]:
    # The input of a backward operation is the output of its forward operation.
    return tuple(node._input_metadata[0].shape)


def _axis(axis: int, rank: int) -> int:
    # Autograd keeps negative axes as unsigned 64-bit numbers.
    return (axis - 2**64 if axis >= 2**63 else axis) % max(rank, 1)


class ChannelTracer:
    """The ids, the flow behind each visited operation, and the tracks of the layers so far."""

    def __init__(self, source: Any, layers: Mapping[Any, tuple[str, nn.Module]]) -> None:
        self.channels = ChannelIds()
        self.tracks: list[Track] = []
        self._source = source
        self._layers = layers
        self._flows: dict[Any, _Flow] = {}

    def flow(self, node: Any) -> _Flow:
        return self._flows[node]

    def visit(self, node: Any) -> None:
        """Determine the output of an operation; the operations it reads must have been visited."""
        if node is self._source:
            self._flows[node] = _Flow(self.channels.new_pinned(_shape(node)[1]), True)
            return
        flow = self._through_layer(node) if node in self._layers else self._through_operation(node)
        self._flows[node] = flow or self._opaque(node)

    def _opaque(self, node: Any) -> _Flow:
        for source, _ in node.next_functions:
            if source in self._flows:
                self.channels.pin(self._flows[source].ids)
        shape = _shape(node)
        return _Flow(self.channels.new_pinned(shape[1] if len(shape) > 1 else 0), False)

    def _through_layer(self, node: Any) -> _Flow | None:
        name, layer = self._layers[node]
        before = self._flows.get(_input_of(node, layer))
        if before is None:
            return None
        ids = before.ids
        if isinstance(layer, BatchNorm) and not isinstance(layer, InstanceNorm) and len(ids) == layer.num_features:
            self._track(name, "out", before)
            return _Flow(ids, before.zero or layer.affine)
        if isinstance(layer, nn.GroupNorm) and len(ids) == layer.num_channels:
            # Statistics are those of a norm group: only the removal of whole groups leaves the others unchanged.
            for group in ids.reshape(layer.num_groups, -1):
                self.channels.tie_together(group)
            self._track(name, "out", before)
            return _Flow(ids, before.zero or layer.affine)
        if isinstance(layer, nn.PReLU) and layer.num_parameters in (1, len(ids)):
            if layer.num_parameters > 1:
                self._track(name, "out", before)
            return before
        if isinstance(layer, nn.Linear) and len(_shape(node)) == 2 and len(ids) == layer.in_features:
            return self._through_new_channels(name, before, layer.out_features)
        if isinstance(layer, Convolution) and len(ids) == layer.in_channels:
            return self._through_convolution(name, layer, before)
        return None

    def _through_convolution(self, name: str, layer: Convolution, before: _Flow) -> _Flow | None:
        if is_depthwise(layer):
            self._track(name, "out", before)
            # Its bias and its filter are zeroed with it.
            return _Flow(before.ids, True)
        if layer.groups > 1 and layer.transposed:
            return None
        after = self._through_new_channels(name, before, layer.out_channels)
        if layer.groups > 1:
            outputs, inputs = after.ids.reshape(layer.groups, -1), before.ids.reshape(layer.groups, -1)
            if drops_whole_groups(layer):
                for group in np.concatenate((outputs, inputs), axis=1):
                    self.channels.tie_together(group)
            else:
                for position in (*outputs.T, *inputs.T):
                    self.channels.tie_together(position)
        return after

    def _through_new_channels(self, name: str, before: _Flow, count: int) -> _Flow:
        after = _Flow(self.channels.new(count), True)
        self._track(name, "in", before)
        self._track(name, "out", after)
        return after

    def _track(self, name: str, axis: Axis, flow: _Flow) -> None:
        self.tracks.append(Track(name, axis, flow.ids, flow.zero))

    def _through_operation(self, node: Any) -> _Flow | None:
        operation = node.name().partition("Backward")[0]
        sources = [source for source, _ in node.next_functions]
        if any(s is not None and _is_leaf(s) and s.variable.numel() > 1 for s in sources):
            return None  # a parameter outside any layer
        flows = [(self._flows[s], _shape(s)) for s in sources if s in self._flows]
        shape = _shape(node)
        if not flows or len(shape) < 2:
            return None
        if operation == "Cat":
            return self._concatenated(node, flows, shape)
        if operation in _MERGES:
            return self._merged(operation, flows, shape, constants=len(sources) > len(flows))
        if len(flows) > 1:
            return None
        (before, before_shape) = flows[0]
        if len(before_shape) < 2:
            return None
        kept_in_place = before_shape[:2] == shape[:2]
        if operation == "ConstantPadNd":
            return self._padded(node, before, shape)
        if operation in _REDUCES:
            axes = getattr(node, "_saved_dim", None) or (0,)
            axes = (axes,) if isinstance(axes, int) else axes
            inside = all(_axis(axis, len(before_shape)) > 1 for axis in axes)
            return before if inside and kept_in_place else None
        if operation == "Slice":
            return before if _axis(node._saved_dim, len(shape)) != 1 and kept_in_place else None
        if operation in _RESHAPES:
            if kept_in_place:
                return before
            if len(shape) == 2 and operation not in ("Unsqueeze", "Squeeze", "Expand"):
                positions = math.prod(before_shape[2:])
                if shape == (before_shape[0], before_shape[1] * positions):
                    return _Flow(np.repeat(before.ids, positions), before.zero)
            return None
        if not kept_in_place:
            return None
        if operation == "Hardtanh":
            return _Flow(before.ids, before.zero and node._saved_min_val <= 0 <= node._saved_max_val)
        if operation in _KEEPS_ZERO:
            return before
        return _Flow(before.ids, False) if operation in _CHANGES_ZERO else None

    def _concatenated(self, node: Any, flows: list[tuple[_Flow, tuple[int, ...]]], shape: tuple[int, ...]) -> _Flow:
        axis = _axis(node._saved_dim, len(shape))
        zero = all(flow.zero for flow, _ in flows)
        if axis != 1:
            first = flows[0][0].ids
            for other, _ in flows[1:]:
                self.channels.tie(first, other.ids)
            return _Flow(first, zero)
        missing = shape[1] - sum(len(flow.ids) for flow, _ in flows)
        constants = [s for s, _ in node.next_functions if s is None]
        parts: list[Ids] = []
        for source, _ in node.next_functions:
            if source is not None:
                parts.append(self._flows[source].ids)
            elif len(constants) == 1:
                parts.append(self.channels.new_pinned(missing))
            else:
                return self._opaque(node)  # the positions of several constants are unknown
        return _Flow(np.concatenate(parts), zero)

    def _merged(
        self, operation: str, flows: list[tuple[_Flow, tuple[int, ...]]], shape: tuple[int, ...], constants: bool
    ) -> _Flow | None:
        full: list[_Flow] = []
        for flow, own in flows:
            if len(own) == len(shape) and own[:2] == shape[:2]:
                full.append(flow)
            else:
                self.channels.pin(flow.ids)  # one channel broadcast to all of them, as of a spatial attention map
        if not full or any(len(own) > 1 and own[1] not in (1, shape[1]) for _, own in flows):
            return None
        for other in full[1:]:
            self.channels.tie(full[0].ids, other.ids)
        zeros = [flow.zero for flow in full]
        if operation == "Mul":
            zero = any(zeros)
        elif operation == "Div":
            zero = len(flows) == 1 and zeros[0]
        else:
            zero = all(zeros) and len(full) == len(flows) and not constants
        return _Flow(full[0].ids, zero)

    def _padded(self, node: Any, before: _Flow, shape: tuple[int, ...]) -> _Flow | None:
        pads = list(node._saved_pad) + [0] * (2 * len(shape) - len(node._saved_pad))
        first, last = pads[2 * (len(shape) - 2) : 2 * (len(shape) - 1)]
        if min(first, last) < 0 or any(pads[2 * (len(shape) - 1) :]):
            return None
        ids = (self.channels.new_pinned(first), before.ids, self.channels.new_pinned(last))
        return _Flow(np.concatenate(ids), False)  # the border's value is not recorded


def _input_of(node: Any, layer: nn.Module) -> Any:
    """Return the input of a layer, or None where it does not use its weight as stored (parametrized, standardised)."""
    sources = [source for source, _ in node.next_functions]
    if isinstance(layer, nn.Linear):
        sources = sources[1:] if node.name().startswith("Addmm") else sources
    weight = getattr(layer, "weight", None)
    if weight is None:
        return sources[0]
    weight_source = sources[1] if len(sources) > 1 else None
    while weight_source is not None and not _is_leaf(weight_source):
        if weight_source.name().partition("Backward")[0] not in ("T", "View", "Expand"):
            return None
        weight_source = weight_source.next_functions[0][0]
    return sources[0] if weight_source is not None and weight_source.variable is weight else None

"""Channel groups: the channels of a network that can be removed, and those that must be removed together."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from orchestrator.spec.errors import PrunesweepError, nearest
from orchestrator.surgery.channel_ids import ChannelIds
from orchestrator.surgery.channel_tracing import Track, trace_channels
from orchestrator.surgery.layers import Axis, BatchNorm, Convolution, drops_whole_groups, is_depthwise


class UnknownLayer(PrunesweepError, ValueError):
    """Raised for a layer that the network does not have."""


@dataclass(frozen=True)
class Member:
    """The channels of a group's units in one layer."""

    layer: str
    axis: Axis
    """``out``: channels it outputs or normalizes (a depthwise convolution's only axis); ``in``: channels it reads."""
    channels: tuple[tuple[int, ...], ...]
    """The layer's channel indices along the axis, for each unit; the same number for every unit."""
    sees_zero: bool = True
    """Whether a unit whose ``out`` members are zeroed arrives here as zero (not behind a sigmoid, for example)."""

    @property
    def per_unit(self) -> int:
        """Channels of this layer in each unit."""
        return len(self.channels[0])


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of several layers that are removed together: a unit is removed with its channels in all members."""

    name: str
    """The first layer, in order of execution, that outputs its channels."""
    units: tuple[tuple[int, ...], ...]
    """The channel indices of that layer in each unit: one index each, more for grouped convolutions and norms."""
    members: tuple[Member, ...]

    @property
    def size(self) -> int:
        return len(self.units)


class _Layers(tp.DependencyGraph):  # type: ignore[misc]
    """torch-pruning's graph up to its nodes: the layer of each step of the computation.

    Its own index mappings are not used. They lose ties (``cat(x, x)``), misplace the channels of a concatenation with
    parts that no layer outputs (the network's input, zeros), and raise an exception on a channel shuffle.
    """

    def _build_dependency(self, module2node: dict[Any, Any]) -> None:
        self.nodes = dict(module2node)
        module2node.clear()


def channel_groups(model: nn.Module, example: Tensor, leave: Collection[str] = ()) -> list[ChannelGroup]:
    """Return the channel groups of a network, in order of execution of their first layers.

    ``example`` is a batch as the network takes it, on its device. Layers named in ``leave`` or in ``model.unprunable``
    (a name includes all layers inside it) keep their output channels, and so do the layers that output the network's
    results. Grouped convolutions have units that leave them valid: whole groups, or the same positions in all groups,
    whichever is finer; a group norm loses whole norm groups, so that the statistics of the others stay the same.
    Channels that pass through an operation not known to keep channels apart (a transpose, a split) are not pruned, nor
    are layers that run twice or share a weight. The model is not changed: a copy without its hooks is traced.

    Raises :class:`UnknownLayer` where ``leave`` names a layer that does not exist.
    """
    unpruned = {*leave, *getattr(model, "unprunable", ())}
    names = {name for name, _ in model.named_modules()}
    for name in sorted(unpruned - names):
        raise UnknownLayer(f"no layer {name!r} to leave unpruned{nearest(name, names)}")
    tracks, order, ids = _trace(model, example)
    return [group for group in _assemble(tracks, order, ids, model) if not _outputs_any(group, unpruned)]


def shrink(layer: nn.Module, removed_out: Sequence[int], removed_in: Sequence[int]) -> None:
    """Remove output and input channels of a layer, in place; a norm or depthwise layer has only ``removed_out``."""
    out, into = sorted(removed_out), sorted(removed_in)
    trained = {name: p.requires_grad for name, p in layer.named_parameters(recurse=False)}
    if is_depthwise(layer):
        tp.prune_depthwise_conv_out_channels(layer, out)
    elif isinstance(layer, Convolution):
        _shrink_convolution(layer, out, into)
    elif isinstance(layer, nn.Linear):
        if out:
            tp.prune_linear_out_channels(layer, out)
        if into:
            tp.prune_linear_in_channels(layer, into)
    elif isinstance(layer, BatchNorm):
        tp.prune_batchnorm_out_channels(layer, out)
    elif isinstance(layer, nn.GroupNorm):
        channels_each = layer.num_channels // layer.num_groups
        tp.prune_groupnorm_out_channels(layer, out)
        layer.num_groups = layer.num_channels // channels_each
    elif isinstance(layer, nn.PReLU):
        tp.prune_prelu_out_channels(layer, out)
    else:
        raise UnknownLayer(f"cannot cut a {type(layer).__name__}")
    for name, needs_gradient in trained.items():
        layer.get_parameter(name).requires_grad_(needs_gradient)


def _shrink_convolution(layer: Convolution, out: list[int], into: list[int]) -> None:
    read_each = layer.in_channels // layer.groups
    whole = drops_whole_groups(layer)
    if out:
        tp.prune_conv_out_channels(layer, out)
    if not into:
        return
    if whole:
        # A filter reads its own group only: the remaining filters do not change.
        layer.in_channels -= len(into)
        layer.groups = layer.in_channels // read_each
    else:
        tp.prune_conv_in_channels(layer, into)


def _trace(model: nn.Module, example: Tensor) -> tuple[list[Track], list[str], ChannelIds]:
    """Return the tracks of all layers, the layers in order of execution, and the ids in the tracks."""
    traced = copy.deepcopy(model).eval()
    for module in traced.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            hooks.clear()
    for parameter in traced.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    calls: Counter[nn.Module] = Counter()
    for module in traced.modules():
        module.register_forward_hook(lambda m, *_: calls.update([m]))
    results: list[Any] = []

    def keep_results(outputs: Any) -> Any:
        results.extend(t.grad_fn for t in tree_leaves(outputs) if isinstance(t, Tensor) and t.grad_fn is not None)
        return outputs

    with torch.enable_grad(), torch.autocast(example.device.type, enabled=False):
        # A product has a grad_fn, so that the input is a node of the graph like any other.
        images = example.detach().clone().requires_grad_() * 1
        graph = _Layers()
        graph.build_dependency(traced, example_inputs=[images], output_transform=keep_results, verbose=False)
    name_of = {module: name for name, module in traced.named_modules()}
    uses = Counter(id(p) for m in traced.modules() for p in m._parameters.values() if p is not None)
    layers = {
        node.grad_fn: (name_of[module], module)
        for module, node in graph.nodes.items()
        # A layer that runs twice or shares a parameter is treated as an unknown operation.
        if module in name_of and calls[module] == 1 and all(uses[id(p)] == 1 for p in module.parameters())
    }
    tracer = trace_channels(dict.fromkeys(results), images.grad_fn, layers)
    return tracer.tracks, [name_of[module] for module in calls], tracer.channels


def _assemble(tracks: list[Track], order: list[str], ids: ChannelIds, model: nn.Module) -> Iterable[ChannelGroup]:
    position = {name: i for i, name in enumerate(order)}
    tracks = sorted(tracks, key=lambda track: (position[track.layer], track.axis == "out"))
    pinned = ids.pinned()
    units: defaultdict[int, defaultdict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for t, track in enumerate(tracks):
        for channel, unit in enumerate(ids.roots(track.ids)):
            if unit not in pinned:
                units[unit][t].append(channel)
    producers = {
        t: track.layer
        for t, track in enumerate(tracks)
        if track.axis == "out"
        and isinstance(layer := model.get_submodule(track.layer), Convolution | nn.Linear)
        and not is_depthwise(layer)
    }
    # Units with the same number of channels in the same layers form a group.
    by_footprint: defaultdict[tuple[tuple[int, int], ...], list[dict[int, list[int]]]] = defaultdict(list)
    for channels in units.values():
        by_footprint[tuple(sorted((t, len(own)) for t, own in channels.items()))].append(channels)
    groups: list[tuple[int, list[int], ChannelGroup]] = []
    for footprint, members in by_footprint.items():
        root = next(t for t, _ in footprint if t in producers)
        members.sort(key=lambda unit: unit[root])
        group = ChannelGroup(
            producers[root],
            tuple(tuple(unit[root]) for unit in members),
            tuple(
                Member(tracks[t].layer, tracks[t].axis, tuple(tuple(u[t]) for u in members), tracks[t].sees_zero)
                for t, _ in footprint
            ),
        )
        groups.append((root, members[0][root], group))
    groups.sort(key=lambda entry: entry[:2])
    named: Counter[str] = Counter()
    for _, _, group in groups:
        named[group.name] += 1
        if group.size < 2:
            continue  # its only unit must stay
        if named[group.name] > 1:
            # A layer with channels of different footprints has a group for each.
            group = ChannelGroup(f"{group.name}#{named[group.name]}", group.units, group.members)
        yield group


def _outputs_any(group: ChannelGroup, layers: Collection[str]) -> bool:
    """Return whether one of the layers, or a layer inside them, outputs the group's channels."""
    return any(
        member.layer == name or member.layer.startswith(name + ".")
        for member in group.members
        if member.axis == "out"
        for name in layers
    )

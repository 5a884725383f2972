"""Cutting: copies of networks without the removed channels, or with zeros for removed weights."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from orchestrator.spec.errors import PrunesweepError, nearest
from orchestrator.surgery.groups import ChannelGroup, channel_groups, shrink
from orchestrator.surgery.layers import Axis
from orchestrator.surgery.selection import ChannelSelection, WeightSelection


class CannotCut(PrunesweepError, ValueError):
    """Raised for a selection that does not fit the network, or a network that does not run once it is cut."""


def cut(model: nn.Module, example: Tensor, selection: ChannelSelection) -> nn.Module:
    """Return a copy of the network without the channels that the selection does not keep.

    ``example`` is a batch as the network takes it. The copy computes what the network masked by :func:`mask_channels`
    does. Raises :class:`CannotCut` where the selection names unknown groups or units, or where the network's own code
    contains the old sizes.
    """
    removed = removed_channels(channel_groups(model, example), selection)
    smaller = copy.deepcopy(model)
    set_values(smaller, selection.values)
    for name, axes in removed.items():
        layer = smaller.get_submodule(name)
        channels_last = _is_channels_last(layer)
        shrink(layer, sorted(axes["out"]), sorted(axes["in"]))
        if channels_last:
            weight = layer.get_parameter("weight")
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    for parameter in smaller.parameters():
        parameter.grad = None
    _check_runs(model, smaller, example)
    return smaller


def apply_weight_masks(model: nn.Module, selection: WeightSelection) -> nn.Module:
    """Return a copy of the network with the selection's values, and zeros for the weights that it does not keep."""
    sparse = copy.deepcopy(model)
    set_values(sparse, selection.values)
    with torch.no_grad():
        for name, mask in selection.masks.items():
            parameter = _parameter(sparse, name, mask)
            parameter.masked_fill_(~mask.to(parameter.device), 0)
    return sparse


def removed_channels(groups: list[ChannelGroup], selection: ChannelSelection) -> dict[str, dict[Axis, set[int]]]:
    """Return for each layer that changes the channels removed from its ``out`` and its ``in`` axis."""
    by_name = {group.name: group for group in groups}
    removed: dict[str, dict[Axis, set[int]]] = defaultdict(lambda: {"out": set(), "in": set()})
    for name, kept in selection.kept.items():
        if name not in by_name:
            raise CannotCut(f"no channel group {name!r}{nearest(name, by_name)}")
        group = by_name[name]
        if not kept or not set(kept) <= set(range(group.size)):
            raise CannotCut(f"cannot keep units {list(kept)} of channel group {name!r}, which has {group.size}")
        removed_units = sorted(set(range(group.size)) - set(kept))
        for member in group.members if removed_units else ():
            removed[member.layer][member.axis].update(c for unit in removed_units for c in member.channels[unit])
    return dict(removed)


def set_values(model: nn.Module, values: Mapping[str, Tensor] | None) -> None:
    """Overwrite parameters by name, in place."""
    with torch.no_grad():
        for name, value in (values or {}).items():
            _parameter(model, name, value).copy_(value)


def _parameter(model: nn.Module, name: str, like: Tensor) -> nn.Parameter:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if name not in parameters:
        raise CannotCut(f"no parameter {name!r}{nearest(name, parameters)}")
    if parameters[name].shape != like.shape:
        raise CannotCut(f"parameter {name!r} has shape {tuple(parameters[name].shape)}, found {tuple(like.shape)}")
    return parameters[name]


def _is_channels_last(layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 4:
        return False
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def _check_runs(dense: nn.Module, smaller: nn.Module, example: Tensor) -> None:
    expected = _result_shapes(dense, example)
    try:
        shapes = _result_shapes(smaller, example)
    except (RuntimeError, ValueError) as error:
        raise CannotCut(
            f"the network does not run once it is cut ({str(error).splitlines()[0]}); its code may name a size that "
            "should be read from the tensor, as in view(-1, 400) for flatten(1)"
        ) from error
    if shapes != expected:
        raise CannotCut(f"once cut, the network's results have shapes {shapes}, not {expected}")


def _result_shapes(model: nn.Module, example: Tensor) -> list[tuple[int, ...]]:
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            return [tuple(t.shape) for t in tree_leaves(model.eval()(example)) if isinstance(t, Tensor)]
    finally:
        for module, training in modes.items():
            module.training = training

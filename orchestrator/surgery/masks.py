"""Pruning by zeros: the masked network that a cut one must equal, and weights held at zero during retraining."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from orchestrator.spec.errors import PrunesweepError, nearest
from orchestrator.surgery.groups import ChannelGroup
from orchestrator.surgery.layers import Convolution
from orchestrator.surgery.selection import ChannelSelection


class UnknownParameter(PrunesweepError, ValueError):
    """Raised for a mask of a parameter that the network does not have, or of another shape."""


def mask_channels(model: nn.Module, groups: Sequence[ChannelGroup], selection: ChannelSelection) -> nn.Module:
    """Return a copy of the network that computes, at full size, what the cut network computes.

    Removed units output zeros: their filters, biases, and the scale, shift and running mean of norms are zero. Where an
    activation such as a sigmoid maps zero to something else, the weights that read it are zero, too.
    """
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name, value in (selection.values or {}).items():
            masked.get_parameter(name).copy_(value)
        for group in groups:
            kept = set(selection.kept.get(group.name, range(group.size)))
            for member in group.members:
                removed = [c for unit, channels in enumerate(member.channels) if unit not in kept for c in channels]
                layer = masked.get_submodule(member.layer)
                if member.axis == "out":
                    _silence(layer, removed)
                elif not member.sees_zero:
                    _ignore(layer, removed)
    return masked


class WeightMasks:
    """Masks that hold pruned weights at zero while the others are trained.

    ``masks``: for each pruned parameter of ``model`` a boolean tensor of its shape, True for trained weights. Call
    :meth:`apply` after every optimizer step: momentum and weight decay move weights that have no gradient. Raises
    :class:`UnknownParameter`.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, mask in masks.items():
            if name not in parameters:
                raise UnknownParameter(f"no parameter {name!r} to mask{nearest(name, parameters)}")
            if parameters[name].shape != mask.shape:
                raise UnknownParameter(
                    f"parameter {name!r} has shape {tuple(parameters[name].shape)}, its mask {tuple(mask.shape)}"
                )
        # In the parameter's own type and layout: a multiply over all tensors at once then needs no conversion.
        self._masks = [
            torch.empty_like(parameters[name], requires_grad=False).copy_(mask) for name, mask in masks.items()
        ]
        self._parameters: list[Tensor] = [parameters[name] for name in masks]

    def apply(self) -> None:
        """Set pruned weights back to zero, in place."""
        if self._parameters:
            with torch.no_grad():
                torch._foreach_mul_(self._parameters, self._masks)


def _silence(layer: nn.Module, channels: list[int]) -> None:
    transposed = isinstance(layer, Convolution) and layer.transposed and layer.groups == 1
    for name in ("weight", "bias", "running_mean"):
        tensor = getattr(layer, name, None)
        if isinstance(tensor, Tensor):
            index = torch.tensor(channels, dtype=torch.long, device=tensor.device)
            tensor.index_fill_(1 if transposed and name == "weight" else 0, index, 0)


def _ignore(layer: nn.Module, channels: list[int]) -> None:
    weight = layer.get_parameter("weight")
    if not isinstance(layer, Convolution) or layer.groups == 1:
        axis = 0 if isinstance(layer, Convolution) and layer.transposed else 1
        weight.index_fill_(axis, torch.tensor(channels, dtype=torch.long, device=weight.device), 0)
        return
    filters, reads = weight.shape[0] // layer.groups, weight.shape[1]
    for channel in channels:
        group, position = divmod(channel, reads)
        weight[group * filters : (group + 1) * filters, position] = 0

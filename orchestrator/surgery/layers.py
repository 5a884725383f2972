"""Properties of the layer types that surgery cuts."""

from __future__ import annotations

from typing import Literal

from torch import nn

Axis = Literal["out", "in"]
Convolution = nn.modules.conv._ConvNd
BatchNorm = nn.modules.batchnorm._BatchNorm
InstanceNorm = nn.modules.instancenorm._InstanceNorm


def is_depthwise(layer: nn.Module) -> bool:
    """Return whether a layer is a convolution with one input channel an output channel."""
    return isinstance(layer, Convolution) and layer.in_channels == layer.out_channels == layer.groups > 1


def drops_whole_groups(layer: nn.Module) -> bool:
    """Return whether a grouped convolution shrinks by whole groups, or by the same positions in every group.

    Both leave a valid convolution; the one with the finer steps is used.
    """
    if not isinstance(layer, Convolution) or layer.groups == 1:
        return False
    return bool(layer.groups >= max(layer.in_channels, layer.out_channels) // layer.groups)

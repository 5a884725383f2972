"""What surgery needs to know about the kinds of layers it cuts."""

from __future__ import annotations

from typing import Literal

from torch import nn

Axis = Literal["out", "in"]
Convolution = nn.modules.conv._ConvNd
BatchNorm = nn.modules.batchnorm._BatchNorm
InstanceNorm = nn.modules.instancenorm._InstanceNorm


def is_depthwise(layer: nn.Module) -> bool:
    """One input channel makes one output channel."""
    return isinstance(layer, Convolution) and layer.in_channels == layer.out_channels == layer.groups > 1


def drops_whole_groups(layer: nn.Module) -> bool:
    """Whether a grouped convolution shrinks by whole groups; else by the same positions in every group.

    Both leave a valid convolution; whichever has the finer steps is taken.
    """
    if not isinstance(layer, Convolution) or layer.groups == 1:
        return False
    return bool(layer.groups >= max(layer.in_channels, layer.out_channels) // layer.groups)

"""ResNet-20, 32, 56 and 110 for CIFAR, with parameter-free shortcuts (option A)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.models.limits import require_size

_SMALLEST = 4
"""Smallest image edge in pixels: two strides of 2 leave one pixel."""


def resnet20(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """ResNet-20 for CIFAR, option-A shortcuts: 269,722 parameters, 40.55 M MACs; images from 4x4 pixels."""
    require_size("resnet20", minimum=_SMALLEST, image_size=image_size)
    return CifarResNet(20, num_classes=num_classes, in_channels=in_channels)


def resnet32(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """ResNet-32 for CIFAR, option-A shortcuts: 464,154 parameters, 68.86 M MACs; images from 4x4 pixels."""
    require_size("resnet32", minimum=_SMALLEST, image_size=image_size)
    return CifarResNet(32, num_classes=num_classes, in_channels=in_channels)


def resnet56(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """ResNet-56 for CIFAR, option-A shortcuts: 853,018 parameters, 125.49 M MACs; images from 4x4 pixels."""
    require_size("resnet56", minimum=_SMALLEST, image_size=image_size)
    return CifarResNet(56, num_classes=num_classes, in_channels=in_channels)


def resnet110(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """ResNet-110 for CIFAR, option-A shortcuts: 1,727,962 parameters, 252.89 M MACs; images from 4x4 pixels."""
    require_size("resnet110", minimum=_SMALLEST, image_size=image_size)
    return CifarResNet(110, num_classes=num_classes, in_channels=in_channels)


class ZeroPadShortcut(nn.Module):
    """Option A shortcut: takes every second pixel and appends C zero channels: N x C x H x W to N x 2C x H/2 x W/2.

    The zeros are ``0 * x`` rather than padding, so that a dependency tracer sees a concatenation: output channels ``i``
    and ``C + i`` belong to input channel ``i``. The shortcut then still fits where channels of a residual stream are
    removed; padding by a fixed number of channels would not.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, ::2, ::2]
        return torch.cat([x, 0 * x], dim=1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a shortcut; ``stride`` 2 halves the map, doubles the width."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = ZeroPadShortcut() if stride == 2 else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        result: Tensor = self.relu2(y + self.shortcut(x))
        return result


class CifarResNet(nn.Module):
    """A 3x3 stem, three stages of ``(depth - 2) / 6`` blocks of 16, 32 and 64 channels, average pooling, one FC.

    Layers ``conv1``, ``layer1.0.conv1``, ``layer1.0.conv2``, ..., ``fc``. Channels of every layer can be pruned. The
    first convolution of a block is free; the residual streams of the three stages are coupled by the shortcuts: channel
    ``i`` of the first stage is removed together with ``i, 16 + i`` of the second and ``i, 16 + i, 32 + i, 48 + i`` of
    the third.

    Source: "Deep Residual Learning for Image Recognition" (He et al. 2016), section 4.2, with the initialisation of
    Rethinking the Value of Network Pruning, N(0, sqrt(2 / (k^2 C_out))). Differs from the paper: nothing. Reproductions
    of "Pruning Filters" differ: they average 2x2 pixels in the shortcut and stop its gradient.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.flatten(self.avgpool(x)))
        return logits


def _stage(in_channels: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))

"""Pre-activation residual networks for CIFAR: ResNet-164 and WideResNet-28-10."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from orchestrator.models.limits import require_size

_SMALLEST = 4
"""Smallest image edge in pixels: two strides of 2 leave one pixel."""


def resnet164(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """ResNet-164 for CIFAR, pre-activation bottlenecks: 1,703,258 parameters, 247.6 M MACs; images from 4x4 pixels.

    Layers ``conv1``, ``layer1.0.conv1`` to ``layer3.17.conv3``, ``layer1.0.shortcut``, ..., ``bn``, ``fc``.

    Source: the network of Network Slimming (Liu et al. 2017), section 4.1, as in its code: stages of 64, 128 and 256
    channels, a 1x1 convolution as shortcut that reads the stream before its normalisation, batch-norm scales of 0.5.
    The 1.71 M parameters in its README are these plus the 8,080 entries of its channel-selection layers.
    """
    require_size("resnet164", minimum=_SMALLEST, image_size=image_size)
    model = PreactivationResNet(
        Bottleneck, widths=(16, 32, 64), blocks=18, num_classes=num_classes, in_channels=in_channels
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.5)
    return model


def wrn_28_10(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """WideResNet-28-10 for CIFAR: 36,479,194 parameters, 5,243 M MACs; images from 4x4 pixels.

    Layers ``conv1``, ``layer1.0.conv1`` to ``layer3.3.conv2``, ``layer1.0.shortcut``, ..., ``bn``, ``fc``.
    Source: "Wide Residual Networks" (Zagoruyko and Komodakis 2016), table 1, k = 10, without dropout.
    """
    require_size("wrn_28_10", minimum=_SMALLEST, image_size=image_size)
    return PreactivationResNet(
        WideBlock, widths=(160, 320, 640), blocks=4, num_classes=num_classes, in_channels=in_channels
    )


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each after batch normalisation and ReLU; returns ``4 * channels`` channels."""

    def __init__(self, in_channels: int, channels: int, stride: int, first: bool) -> None:
        super().__init__()
        self.out_channels = 4 * channels
        self.bn1, self.relu1 = nn.BatchNorm2d(in_channels), nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(channels), nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn3, self.relu3 = nn.BatchNorm2d(channels), nn.ReLU()
        self.conv3 = nn.Conv2d(channels, self.out_channels, 1, bias=False)
        self.shortcut = nn.Conv2d(in_channels, self.out_channels, 1, stride=stride, bias=False) if first else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu1(self.bn1(x)))
        y = self.conv2(self.relu2(self.bn2(y)))
        y = self.conv3(self.relu3(self.bn3(y)))
        result: Tensor = y + (x if self.shortcut is None else self.shortcut(x))
        return result


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after batch normalisation and ReLU; a projecting shortcut reads the first ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int, first: bool) -> None:
        super().__init__()
        self.out_channels = channels
        self.bn1, self.relu1 = nn.BatchNorm2d(in_channels), nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(channels), nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False) if first else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        y = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        result: Tensor = y + (x if self.shortcut is None else self.shortcut(active))
        return result


Block = Callable[[int, int, int, bool], Bottleneck | WideBlock]


class PreactivationResNet(nn.Module):
    """A 3x3 stem of 16 filters, three stages of ``blocks`` blocks, batch norm and ReLU, average pooling, one FC."""

    def __init__(self, block: Block, *, widths: Sequence[int], blocks: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        channels = 16
        for stage, width in enumerate(widths, start=1):
            layers: list[Bottleneck | WideBlock] = []
            for i in range(blocks):
                layers.append(block(channels, width, 2 if stage > 1 and i == 0 else 1, i == 0))
                channels = layers[-1].out_channels
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
        self.bn, self.relu = nn.BatchNorm2d(channels), nn.ReLU()
        self.avgpool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in ("layer1", "layer2", "layer3"):
            x = self.get_submodule(stage)(x)
        logits: Tensor = self.fc(self.flatten(self.avgpool(self.relu(self.bn(x)))))
        return logits

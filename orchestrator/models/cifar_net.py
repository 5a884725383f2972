"""Cifar-Net: the small convolutional network that Caffe trains on CIFAR-10."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from orchestrator.models.limits import require_size

_SMALLEST = 8
"""Smallest image edge in pixels: three pools leave one pixel."""


def cifar_net(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Cifar-Net in Caffe's form: three 5x5 convolutions, two FC; 145,578 parameters, 12.35 M MACs on CIFAR-10.

    Layers ``conv1``, ``conv2``, ``conv3`` of 32, 32 and 64 filters, each followed by a 3x3 pool of stride 2 (the first
    one max, then ReLU; the others ReLU, then average), ``fc1`` of 64 units and ``fc2``, with nothing between these two;
    images from 8x8 pixels.

    Source: Caffe, examples/cifar10, cifar10_quick. MLPrune and L-OBS say only that their Cifar-Net has three
    convolutions and two FC; this is the published network of that shape. Differs from Caffe: weights are initialised
    for ReLU networks (He et al. 2015), not from Gaussians of 0.0001 to 0.1, which need Caffe's learning rates.
    """
    require_size("cifar_net", minimum=_SMALLEST, image_size=image_size)
    pixels = image_size
    for _ in range(3):
        pixels = -(-(pixels - 3) // 2) + 1  # Caffe's pools round sizes up
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, 32, 5, padding=2),
            pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 32, 5, padding=2),
            relu2=nn.ReLU(),
            pool2=nn.AvgPool2d(3, stride=2, ceil_mode=True),
            conv3=nn.Conv2d(32, 64, 5, padding=2),
            relu3=nn.ReLU(),
            pool3=nn.AvgPool2d(3, stride=2, ceil_mode=True),
            flatten=nn.Flatten(),
            fc1=nn.Linear(64 * pixels**2, 64),
            fc2=nn.Linear(64, num_classes),
        )
    )
    for module in model:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return model

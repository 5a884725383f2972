"""VGG-16, VGG-19 and VGG-like for CIFAR, with small classifiers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from orchestrator.models.limits import require_size

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGG19 = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)
_SMALLEST = 16
"""Smallest image edge in pixels: four pools leave one pixel."""


def vgg16(*, num_classes: int, in_channels: int, image_size: int, batch_norm: bool = True) -> nn.Module:
    """VGG-16 for CIFAR: 13 convolutions with batch normalisation, FC 512; 14,987,722 parameters, 313.46 M MACs.

    Layers ``conv1_1`` to ``conv5_3`` (each followed by ``bn1_1``, ``relu1_1`` and so on), ``fc1``, ``fc2``; images from
    16x16 pixels. ``batch_norm: false`` omits normalisation everywhere and gives the convolutions biases:
    14,982,474 parameters; the accuracies of functionality-oriented pruning suggest such a network.

    Source: "Pruning Filters for Efficient ConvNets" (Li et al. 2017), section 4.1, with the initialisation of
    Rethinking the Value of Network Pruning (batch-norm scale 0.5, FC N(0, 0.01)).
    """
    require_size("vgg16", minimum=_SMALLEST, image_size=image_size)
    return vgg_of_widths(VGG16, hidden=512, num_classes=num_classes, in_channels=in_channels, batch_norm=batch_norm)


def vgg19(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """VGG-19 for CIFAR: 16 convolutions with batch normalisation, one FC; 20,035,018 parameters, 398.1 M MACs.

    Layers ``conv1_1`` to ``conv5_4`` (each followed by ``bn1_1``, ``relu1_1`` and so on), ``fc``; images from 16x16
    pixels. Source: "Learning Efficient Convolutional Networks through Network Slimming" (Liu et al. 2017), section 4.1,
    with its batch-norm scale of 0.5; also the VGG-19 of MaskConvNet.
    """
    require_size("vgg19", minimum=_SMALLEST, image_size=image_size)
    return vgg_of_widths(VGG19, hidden=None, num_classes=num_classes, in_channels=in_channels)


def vgg_like(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """VGG-like for CIFAR: 13 convolutions, FC 512; 14,977,728 weights, 14,987,722 parameters, 313.46 M MACs.

    The layers of ``vgg16``, but with a max pool after the last convolution as well. Source: "Variational Dropout
    Sparsifies Deep Neural Networks" (Molchanov et al. 2017), section 5.3, after Zagoruyko's VGG for CIFAR; the VGG-like
    of AutoPrune, section 4. Differs from Zagoruyko's: no dropout; variational dropout replaces it.
    """
    require_size("vgg_like", minimum=_SMALLEST, image_size=image_size)
    return vgg_of_widths(VGG16, hidden=512, num_classes=num_classes, in_channels=in_channels, last_pool="max")


def vgg_of_widths(
    blocks: Sequence[Sequence[int]],
    *,
    hidden: int | None,
    num_classes: int,
    in_channels: int,
    batch_norm: bool = True,
    last_pool: Literal["average", "max"] = "average",
) -> nn.Sequential:
    """Return a chain of 3x3 convolutions with these numbers of filters, with a 2x2 max pool between blocks.

    Global pooling (on 32x32 images: over 2x2 maps) precedes the classifier: one layer ``fc``, or, with ``hidden``
    units, ``fc1``, batch normalisation, ReLU and ``fc2``. Without ``batch_norm`` the convolutions have biases.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = in_channels
    for block, widths in enumerate(blocks, start=1):
        if block > 1:
            layers[f"pool{block - 1}"] = nn.MaxPool2d(2)
        for position, filters in enumerate(widths, start=1):
            layers[f"conv{block}_{position}"] = nn.Conv2d(channels, filters, 3, padding=1, bias=not batch_norm)
            if batch_norm:
                layers[f"bn{block}_{position}"] = nn.BatchNorm2d(filters)
            layers[f"relu{block}_{position}"] = nn.ReLU()
            channels = filters
    if last_pool == "max":
        layers["maxpool"] = nn.AdaptiveMaxPool2d(1)
    else:
        layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    if hidden is None:
        layers["fc"] = nn.Linear(channels, num_classes)
    else:
        layers["fc1"] = nn.Linear(channels, hidden)
        if batch_norm:
            layers["bn_fc1"] = nn.BatchNorm1d(hidden)
        layers["relu_fc1"] = nn.ReLU()
        layers["fc2"] = nn.Linear(hidden, num_classes)
    model = nn.Sequential(layers)
    model.apply(_initialise if batch_norm else _initialise_without_norms)
    return model


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.constant_(module.weight, 0.5)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def _initialise_without_norms(module: nn.Module) -> None:
    """He initialisation by fan_in: it alone keeps the scale of the signal through thirteen layers."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]

"""AlexNet as Caffe trains it: grouped convolutions, local response normalisation, dropout."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from orchestrator.models.limits import require_size
from orchestrator.plugins import OpenShare

_SMALLEST = 39
"""Smallest image edge in pixels: the first convolution leaves 8x8, three pools leave one pixel."""
_POSITIVE_BIASES = ("conv2", "conv4", "conv5", "fc1", "fc2")


def alexnet(*, num_classes: int, in_channels: int, image_size: int, dropout: OpenShare = 0.5) -> nn.Module:
    """AlexNet in Caffe's grouped form: 60,954,656 weights, 60,965,224 parameters, 724.4 M MACs at 227x227 pixels.

    Layers ``conv1`` to ``conv5`` (the second, fourth and fifth in two groups; local response normalisation after the
    first two), ``fc1``, ``fc2``, ``fc3``; images from 39x39 pixels; 224 and 227 give layers of the same size.
    ``dropout`` is the rate of the two hidden FC layers: MLPrune lowers it from 0.5 to 0.4 and 0.3 as sparsity grows
    (its Table 3). Response normalisation mixes neighbouring channels, so channels of the first two convolutions
    cannot be removed; single weights of all layers can.

    Source: Caffe, models/bvlc_alexnet, after Krizhevsky et al. 2012, with its Gaussian initialisation; the network of
    Han et al., Dynamic Network Surgery, L-OBS, MLPrune and AutoPrune. ``torchvision:alexnet`` is a different network.
    """
    require_size("alexnet", minimum=_SMALLEST, image_size=image_size)
    pixels = (image_size - 11) // 4 + 1
    for _ in range(3):
        pixels = -(-(pixels - 3) // 2) + 1  # Caffe's pools round sizes up
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(in_channels, 96, 11, stride=4),
        relu1=nn.ReLU(),
        norm1=nn.LocalResponseNorm(5, k=1.0),
        pool1=nn.MaxPool2d(3, stride=2, ceil_mode=True),
        conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2),
        relu2=nn.ReLU(),
        norm2=nn.LocalResponseNorm(5, k=1.0),
        pool2=nn.MaxPool2d(3, stride=2, ceil_mode=True),
        conv3=nn.Conv2d(256, 384, 3, padding=1),
        relu3=nn.ReLU(),
        conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2),
        relu4=nn.ReLU(),
        conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2),
        relu5=nn.ReLU(),
        pool5=nn.MaxPool2d(3, stride=2, ceil_mode=True),
        flatten=nn.Flatten(),
        fc1=nn.Linear(256 * pixels**2, 4096),
        relu_fc1=nn.ReLU(),
        dropout1=nn.Dropout(dropout),
        fc2=nn.Linear(4096, 4096),
        relu_fc2=nn.ReLU(),
        dropout2=nn.Dropout(dropout),
        fc3=nn.Linear(4096, num_classes),
    )
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.005 if name in ("fc1", "fc2") else 0.01)
            nn.init.constant_(layer.bias, 0.1 if name in _POSITIVE_BIASES else 0.0)  # type: ignore[arg-type]
    return nn.Sequential(layers)

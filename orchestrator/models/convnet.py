"""The five-layer ConvNet of functionality-oriented filter pruning."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from orchestrator.plugins import Positive

WIDTHS = (64, 128, 256, 512, 512)


def convnet(
    *, num_classes: int, in_channels: int, image_size: int, batch_norm: bool = False, width: Positive = 1.0
) -> nn.Module:
    """ConvNet: VGG with one 3x3 convolution a block, of 64, 128, 256, 512 and 512 filters on maps of 32, 16, 8, 4, 2.

    Layers ``conv1_1``, ``conv2_1``, ``conv3_1``, ``conv4_1``, ``conv5_1``, ``fc``. A 2x2 max pool follows each of the
    first four blocks, except where the map has one pixel already, so images may have any size; global average pooling
    precedes the classifier. ``batch_norm`` adds batch normalisation after every convolution (which then has no bias).
    ``width`` multiplies the number of filters of every layer, rounded, at least one.

    Source: "Interpretable Convolutional Filter Pruning" (Qin et al., arXiv 1810.07322), table 3, for widths and map
    sizes. Differs from the paper: kernel size, the pooling before the classifier and the absence of batch normalisation
    are not stated there; its accuracy (90.05 %) suggests the last.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, pixels = in_channels, image_size
    for block, filters in enumerate((max(1, round(width * w)) for w in WIDTHS), start=1):
        layers[f"conv{block}_1"] = nn.Conv2d(channels, filters, 3, padding=1, bias=not batch_norm)
        if batch_norm:
            layers[f"bn{block}_1"] = nn.BatchNorm2d(filters)
        layers[f"relu{block}_1"] = nn.ReLU()
        if block < len(WIDTHS) and pixels >= 2:
            layers[f"pool{block}"] = nn.MaxPool2d(2)
            pixels //= 2
        channels = filters
    layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, num_classes)
    model = nn.Sequential(layers)
    for module in model:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model

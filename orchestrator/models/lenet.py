"""LeNet-300-100 and LeNet-5 as Caffe trains them on MNIST."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from orchestrator.models.limits import require_size


def lenet_300_100(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """LeNet-300-100: two hidden fully connected layers with ReLU on the flattened image; 266,610 parameters on MNIST.

    Layers ``fc1``, ``fc2``, ``fc3``. Source: LeCun et al. 1998; the form of Dynamic Network Surgery (Guo et al. 2016),
    which MLPrune and AutoPrune compare with.
    """
    model = nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(in_channels * image_size**2, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, num_classes),
        )
    )
    model.apply(_initialise_as_caffe)
    return model


def lenet5(*, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """LeNet-5 in Caffe's form: 5x5 convolutions without padding or ReLU, max pools; 431,080 parameters on MNIST.

    Layers ``conv1``, ``conv2``, ``fc1``, ``fc2``; images from 16x16 pixels. Source: Caffe, examples/mnist, the network
    of Dynamic Network Surgery (Guo et al. 2016), MLPrune and AutoPrune.
    """
    require_size("lenet5", minimum=16, image_size=image_size)
    after_pool1 = (image_size - 4) // 2
    after_pool2 = (after_pool1 - 4) // 2
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(50 * after_pool2**2, 500),
            relu1=nn.ReLU(),
            fc2=nn.Linear(500, num_classes),
        )
    )
    model.apply(_initialise_as_caffe)
    return model


def _initialise_as_caffe(module: nn.Module) -> None:
    """Initialise weights by Caffe's "xavier" filler, uniform in +-sqrt(3 / fan_in), and biases with zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        # torch's xavier_uniform_ divides by the mean of fan_in and fan_out, Caffe's default by fan_in alone.
        nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
        if module.bias is not None:
            nn.init.zeros_(module.bias)

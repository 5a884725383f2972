"""Multiply-adds of one forward pass, counted during the pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

Convolution = nn.modules.conv._ConvNd


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Return the multiply-adds of convolutions and linear layers for one image, which pruning papers print as FLOPs."""
    return sum(layer_macs(model, example).values())


def layer_macs(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Return the multiply-adds of each convolution and linear layer for one image of the batch ``example``, by name.

    Biases, norms, activations and pooling are not counted; a layer that runs twice counts twice, one that does not run
    counts 0. The model is not changed.
    """
    counts = {name: 0 for name, module in model.named_modules() if isinstance(module, Convolution | nn.Linear)}
    handles = []
    modes = {module: module.training for module in model.modules()}
    try:
        for name in counts:
            hook = _counter(name, counts)
            handles.append(model.get_submodule(name).register_forward_hook(hook))
        model.eval()
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    return {name: count // example.shape[0] for name, count in counts.items()}


def _counter(name: str, counts: dict[str, int]) -> Any:
    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, Convolution):
            window = math.prod(layer.kernel_size)
            if layer.transposed:
                counts[name] += inputs[0].numel() * layer.out_channels // layer.groups * window
            else:
                counts[name] += output.numel() * layer.in_channels // layer.groups * window
        else:
            counts[name] += output.numel() * inputs[0].shape[-1]

    return count

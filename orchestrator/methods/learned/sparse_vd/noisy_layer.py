"""Layers with Gaussian weights, each with a mean and a variance of its own (sparse variational dropout)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.methods.parts.reparametrization import Reparametrization

_LIMIT = 8.0
"""log alpha is clipped to this on both sides."""
_TINY = 1e-8
_KL = (0.63576, 1.87320, 1.48695)


def divergence(log_alpha: Tensor) -> Tensor:
    """Return the KL of each weight's posterior from the log-uniform prior, up to a constant (approximation)."""
    k1, k2, k3 = _KL
    return k1 - k1 * torch.sigmoid(k2 + k3 * log_alpha) + 0.5 * F.softplus(-log_alpha)


class NoisyLayer:
    """A layer with noise on its output in training, and without the weights past the threshold in evaluation.

    ``start``: initial log sigma^2; ``threshold``: log alpha from which a weight is left out (in training too with
    ``train_clip``).
    """

    def __init__(
        self,
        name: str,
        layer: nn.Conv2d | nn.Linear,
        generator: torch.Generator,
        *,
        start: float,
        threshold: float,
        train_clip: bool,
    ) -> None:
        self.name = name
        self._layer = layer
        self._threshold = threshold
        self._train_clip = train_clip
        self._generator = generator
        self.log_variance = torch.full_like(layer.weight, start, requires_grad=True)
        self._reparametrization = Reparametrization(layer, self._mean)
        self._handle = layer.register_forward_hook(self._with_noise)

    def log_alpha(self) -> Tensor:
        """Return the log of the noise's variance over the squared weight, clipped. Shape of the weight."""
        weight = self._layer.get_parameter("weight")
        return (self.log_variance - torch.log(weight.square() + _TINY)).clamp(-_LIMIT, _LIMIT)

    def variance(self, inputs: Tensor) -> Tensor:
        """Return the variance of every element of the output. Shape of the output."""
        weight = self._layer.get_parameter("weight")
        weight_variance = self.log_alpha().exp() * weight.square()
        if isinstance(self._layer, nn.Linear):
            return F.linear(inputs.square(), weight_variance)
        variance: Tensor = self._layer._conv_forward(inputs.square(), weight_variance, None)
        return variance

    def remove(self) -> None:
        self._reparametrization.remove()
        self._handle.remove()

    def _mean(self, weight: Tensor) -> Tensor:
        if self._layer.training and not self._train_clip:
            return weight
        return weight * (self.log_alpha().detach() < self._threshold)

    def _with_noise(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not module.training:
            return output
        variance = self.variance(inputs[0])
        noise = torch.empty_like(variance).normal_(generator=self._generator)
        return output + torch.sqrt(variance + _TINY) * noise

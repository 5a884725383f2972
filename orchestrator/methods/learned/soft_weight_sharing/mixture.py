"""Mixtures of Gaussians over the weights of a network (soft weight-sharing)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_MERGING_PASSES = 3
_CHUNK = 2**18


def log_joint(weights: Tensor, means: Tensor, variances: Tensor, shares: Tensor) -> Tensor:
    """Return log pi_j N(w; mu_j, var_j). weights: any shape; returns that shape and (components,)."""
    scaled = (weights[..., None] - means).square() / variances
    return shares.log() - 0.5 * (math.log(2 * math.pi) + variances.log() + scaled)


def negative_log_likelihood(weights: Tensor, means: Tensor, variances: Tensor, shares: Tensor) -> Tensor:
    """Return -sum_i log sum_j pi_j N(w_i; mu_j, var_j), a scalar."""
    return -log_joint(weights, means, variances, shares).logsumexp(-1).sum()


def divergence(mean: float, variance: float, other_mean: float, other_variance: float) -> float:
    """Return the KL divergence of one Gaussian from another."""
    ratio = variance / other_variance
    return 0.5 * ((mean - other_mean) ** 2 / other_variance + ratio - 1 - math.log(ratio))


def merge(mixture: Mixture, threshold: float, by: Literal["variance", "precision"]) -> Mixture:
    """Merge components whose KL is below the threshold, in three passes: shares add, the rest is averaged by shares."""
    merged = [list(values) for values in zip(*(part.double().tolist() for part in mixture.parts), strict=True)]
    for _ in range(_MERGING_PASSES):
        i = 0
        while i < len(merged):
            for j in range(len(merged) - 1, i, -1):
                if divergence(*merged[i][:2], *merged[j][:2]) < threshold:
                    merged[i] = _joined(merged[i], merged.pop(j), by)
            i += 1
    means, variances, shares = mixture.means.new_tensor(merged).T
    return Mixture(means, variances, shares)


def _joined(a: list[float], b: list[float], by: Literal["variance", "precision"]) -> list[float]:
    share = a[2] + b[2]
    first, second = a[2] / share, b[2] / share
    mean = first * a[0] + second * b[0]
    if by == "variance":
        return [mean, first * a[1] + second * b[1], share]
    return [mean, 1 / (first / a[1] + second / b[1]), share]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Gaussians: means, variances and shares of shape (components,); the zero component has the mean nearest 0."""

    means: Tensor
    variances: Tensor
    shares: Tensor

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.means, self.variances, self.shares

    @property
    def zero(self) -> int:
        return int(self.means.abs().argmin())

    def cost(self, tensors: Iterable[Tensor]) -> Tensor:
        """Return the negative log likelihood of all tensors, a scalar; differentiable."""
        tensors = list(tensors)
        chunks = [chunk for tensor in tensors for chunk in torch.split(tensor.flatten(), _CHUNK)]
        if len(chunks) == len(tensors):
            costs = [negative_log_likelihood(chunk, *self.parts) for chunk in chunks]
        else:  # millions of weights times 16 components do not fit into memory for the backward pass
            costs = [
                checkpoint(negative_log_likelihood, chunk, *self.parts, use_reentrant=False, preserve_rng_state=False)
                for chunk in chunks
            ]
        return torch.stack(costs).sum()

    def log_odds(self, weights: Tensor) -> Tensor:
        """Return the log odds of the likeliest other component against the zero component. Shape of the weights."""
        joint = log_joint(weights, *self.parts)
        zeros = joint[..., self.zero].clone()
        joint[..., self.zero] = -math.inf
        return joint.amax(-1) - zeros

    def quantized(self, weights: Tensor) -> Tensor:
        """Return the mean of each weight's most responsible component, 0 for the zero component."""
        means = self.means.clone()
        means[self.zero] = 0
        nearest = means[log_joint(weights, *self.parts).argmax(-1)]
        return torch.where(self.log_odds(weights) > 0, nearest, 0.0)

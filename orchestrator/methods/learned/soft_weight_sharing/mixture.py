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
    """log pi_j N(w; mu_j, var_j). weights: any shape; returns that shape and (components,)."""
    scaled = (weights[..., None] - means).square() / variances
    return shares.log() - 0.5 * (math.log(2 * math.pi) + variances.log() + scaled)


def negative_log_likelihood(weights: Tensor, means: Tensor, variances: Tensor, shares: Tensor) -> Tensor:
    """-sum_i log sum_j pi_j N(w_i; mu_j, var_j), a scalar."""
    return -log_joint(weights, means, variances, shares).logsumexp(-1).sum()


def divergence(mean: float, variance: float, other_mean: float, other_variance: float) -> float:
    """KL of one Gaussian from another."""
    ratio = variance / other_variance
    return 0.5 * ((mean - other_mean) ** 2 / other_variance + ratio - 1 - math.log(ratio))


def merge(mixture: Mixture, threshold: float, by: Literal["variance", "precision"]) -> Mixture:
    """Join components whose KL is below the threshold, in three passes: shares add, the rest is averaged by shares."""
    left = [list(values) for values in zip(*(part.double().tolist() for part in mixture.parts), strict=True)]
    for _ in range(_MERGING_PASSES):
        i = 0
        while i < len(left):
            for j in range(len(left) - 1, i, -1):
                if divergence(*left[i][:2], *left[j][:2]) < threshold:
                    left[i] = _joined(left[i], left.pop(j), by)
            i += 1
    means, variances, shares = mixture.means.new_tensor(left).T
    return Mixture(means, variances, shares)


def _joined(one: list[float], two: list[float], by: Literal["variance", "precision"]) -> list[float]:
    share = one[2] + two[2]
    first, second = one[2] / share, two[2] / share
    mean = first * one[0] + second * two[0]
    if by == "variance":
        return [mean, first * one[1] + second * two[1], share]
    return [mean, 1 / (first / one[1] + second / two[1]), share]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Gaussians: means, variances and shares of shape (components,); the zeros' component is the mean nearest 0."""

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
        """The negative log likelihood of all tensors, a scalar; differentiable."""
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
        """Of the likeliest component with a mean of its own against the zeros'. Shape of the weights."""
        joint = log_joint(weights, *self.parts)
        zeros = joint[..., self.zero].clone()
        joint[..., self.zero] = -math.inf
        return joint.amax(-1) - zeros

    def quantized(self, weights: Tensor) -> Tensor:
        """Each weight's most responsible component's mean, 0 for the zeros'."""
        means = self.means.clone()
        means[self.zero] = 0
        found = means[log_joint(weights, *self.parts).argmax(-1)]
        return torch.where(self.log_odds(weights) > 0, found, 0.0)

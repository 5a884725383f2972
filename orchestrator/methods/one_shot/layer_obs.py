"""Layer-wise optimal brain surgeon (L-OBS, Dong et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores
from orchestrator.methods.one_shot.curvature import (
    damped_inverse,
    from_blocks,
    input_covariances,
    layers,
    mask_by_block,
    some_images,
    weights_by_block,
)
from orchestrator.plugins import Count, Positive
from orchestrator.surgery.selection import Scope, Selection, WeightSelection


@dataclass
class LayerwiseOptimalBrainSurgeon(Method):
    """Weights that change their layer's output least are removed first, layer by layer; the others compensate for them.

    Paper 002, section 2.2 (L-OBS): H = E[x x^T] over training images with a 1 for the bias, patches for convolutions;
    sensitivity of weight i of a unit = w_i^2 / (2 [H^-1]_ii), sorted once for each layer; weights are removed in that
    order, each removal adds -w_i / [H^-1]_ii H^-1[:, i] to its unit; removed weights are zeroed again in the end. In
    float64.

    Differs from the paper: H is summed over positions, which changes no layer's order; its inverse is that of H with
    ``damping`` times its mean eigenvalue on the diagonal and not Woodbury's from 1e6 I; each group of a
    convolution has its own H, but the order is the layer's; biases change, but stay.
    """

    damping: Positive = 0.1
    """Damping of H, in its mean eigenvalues. With less, similar inputs all look dispensable at once."""
    images: Count = 10000
    """Training images that H is computed from."""
    granularities: ClassVar[tuple[str, ...]] = ("weights",)
    default_scope: ClassVar[Scope] = "uniform"
    reads_data: ClassVar[bool] = True
    paper: ClassVar[str] = "002, section 2.2"

    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        inverses = self._inverses(model, task)
        return {
            name: from_blocks(layer, sensitivities(weights_by_block(layer), inverses[name]))[0]
            for name, layer in layers(model)
        }

    def compensate(self, model: nn.Module, task: PruneTask, selection: Selection) -> Selection:
        assert isinstance(selection, WeightSelection)
        inverses = self._inverses(model, task)
        values: dict[str, Tensor] = {}
        for name, layer in layers(model):
            kept = mask_by_block(layer, selection.masks[name])
            weight, bias = from_blocks(layer, compensated(weights_by_block(layer), inverses[name], kept))
            values[name] = weight
            if bias is not None:
                values[name.removesuffix("weight") + "bias"] = bias
        return replace(selection, values=values)

    def _inverses(self, model: nn.Module, task: PruneTask) -> dict[str, Tensor]:
        covariances = input_covariances(model, some_images(task, self.images))
        return {name: damped_inverse(covariance, self.damping) for name, covariance in covariances.items()}


def sensitivities(weights: Tensor, inverse: Tensor) -> Tensor:
    """Return w^2 / (2 [H^-1]_ii), half the increase of the output's squared error. Shape (groups, out, in)."""
    return weights.square() / (2 * inverse.diagonal(dim1=-2, dim2=-1)[:, None])


def compensated(weights: Tensor, inverse: Tensor, kept: Tensor) -> Tensor:
    """Return the weights after removing those not ``kept`` one by one. Shapes (groups, out, in), inverse (g, in, in).

    Units are independent of each other: the k-th removals of all units are done at once.
    """
    rows = weights.flatten(0, 1).clone()
    removed = ~kept.flatten(0, 1)
    block = torch.arange(len(weights), device=weights.device).repeat_interleave(weights.shape[1])
    diagonal = inverse.diagonal(dim1=-2, dim2=-1)[block]
    order = sensitivities(weights, inverse).flatten(0, 1).masked_fill(~removed, torch.inf).argsort(dim=1, stable=True)
    count = removed.sum(1)
    for k in range(int(count.max())):
        column = order[:, k : k + 1]
        step = rows.gather(1, column) / diagonal.gather(1, column) * (k < count)[:, None]
        rows -= step * inverse[block, column[:, 0]]
    return rows.masked_fill(removed, 0).view_as(weights)

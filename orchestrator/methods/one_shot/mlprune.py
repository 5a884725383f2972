"""MLPrune: multi-layer pruning by a Kronecker-factored Fisher matrix (Zeng and Urtasun 2018)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores
from orchestrator.methods.one_shot.curvature import (
    KroneckerFactors,
    damped_inverse,
    from_blocks,
    kronecker_factors,
    layers,
    mask_by_block,
    some_images,
    weights_by_block,
)
from orchestrator.plugins import Count, Positive
from orchestrator.surgery.selection import Scope, Selection, WeightSelection


@dataclass
class MLPrune(Method):
    """Weights whose removal raises the loss least by a Kronecker-factored Fisher matrix are removed first, over all
    layers.

    Paper 002, section 2.1: A = E[a a^T] of a layer's input (with a 1 for the bias), G = E[g g^T] of the gradients at
    its output, labels drawn from the network's softmax, convolutions as in KFC; saliency = w_ij^2 / (2 [A^-1]_ii
    [G^-1]_jj); one threshold over all layers. The remaining weights change by -G^-1 C A^-1, with C_ij = w_ij /
    ([A^-1]_ii [G^-1]_jj) where a weight is removed and 0 elsewhere, unless that raises the loss on the calibration
    images.

    Differs from the paper, whose damping is not known: A + pi sqrt(eps) I and G + sqrt(eps) / pi I, pi^2 the ratio of
    the mean eigenvalues of A and G, eps = ``damping`` times their product. G is scaled, layer by layer, until the
    trace of A (x) G is that of single images' gradients: the one threshold compares layers. Grouped convolutions have
    factors for every group; biases stay. Weights removed in earlier steps stay in A and G.
    """

    damping: Positive = 0.1
    """Damping, in mean eigenvalues of A (x) G. With less, similar inputs all look dispensable at once."""
    images: Count = 10000
    """Training images that the factors are computed from."""
    compensation: bool = True
    """Change the remaining weights, where that lowers the loss."""
    granularities: ClassVar[tuple[str, ...]] = ("weights",)
    default_scope: ClassVar[Scope] = "global"
    reads_data: ClassVar[bool] = True
    paper: ClassVar[str] = "002, section 2.1"

    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        inverses = self._inverses(model, task)
        return {
            name: from_blocks(layer, weights_by_block(layer).square() / (2 * _diagonal(inverses[name])))[0]
            for name, layer in layers(model)
        }

    def compensate(self, model: nn.Module, task: PruneTask, selection: Selection) -> Selection:
        assert isinstance(selection, WeightSelection)
        if not self.compensation:
            return selection
        inverses = self._inverses(model, task)
        plain: dict[str, Tensor] = {}
        changed: dict[str, Tensor] = {}
        for name, layer in layers(model):
            kept = mask_by_block(layer, selection.masks[name])
            bias_name = name.removesuffix("weight") + "bias"
            for values, weights in (
                (plain, weights_by_block(layer) * kept),
                (changed, compensated(weights_by_block(layer), inverses[name], kept)),
            ):
                weight, bias = from_blocks(layer, weights)
                values[name] = weight
                if bias is not None:
                    values[bias_name] = bias
        if _loss(model, task, changed) > _loss(model, task, plain):
            return selection
        return replace(selection, values=changed)

    def _inverses(self, model: nn.Module, task: PruneTask) -> dict[str, KroneckerFactors]:
        factors = kronecker_factors(model, some_images(task, self.images), task.generator)
        # In mean eigenvalues, pi sqrt(eps) is sqrt(damping) of A's, and sqrt(eps) / pi is sqrt(damping) of G's.
        share = self.damping**0.5
        return {
            name: KroneckerFactors(damped_inverse(f.inputs, share), damped_inverse(f.gradients, share))
            for name, f in factors.items()
        }


def compensated(weights: Tensor, inverses: KroneckerFactors, kept: Tensor) -> Tensor:
    """Return W - G^-1 C A^-1 where a weight is kept, 0 elsewhere. Shape (groups, out, in)."""
    removed = torch.where(kept, 0.0, weights / _diagonal(inverses))
    return (weights - inverses.gradients @ removed @ inverses.inputs).masked_fill(~kept, 0)


def _diagonal(inverses: KroneckerFactors) -> Tensor:
    """Return [A^-1]_ii [G^-1]_jj. Shape (groups, out, in)."""
    inputs, gradients = (f.diagonal(dim1=-2, dim2=-1) for f in (inverses.inputs, inverses.gradients))
    return gradients[:, :, None] * inputs[:, None]


@torch.no_grad()
def _loss(model: nn.Module, task: PruneTask, values: dict[str, Tensor]) -> float:
    """Return the mean loss on the calibration images with other values for some parameters."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    losses = []
    for inputs, targets in task.calibration():
        logits = torch.func.functional_call(model, values, (inputs,))
        losses.append(task.loss(logits, targets))
    for module, mode in training.items():
        module.training = mode
    mean = float(torch.stack(losses).mean())
    return mean if mean == mean else torch.inf

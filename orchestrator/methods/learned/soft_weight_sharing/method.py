"""Soft weight-sharing (Ullrich et al. 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores, prunable_weights
from orchestrator.methods.learned.soft_weight_sharing.mixture import Mixture, merge
from orchestrator.plugins import Count, NonNegative, OpenShare, Positive
from orchestrator.spec.errors import PrunesweepError
from orchestrator.surgery.selection import Scope
from orchestrator.training.batch_norm import recompute_batch_norm
from orchestrator.training.loop import Batch

_TUTORIAL_STEPS = 7050
_HIGHEST_RAISE = 30.0


class NothingLeft(PrunesweepError, ValueError):
    """Raised where the mixture assigns every weight of the network to zero."""


@dataclass
class SoftWeightSharing(Method):
    """A learned mixture of Gaussians pulls all weights to a few values, most of them to zero.

    Comparators, section 5.1: added to the mean loss is tau / N (C + hyper-priors), with C = -sum_i log sum_j pi_j
    N(w_i; mu_j, var_j) over all weights; component 0 has mean 0 and share pi_0 throughout, the others' means and
    shares and all precisions P are trained; hyper-priors (1 - a) log P + b P. Afterwards components closer than
    ``merge_threshold`` (KL) are merged in three passes, the mean nearest to 0 becomes 0, and every weight takes the
    mean of its most responsible component: zeros are pruned. Scores are the log odds of the most
    responsible other component against that of the zeros. Defaults are the authors' tutorial's.

    With a sparsity in the target the lowest scores are removed; where the mixture has more zeros than that, the other
    zeros are retrained. Batch-norm statistics are recomputed for the new weights.

    Differs from the paper: biases have no prior; weights are trained by the recipe's optimizer and weight decay (the
    tutorial's: ``baseline: {optimizer: adam, lr: 5e-4}``), the mixture by Adam; a training shorter than the tutorial's
    7,050 steps raises the mixture's rates in proportion, up to 30-fold. In a training of some hundred steps, weights
    have no time to leave the zeros: without a sparsity in the target nearly all of them are removed (98 % after 110
    steps of SGD on a network that loses half its accuracy by it, with ``tau`` from 1e-4 to 3e-3 alike).

    Raises :class:`NothingLeft` where the target has no sparsity and no weight would stay.
    """

    components: Count = 16
    """Number of components, with the one at zero."""
    zero_share: OpenShare = 0.99
    """pi_0, the share of the component at zero (0.999 in the paper)."""
    tau: NonNegative = 0.003
    """Weight of the mixture's cost (0.05 in the paper)."""
    means_within: Positive | None = 0.6
    """Bound of the initial means, which are evenly spaced; None: over the weights' range, as in the paper."""
    deviation: Positive = 0.25
    """Initial standard deviation of every component."""
    zero_shape: Positive = 5e3
    zero_rate: NonNegative = 2.0
    """a and b of the hyper-prior on component 0's precision; a = 1, b = 0 is none."""
    shape: Positive = 250.0
    rate: NonNegative = 0.1
    """a and b for the other components."""
    mean_lr: Positive = 1e-4
    precision_lr: Positive = 3e-3
    mixing_lr: Positive = 3e-3
    merge_threshold: NonNegative = 1e-10
    merge_by: Literal["variance", "precision"] = "precision"
    """Whether merging averages the variance (the paper) or the precision (the tutorial) of two components."""
    sparse_epochs: Count | None = None
    """Epochs of the sparse training; None: as many as the dense training has."""
    granularities: ClassVar[tuple[str, ...]] = ("weights",)
    default_scope: ClassVar[Scope] = "global"
    trains: ClassVar[bool] = True
    training_state: ClassVar[tuple[str, ...]] = ("_means", "_log_precisions", "_log_mixing", "_optimizer")
    starts_from: ClassVar[Literal["scratch", "baseline"]] = "baseline"
    finds_sparsity: ClassVar[bool] = True
    paper: ClassVar[str] = "comparators, section 5"

    @torch.no_grad()
    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        self._task = task
        self._weights = dict(prunable_weights(model))
        parts = list(self._weights.values())
        low = -self.means_within if self.means_within else min(float(w.min()) for w in parts)
        high = self.means_within or max(float(w.max()) for w in parts)
        device = parts[0].device
        others = self.components - 1
        self._means = torch.linspace(low, high, others, device=device).requires_grad_()
        log_precision = -2 * math.log(self.deviation)
        self._log_precisions = torch.full((self.components,), log_precision, device=device).requires_grad_()
        self._log_mixing = torch.zeros(others, device=device).requires_grad_()
        raised = min(max(1.0, _TUTORIAL_STEPS / max(task.steps, 1)), _HIGHEST_RAISE)
        self._optimizer = torch.optim.Adam(
            [
                {"params": [self._means], "lr": self.mean_lr * raised},
                {"params": [self._log_precisions], "lr": self.precision_lr * raised},
                {"params": [self._log_mixing], "lr": self.mixing_lr * raised},
            ]
        )

    def mixture(self) -> Mixture:
        """Return the current prior; differentiable."""
        shares = (1 - self.zero_share) * self._log_mixing.softmax(0)
        return Mixture(
            torch.cat([self._means.new_zeros(1), self._means]),
            (-self._log_precisions).exp(),
            torch.cat([shares.new_full((1,), self.zero_share), shares]),
        )

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        mixture = self.mixture()
        log_p = self._log_precisions
        hyper = (1 - self.zero_shape) * log_p[0] + self.zero_rate * log_p[0].exp()
        hyper = hyper + ((1 - self.shape) * log_p[1:] + self.rate * log_p[1:].exp()).sum()
        return self.tau / self._task.training_size * (mixture.cost(self._weights.values()) + hyper)

    def after_step(self, model: nn.Module) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        merged = self._merged()
        return {name: merged.log_odds(weight) for name, weight in self._weights.items()}

    def keep(self, scores: Scores) -> dict[str, Tensor]:
        kept = {name: score > 0 for name, score in scores.items()}
        if not any(bool(mask.any()) for mask in kept.values()):
            raise NothingLeft(
                f"soft_weight_sharing takes all {sum(mask.numel() for mask in kept.values())} weights for zeros: "
                "train longer, or give target.sparsity"
            )
        return kept

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        merged = self._merged()
        for weight in self._weights.values():
            weight.copy_(merged.quantized(weight))
        recompute_batch_norm(model, (inputs for inputs, _ in self._task.calibration()))
        self._weights = {}
        del self._optimizer, self._task

    def _merged(self) -> Mixture:
        return merge(self.mixture(), self.merge_threshold, self.merge_by)

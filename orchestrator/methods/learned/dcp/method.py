"""DCP: discrimination-aware channel pruning (Zhuang et al. 2018)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores, first_images
from orchestrator.methods.learned.dcp.auxiliary_losses import AuxiliaryLosses
from orchestrator.methods.learned.dcp.consumers import Consumers
from orchestrator.methods.learned.dcp.layer_losses import layer_losses
from orchestrator.methods.parts.target_counts import target_counts
from orchestrator.plugins import Count, Natural, NonNegative, Positive
from orchestrator.surgery.selection import Scope
from orchestrator.training.loop import Batch

_MOMENTUM, _DECAY = 0.9, 1e-4


@dataclass
class DCP(Method):
    """Channels are added one by one to an empty layer, those on which the loss depends most first; the others are
    removed.

    Comparators, section 2: the dense network is trained on with auxiliary losses L_S (batch-norm, ReLU, mean, linear
    layer, cross-entropy) behind some convolutions. Then, group by group from the input: the weights that read its
    channels become 0; repeat: G = gradient of L = L_M + ``discrimination`` * L_S by them over the images, add the
    channels of largest norm of G, give them their weights back, and train the weights of those added for one pass. L_M
    is the mean squared distance of the consuming layers' outputs to those of the unpruned network, L_S the next
    auxiliary loss behind them, or the network's own. It ends when as many are added as the target keeps; without a
    sparsity in the target (DCP-Adapt), when L fell by no more than ``tolerance`` of its first value. Channels added
    first score highest; the trained weights stay in the network.

    Differs from the paper: all auxiliary losses are trained at once before anything is selected, and L_M has no factor
    1/2, both as in the authors' code; their gradients' share of the rate is not divided among segments; auxiliary
    losses are spread over convolutions, not blocks; channels with several consumers, such as those of residual sums,
    are selected too, by all of them together; selection uses 1024 images unless ``images`` is null, which takes all.
    """

    heads: Natural = 3
    """P, the auxiliary losses: 3 for ResNet-50 and -56, 2 for VGG and ResNet-18; 0 uses the network's own loss."""
    discrimination: NonNegative = 1.0
    """lambda, the weight of L_S."""
    norm: Literal["code", "paper"] = "code"
    """Norm of a channel's gradient: the sum of its kernels' l2 norms, or its Frobenius norm."""
    layer_lr: Positive = 0.01
    """Learning rate of the layers that consume the added channels."""
    tolerance: Positive = 1e-3
    """epsilon of DCP-Adapt."""
    channels_per_round: Count = 1
    images: Count | None = 1024
    """Images that the selection uses, at most the 1024 of calibration; None: the whole training set."""
    sparse_epochs: Count | None = 100
    """Epochs of the training with auxiliary losses; None: as many as the dense training has."""
    trains: ClassVar[bool] = True
    trains_for_target: ClassVar[bool] = True
    training_state: ClassVar[tuple[str, ...]] = ("_auxiliary.heads",)
    starts_from: ClassVar[Literal["scratch", "baseline"]] = "baseline"
    finds_sparsity: ClassVar[bool] = True
    default_scope: ClassVar[Scope] = "uniform"
    paper: ClassVar[str] = "comparators, section 2"

    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        self._auxiliary = AuxiliaryLosses(model, task.example, self.heads)

    def extra_parameters(self) -> Sequence[dict[str, Any]]:
        parameters = list(self._auxiliary.heads.parameters())
        return [{"params": parameters, "weight_decay": _DECAY}] if parameters else []

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        return self._auxiliary.weighted(batch.targets)

    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        """Return a score for each channel, and set the weights trained for the channels that were added."""
        self._auxiliary.detach()
        training = model.training
        model.eval()
        pruned = copy.deepcopy(model).requires_grad_(False)
        images = list(task.training()) if self.images is None else first_images(task.calibration(), self.images)
        stated = task.target.sparsity is not None or task.target.kept is not None
        counts = target_counts(task).tolist() if stated else [None] * len(task.groups)
        scores: dict[str, Tensor] = {}
        trained = []
        for group, count in zip(task.groups, counts, strict=True):
            consumers = Consumers(pruned, group)
            scores[group.name] = torch.zeros(group.size)
            if consumers.layers:
                losses = layer_losses(
                    model, pruned, list(consumers.layers), images, self._auxiliary, task.loss, self.discrimination
                )
                scores[group.name] = self._add_channels(consumers, losses, count)
                trained.append(consumers)
        for consumers in trained:
            consumers.write_to(model)
        model.train(training)
        return scores

    def keep(self, scores: Scores) -> Mapping[str, Tensor]:
        return {name: score > 1 for name, score in scores.items()}

    def finish(self, model: nn.Module) -> None:
        self._auxiliary.detach()
        del self._auxiliary

    def _add_channels(self, consumers: Consumers, losses: list[Callable[[], Tensor]], count: int | None) -> Tensor:
        """Select a group's units, train the layers that consume them, and return scores of units.

        Added units score above 1, the first highest; the others below 1, by their last gradient.
        """
        size = len(consumers.chosen)
        scores = torch.zeros(size, device=consumers.chosen.device)
        past: list[float] = []
        added = 0
        while added < (count or size):
            gradients, loss = consumers.gradient(losses)
            past.append(loss)
            if count is None and added and converged(past, self.tolerance):
                break
            norms = consumers.norms(gradients, self.norm)
            scores = torch.where(consumers.chosen, scores, norms / (1 + norms.max()))
            # Masked: an added unit must not be added again, even where all gradients vanish.
            best = norms.masked_fill(consumers.chosen, -1).topk(min(self.channels_per_round, (count or size) - added))
            consumers.add(best.indices)
            scores[best.indices] = 2 - torch.arange(added, added + len(best.indices), device=scores.device) / size
            added += len(best.indices)
            consumers.train(losses, lr=self.layer_lr, momentum=_MOMENTUM, decay=_DECAY)
        consumers.freeze()
        return scores


def converged(losses: Sequence[float], tolerance: float) -> bool:
    """Return whether the last round changed the loss by at most ``tolerance`` of its first value (DCP-Adapt)."""
    return len(losses) > 1 and abs(losses[-2] - losses[-1]) <= tolerance * losses[0]

"""DCP: discrimination-aware channel pruning (Zhuang et al. 2018)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from orchestrator.methods.base import Method, PruneTask, Scores, first_images
from orchestrator.methods.learned.dcp.extra_losses import ExtraLosses
from orchestrator.methods.learned.dcp.layer_losses import layer_losses
from orchestrator.methods.learned.dcp.readers import Readers
from orchestrator.methods.parts.target_counts import planned_counts
from orchestrator.plugins import Count, Natural, NonNegative, Positive
from orchestrator.surgery.selection import Scope
from orchestrator.training.loop import Batch

_MOMENTUM, _DECAY = 0.9, 1e-4


@dataclass
class DCP(Method):
    """Channels are added one by one to an empty layer, the one first on which the loss depends most.

    Comparators, section 2: the dense network is trained on with extra losses L_S (batch-norm, ReLU, mean, linear
    layer, cross-entropy) behind some convolutions. Then, group by group from the input: the weights that read its
    channels become 0; repeat: G = gradient of L = L_M + ``discrimination`` * L_S by them over the images, add the
    channels of largest norm of G, give them their weights back, and train the weights of those added for one pass. L_M
    is the mean squared distance of the reading layers' outputs to those of the unpruned network, L_S the extra loss
    next behind them, or the network's own. It ends when as many are added as the target leaves; without a sparsity in
    the target (DCP-Adapt), when L fell by no more than ``tolerance`` of its first value. What was added first scores
    highest; the weights trained stay in the network.

    Differs from the paper: all extra losses are trained at once before anything is selected, and L_M has no factor
    1/2, both as in the authors' code; their gradients' share of the rate is not divided among segments; extra losses
    are spread over convolutions, not blocks; channels with several readers, such as those of residual sums, are
    selected too, by all of them together; selection uses 1024 images unless ``images`` is null, which takes all.
    """

    heads: Natural = 3
    """P, the extra losses: 3 for ResNet-50 and -56, 2 for VGG and ResNet-18; 0 uses the network's own loss alone."""
    discrimination: NonNegative = 1.0
    """lambda, the weight of L_S."""
    norm: Literal["code", "paper"] = "code"
    """Of a channel's gradient: the sum of its kernels' l2 norms, or its Frobenius norm."""
    layer_lr: Positive = 0.01
    tolerance: Positive = 1e-3
    """epsilon of DCP-Adapt."""
    channels_per_round: Count = 1
    images: Count | None = 1024
    """Images of the selection, at most the 1024 of calibration; None: the whole training set."""
    sparse_epochs: Count | None = 100
    """Epochs of the training with extra losses; None: as many as the dense training has."""
    trains: ClassVar[bool] = True
    trains_for_target: ClassVar[bool] = True
    training_state: ClassVar[tuple[str, ...]] = ("_extra.heads",)
    starts_from: ClassVar[Literal["scratch", "baseline"]] = "baseline"
    finds_sparsity: ClassVar[bool] = True
    default_scope: ClassVar[Scope] = "uniform"
    paper: ClassVar[str] = "comparators, section 2"

    def prepare(self, model: nn.Module, task: PruneTask) -> None:
        self._extra = ExtraLosses(model, task.example, self.heads)

    def extra_parameters(self) -> Sequence[dict[str, Any]]:
        parameters = list(self._extra.heads.parameters())
        return [{"params": parameters, "weight_decay": _DECAY}] if parameters else []

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        return self._extra.weighted(batch.targets)

    def scores(self, model: nn.Module, task: PruneTask) -> Scores:
        """Also sets the weights trained for the channels that were added."""
        self._extra.detach()
        training = model.training
        model.eval()
        pruned = copy.deepcopy(model).requires_grad_(False)
        images = list(task.training()) if self.images is None else first_images(task.calibration(), self.images)
        stated = task.target.sparsity is not None or task.target.kept is not None
        counts = planned_counts(task).tolist() if stated else [None] * len(task.groups)
        found: dict[str, Tensor] = {}
        trained = []
        for group, count in zip(task.groups, counts, strict=True):
            readers = Readers(pruned, group)
            found[group.name] = torch.zeros(group.size)
            if readers.layers:
                losses = layer_losses(
                    model, pruned, list(readers.layers), images, self._extra, task.loss, self.discrimination
                )
                found[group.name] = self._add_channels(readers, losses, count)
                trained.append(readers)
        for readers in trained:
            readers.write_to(model)
        model.train(training)
        return found

    def keep(self, scores: Scores) -> Mapping[str, Tensor]:
        return {name: score > 1 for name, score in scores.items()}

    def finish(self, model: nn.Module) -> None:
        self._extra.detach()
        del self._extra

    def _add_channels(self, readers: Readers, losses: list[Callable[[], Tensor]], count: int | None) -> Tensor:
        """Select a group's units and train what reads them; scores of units.

        Those added score above 1, the first highest; the others below 1, by their last gradient.
        """
        size = len(readers.chosen)
        scores = torch.zeros(size, device=readers.chosen.device)
        past: list[float] = []
        added = 0
        while added < (count or size):
            gradients, loss = readers.gradient(losses)
            past.append(loss)
            if count is None and added and enough(past, self.tolerance):
                break
            norms = readers.norms(gradients, self.norm)
            scores = torch.where(readers.chosen, scores, norms / (1 + norms.max()))
            # Those added cannot be added again, even where all gradients vanish.
            best = norms.masked_fill(readers.chosen, -1).topk(min(self.channels_per_round, (count or size) - added))
            readers.add(best.indices)
            scores[best.indices] = 2 - torch.arange(added, added + len(best.indices), device=scores.device) / size
            added += len(best.indices)
            readers.train(losses, lr=self.layer_lr, momentum=_MOMENTUM, decay=_DECAY)
        readers.freeze()
        return scores


def enough(losses: Sequence[float], tolerance: float) -> bool:
    """DCP-Adapt's rule: the last round changed the loss by at most ``tolerance`` of its first value."""
    return len(losses) > 1 and abs(losses[-2] - losses[-1]) <= tolerance * losses[0]

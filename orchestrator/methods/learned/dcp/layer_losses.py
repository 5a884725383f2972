"""The loss that some layers of a network are selected and trained by, instead of the network's own (DCP)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.methods.learned.dcp.extra_losses import ExtraLosses, watch
from orchestrator.training.loop import autocast


def layer_losses(
    model: nn.Module,
    pruned: nn.Module,
    layers: Sequence[str],
    images: Sequence[tuple[Tensor, Tensor]],
    extra: ExtraLosses,
    task_loss: Callable[[Tensor, Tensor], Tensor],
    discrimination: float,
) -> list[Callable[[], Tensor]]:
    """L = L_M + ``discrimination`` * L_S of every batch, as functions of ``pruned`` as it stands when they are called.

    L_M: the mean squared distances of the layers' outputs to those of ``model``, summed; L_S: the extra loss next
    behind the layers, or the network's own.
    """
    with torch.no_grad():
        wanted = [_outputs(model, inputs, layers)[1] for inputs, _ in images]
    behind = extra.next_behind(layers)

    def loss(index: int) -> Tensor:
        inputs, targets = images[index]
        logits, found = _outputs(pruned, inputs, layers if behind is None else [*layers, behind[0]])
        distances = [F.mse_loss(found[name].float(), wanted[index][name].float()) for name in layers]
        if behind is not None:
            site, head = behind
            logits = head(found[site].float())
        return torch.stack(distances).sum() + discrimination * task_loss(logits, targets)

    return [partial(loss, index) for index in range(len(images))]


def _outputs(model: nn.Module, inputs: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """The network's logits, and what some of its layers put out."""
    seen: dict[str, Tensor] = {}
    handles = watch(model, layers, seen)
    with autocast(inputs.device):
        logits = model(inputs)
    for handle in handles:
        handle.remove()
    return logits, seen

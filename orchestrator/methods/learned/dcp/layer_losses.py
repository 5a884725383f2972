"""The loss by which DCP selects and trains the layers that read a group, instead of the network's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.methods.learned.dcp.auxiliary_losses import AuxiliaryLosses, record_outputs
from orchestrator.training.loop import autocast


def layer_losses(
    model: nn.Module,
    pruned: nn.Module,
    layers: Sequence[str],
    images: Sequence[tuple[Tensor, Tensor]],
    auxiliary: AuxiliaryLosses,
    task_loss: Callable[[Tensor, Tensor], Tensor],
    discrimination: float,
) -> list[Callable[[], Tensor]]:
    """Return L = L_M + ``discrimination`` * L_S of every batch, as functions of the state of ``pruned`` at the call.

    L_M: the mean squared distances of the layers' outputs to those of ``model``, summed; L_S: the next auxiliary loss
    behind the layers, or the network's own.
    """
    with torch.no_grad():
        references = [_outputs(model, inputs, layers)[1] for inputs, _ in images]
    next_head = auxiliary.next_behind(layers)

    def loss(index: int) -> Tensor:
        inputs, targets = images[index]
        logits, outputs = _outputs(pruned, inputs, layers if next_head is None else [*layers, next_head[0]])
        distances = [F.mse_loss(outputs[name].float(), references[index][name].float()) for name in layers]
        if next_head is not None:
            site, head = next_head
            logits = head(outputs[site].float())
        return torch.stack(distances).sum() + discrimination * task_loss(logits, targets)

    return [partial(loss, index) for index in range(len(images))]


def _outputs(model: nn.Module, inputs: Tensor, layers: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the network's logits and the outputs of some of its layers."""
    outputs: dict[str, Tensor] = {}
    handles = record_outputs(model, layers, outputs)
    with autocast(inputs.device):
        logits = model(inputs)
    for handle in handles:
        handle.remove()
    return logits, outputs

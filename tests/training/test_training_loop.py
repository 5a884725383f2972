"""The training loop's guarantees to its hooks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator.testing.networks import images, network
from orchestrator.training.loop import Batch, Recipe, train
from orchestrator.training.rng import generator_for
from orchestrator.training.schedule import Constant, Schedule


class Pull:
    """A hook with a parameter of its own and a penalty whose gradient is far above any clip."""

    task_loss_weight = 1.0
    training_state = ()

    def __init__(self, gradient_clip: float | None) -> None:
        self.gradient_clip = gradient_clip
        self.own = nn.Parameter(torch.ones(5))

    def extra_parameters(self) -> list[dict[str, Any]]:
        return [{"params": [self.own], "weight_decay": 0.0}]

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor:
        return 1e3 * (self.own.sum() + sum(p.sum() for p in model.parameters()))

    def after_step(self, model: nn.Module) -> None:
        pass

    def after_epoch(self, model: nn.Module, epoch: int) -> None:
        pass


def gradient_norm(gradient_clip: float | None) -> float:
    """Return the norm of the change of all parameters in one SGD step at rate 1, that is of the gradient."""
    model, hook = network("chain"), Pull(gradient_clip)
    parameters = [*model.parameters(), hook.own]
    before = torch.cat([p.detach().flatten().clone() for p in parameters])
    recipe = Recipe(Schedule(1, 1, Constant(1.0), Constant(0.0)), batch_size=96, weight_decay=0.0)
    generator = generator_for(0, "test")
    train(model, images(), recipe, stage="test", generator=generator, report=ignore, hook=hook)
    return float((torch.cat([p.detach().flatten() for p in parameters]) - before).norm())


def ignore(row: object, epochs: int) -> None:
    pass


def test_gradients_are_clipped_to_a_norm_over_all_that_is_trained() -> None:
    assert gradient_norm(None) > 1e4
    assert gradient_norm(0.5) == pytest.approx(0.5, rel=1e-4)
    assert gradient_norm(1e9) == gradient_norm(None)

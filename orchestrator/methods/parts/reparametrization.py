"""Reparametrization: layers compute with a function of their weights, while the weights themselves are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


def straight_through(values: Tensor, factor: Tensor) -> Tensor:
    """Return ``values * factor``, with the product's gradient passed on to ``values`` unchanged (straight-through)."""
    return values + (values * factor - values).detach()


class Reparametrization:
    """Makes a layer compute with ``effective(weight)`` until :meth:`remove`.

    ``layer.weight`` is the effective weight during a forward pass only. At any other time it is the parameter, which
    keeps its name, its entry in the state and its own values; gradients reach it through ``effective``.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, effective: Callable[[Tensor], Tensor]) -> None:
        self._handles = (
            layer.register_forward_pre_hook(_Enter(effective)),
            layer.register_forward_hook(_leave, always_call=True),
        )

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


@dataclass
class _Enter:
    effective: Callable[[Tensor], Tensor]

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        # An entry of the instance's __dict__ hides the parameter of that name without removing it.
        module.__dict__["weight"] = self.effective(module.get_parameter("weight"))


def _leave(module: nn.Module, inputs: Any, output: Any) -> None:
    module.__dict__.pop("weight", None)

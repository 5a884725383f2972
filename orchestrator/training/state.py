"""The state of a training between two epochs: saved as plain tensors and restored in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.training.checkpoint import Checkpoint

_HOOK = "companion"
"""Prefix of a hook's tensors in a checkpoint; part of the file format."""

Part = nn.Module | torch.optim.Optimizer | torch.Generator | Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class TrainingState:
    """The objects whose state makes up a training, and the checkpoint that stores it.

    ``hook_attributes``: dotted paths of the hook's attributes that change during training (`Method.training_state`).
    """

    checkpoint: Checkpoint
    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    hook: object
    hook_attributes: tuple[str, ...]

    def save(self, facts: Mapping[str, Any]) -> None:
        """Write the state and ``facts`` (plain JSON) if a checkpoint is due."""
        if not self.checkpoint.due:
            return
        parts, plain = self._parts()
        tensors: dict[str, Tensor] = {}
        for name, part in parts.items():
            tensors |= {f"{name}/{key}": value for key, value in _tensors(part).items()}
        tensors |= {f"random/{key}": value for key, value in _random_states(self._device).items()}
        self.checkpoint.write(tensors, {**facts, "plain": plain})

    def restore(self) -> dict[str, Any] | None:
        """Restore the saved state and return its facts; return None and change nothing if none matches."""
        saved = self.checkpoint.read()
        if saved is None:
            return None
        tensors, facts = saved
        parts, plain = self._parts()
        by_part: dict[str, dict[str, Tensor]] = {name: {} for name in (*parts, "random")}
        for full, tensor in tensors.items():
            name, _, key = full.partition("/")
            if name not in by_part:
                return None
            by_part[name][key] = tensor
        if facts.get("plain", {}).keys() != plain.keys() or not all(_matches(p, by_part[n]) for n, p in parts.items()):
            return None
        for name, part in parts.items():
            _load(part, by_part[name])
        for path, value in facts["plain"].items():
            owner, _, name = path.rpartition(".")
            setattr(_at(self.hook, owner), name, value)
        _set_random_states(by_part["random"], self._device)
        return facts

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _parts(self) -> tuple[dict[str, Part], dict[str, Any]]:
        """Return the objects that hold tensors, by name, and the hook's plain values, by path."""
        parts: dict[str, Part] = {"model": self.model, "optimizer": self.optimizer, "generator": self.generator}
        plain: dict[str, Any] = {}
        for path in self.hook_attributes:
            part = _at(self.hook, path)
            if isinstance(part, nn.Module | torch.optim.Optimizer | torch.Generator | Tensor | list):
                parts[f"{_HOOK}.{path}"] = part
            else:
                plain[path] = part
        return parts, plain


def _at(owner: object, path: str) -> Any:
    return reduce(getattr, path.split("."), owner) if path else owner


def _tensors(part: Part) -> dict[str, Tensor]:
    if isinstance(part, nn.Module):
        return {name: value for name, value in part.state_dict().items() if isinstance(value, Tensor)}
    if isinstance(part, torch.optim.Optimizer):
        return {
            f"{index}.{key}": value
            for index, parameter in enumerate(_parameters(part))
            for key, value in part.state[parameter].items()
            if isinstance(value, Tensor)
        }
    if isinstance(part, torch.Generator):
        return {"state": part.get_state()}
    return {"": part} if isinstance(part, Tensor) else {str(index): tensor for index, tensor in enumerate(part)}


def _matches(part: Part, saved: Mapping[str, Tensor]) -> bool:
    if isinstance(part, torch.optim.Optimizer):  # has no state before its first step
        return all(int(name.partition(".")[0]) < len(_parameters(part)) for name in saved)
    expected = {name: (tensor.shape, tensor.dtype) for name, tensor in _tensors(part).items()}
    return expected == {name: (tensor.shape, tensor.dtype) for name, tensor in saved.items()}


@torch.no_grad()
def _load(part: Part, saved: Mapping[str, Tensor]) -> None:
    if isinstance(part, torch.optim.Optimizer):
        parameters = _parameters(part)
        for name, tensor in saved.items():
            index, _, key = name.partition(".")
            part.state[parameters[int(index)]][key] = tensor
    elif isinstance(part, torch.Generator):
        part.set_state(saved["state"])
    else:
        for name, tensor in _tensors(part).items():
            tensor.copy_(saved[name])


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the process-wide generators, which dropout uses."""
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def _set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)

"""What a training consists of between two epochs: taken down as plain tensors, and put back in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.training.checkpoint import Checkpoint

Part = nn.Module | torch.optim.Optimizer | torch.Generator | Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Progress:
    """A training between two epochs, and where its state is saved.

    ``hook``: what trains along; ``remembered``: dotted paths of its attributes that change while it trains
    (`Method.training_state`).
    """

    checkpoint: Checkpoint
    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    hook: object
    remembered: tuple[str, ...]

    def save(self, facts: Mapping[str, Any]) -> None:
        """Write all of it, and ``facts``, which are plain JSON; not more often than a checkpoint is due."""
        if not self.checkpoint.due:
            return
        parts, plain = self._parts()
        tensors: dict[str, Tensor] = {}
        for name, part in parts.items():
            tensors |= {f"{name}/{key}": value for key, value in _tensors(part).items()}
        tensors |= {f"random/{key}": value for key, value in _random_states(self._device).items()}
        self.checkpoint.write(tensors, {**facts, "plain": plain})

    def restore(self) -> dict[str, Any] | None:
        """Go back to what was saved, and return the facts; None, and nothing changes, where nothing fits."""
        found = self.checkpoint.read()
        if found is None:
            return None
        tensors, facts = found
        parts, plain = self._parts()
        split: dict[str, dict[str, Tensor]] = {name: {} for name in (*parts, "random")}
        for full, tensor in tensors.items():
            name, _, key = full.partition("/")
            if name not in split:
                return None
            split[name][key] = tensor
        if facts.get("plain", {}).keys() != plain.keys() or not all(_fits(p, split[n]) for n, p in parts.items()):
            return None
        for name, part in parts.items():
            _put_back(part, split[name])
        for path, value in facts["plain"].items():
            owner, _, name = path.rpartition(".")
            setattr(_at(self.hook, owner), name, value)
        _set_random_states(split["random"], self._device)
        return facts

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _parts(self) -> tuple[dict[str, Part], dict[str, Any]]:
        """What holds tensors, by name, and the hook's plain values, by path."""
        parts: dict[str, Part] = {"model": self.model, "optimizer": self.optimizer, "generator": self.generator}
        plain: dict[str, Any] = {}
        for path in self.remembered:
            part = _at(self.hook, path)
            if isinstance(part, nn.Module | torch.optim.Optimizer | torch.Generator | Tensor | list):
                parts[f"hook.{path}"] = part
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
            f"{place}.{key}": value
            for place, parameter in enumerate(_parameters(part))
            for key, value in part.state[parameter].items()
            if isinstance(value, Tensor)
        }
    if isinstance(part, torch.Generator):
        return {"state": part.get_state()}
    return {"": part} if isinstance(part, Tensor) else {str(place): tensor for place, tensor in enumerate(part)}


def _fits(part: Part, found: Mapping[str, Tensor]) -> bool:
    if isinstance(part, torch.optim.Optimizer):  # it has no state before its first step
        return all(int(name.partition(".")[0]) < len(_parameters(part)) for name in found)
    wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in _tensors(part).items()}
    return wanted == {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()}


@torch.no_grad()
def _put_back(part: Part, found: Mapping[str, Tensor]) -> None:
    if isinstance(part, torch.optim.Optimizer):
        parameters = _parameters(part)
        for name, tensor in found.items():
            place, _, key = name.partition(".")
            part.state[parameters[int(place)]][key] = tensor
    elif isinstance(part, torch.Generator):
        part.set_state(found["state"])
    else:
        for name, tensor in _tensors(part).items():
            tensor.copy_(found[name])


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """Of the process-wide generators, which dropout draws from."""
    found = {"cpu": torch.get_rng_state()}
    return found | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else found


def _set_random_states(found: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(found["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(found["cuda"], device)

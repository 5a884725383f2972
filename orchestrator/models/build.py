"""Build a network from its name, its parameters and the shape of the data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import nn

from orchestrator.models import MODELS
from orchestrator.models.limits import ModelError


def build(name: str, params: Mapping[str, object], *, classes: int, channels: int, size: int) -> nn.Module:
    """Return the network ``name`` for square images, ``channels`` x ``size`` x ``size``, of ``classes`` classes.

    ``name`` is a name in :data:`orchestrator.models.MODELS`, ``torchvision:<architecture>``, or a user's
    ``module:factory``, called as ``factory(num_classes=..., in_channels=..., **params)``, and with ``image_size=``
    where the factory has that parameter. The network has float32 parameters on the CPU and is in training mode; its
    initial values are drawn from torch's global generator; the caller seeds it.

    Raises :class:`orchestrator.plugins.UnknownName` for an unknown name, and :class:`ModelError` for a factory that
    cannot be imported, parameters it does not accept, images too small for the network, or a result that is not a
    module.
    """
    model = instantiate(name, params, classes=classes, channels=channels, size=size)
    return model.to(device="cpu", dtype=torch.float32).train()


def instantiate(name: str, params: Mapping[str, object], *, classes: int, channels: int, size: int) -> nn.Module:
    """Return the network as its factory makes it; under ``torch.device("meta")`` without memory. See :func:`build`."""
    try:
        factory = MODELS.load(name)
    except (ImportError, AttributeError) as error:
        raise ModelError(f"model {name!r} cannot be loaded: {error}") from error
    if not callable(factory):
        raise ModelError(f"model {name!r} is {type(factory).__name__}, not a function that returns a network")
    signature = inspect.signature(factory)
    supplied: dict[str, object] = {"num_classes": classes, "in_channels": channels}
    if "image_size" in signature.parameters:
        supplied["image_size"] = size
    prefix, _, architecture = name.partition(":")
    if prefix in MODELS.prefixes:
        supplied["architecture"] = architecture
    for parameter in params:
        if parameter in supplied:
            raise ModelError(f"model {name!r}: {parameter!r} follows from the data and the name, it cannot be set")
    try:
        signature.bind(**params, **supplied)
    except TypeError as error:
        raise ModelError(f"model {name!r}: {error}") from error
    model = factory(**params, **supplied)
    if not isinstance(model, nn.Module):
        raise ModelError(f"model {name!r} returned {type(model).__name__}, not a torch.nn.Module")
    return model


__all__ = ["ModelError", "build", "instantiate"]

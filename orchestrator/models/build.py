"""Build a network from its name, its parameters and the shape of the data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import nn

from orchestrator.models import MODELS
from orchestrator.models.limits import ModelError


def build(name: str, params: Mapping[str, object], *, classes: int, channels: int, size: int) -> nn.Module:
    """The network ``name`` for square images of ``channels`` x ``size`` x ``size`` pixels in ``classes`` classes.

    ``name`` is a name of :data:`orchestrator.models.MODELS`, ``torchvision:<architecture>``, or the user's own
    ``module:factory``, called as ``factory(num_classes=..., in_channels=..., **params)``, with ``image_size=`` as well
    where the factory names that argument. The network has float32 parameters on the CPU and is in training mode; its
    initial values are drawn from torch's global generator, which the caller seeds.

    Raises :class:`orchestrator.plugins.UnknownName` for a name nobody knows, and :class:`ModelError` for a factory that
    cannot be imported, parameters it does not take, images too small for the network, or a result that is no network.
    """
    model = made(name, params, classes=classes, channels=channels, size=size)
    return model.to(device="cpu", dtype=torch.float32).train()


def made(name: str, params: Mapping[str, object], *, classes: int, channels: int, size: int) -> nn.Module:
    """As :func:`build`, but left as the factory made it: under ``torch.device("meta")`` a network without memory."""
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


__all__ = ["ModelError", "build", "made"]

"""Classification networks of torchvision, for any number of classes and image channels."""

from __future__ import annotations

from itertools import chain

import torch
import torchvision
from torch import nn
from torch.func import functional_call

from orchestrator.models.limits import ModelError
from orchestrator.spec.errors import nearest

_WITH_AUXILIARY_HEADS = frozenset({"googlenet", "inception_v3"})


def torchvision_model(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    architecture: str,
    weights: str | None = None,
    **params: object,
) -> nn.Module:
    """A classification network of torchvision, freshly initialised, without auxiliary heads.

    ``weights`` (``DEFAULT``, ``IMAGENET1K_V1``, ...) loads torchvision's trained weights, downloaded if torch's cache
    does not have them; the classifier is then replaced where it does not have ``num_classes`` outputs. For other than
    three channels the first convolution is replaced by one of the same geometry. ``params`` go to torchvision's
    factory; vision transformers also get the image size. Raises :class:`ModelError` for an unknown architecture and
    for parameters or images it does not accept.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        raise ModelError(f"unknown torchvision architecture {architecture!r}{nearest(architecture, known)}")
    if weights is None:
        params |= {"num_classes": num_classes}
    if architecture.startswith("vit_"):
        params |= {"image_size": image_size}
    if architecture in _WITH_AUXILIARY_HEADS:
        if "aux_logits" in params:
            raise ModelError(f"torchvision:{architecture} is used without auxiliary heads: aux_logits cannot be set")
        if weights is None:
            # Without it torchvision warns; True is the initialisation these networks were published with.
            params = {"init_weights": True, **params, "aux_logits": False}
    try:
        model = torchvision.models.get_model(architecture, weights=weights, **params)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"torchvision:{architecture} cannot be built: {_first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"torchvision:{architecture} is {type(model).__name__}, not a torch.nn.Module")
    if weights is not None:
        drop_auxiliary_heads(model)
        replace_classifier(model, num_classes)
    if in_channels != 3:
        replace_first_convolution(model, in_channels)
    _require_fit(model, architecture, in_channels, image_size)
    return model


def drop_auxiliary_heads(model: nn.Module) -> None:
    """Remove heads used in training only; torchvision's trained Inception has one whatever ``aux_logits`` says."""
    if hasattr(model, "aux_logits"):
        model.aux_logits = False  # type: ignore[assignment]
        for name in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, name):
                setattr(model, name, None)


def replace_classifier(model: nn.Module, num_classes: int) -> None:
    """Replace the last layer where it does not have ``num_classes`` outputs."""
    name, last = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)][-1]
    bias = last.bias is not None
    if isinstance(last, nn.Linear) and last.out_features != num_classes:
        model.set_submodule(name, nn.Linear(last.in_features, num_classes, bias=bias))
    elif isinstance(last, nn.Conv2d) and last.out_channels != num_classes:
        model.set_submodule(name, nn.Conv2d(last.in_channels, num_classes, 1, bias=bias))


def replace_first_convolution(model: nn.Module, in_channels: int) -> None:
    """Replace the first convolution by one of the same geometry for ``in_channels``."""
    name, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    replacement = nn.Conv2d(
        in_channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        stride=first.stride,  # type: ignore[arg-type]
        padding=first.padding,  # type: ignore[arg-type]
        dilation=first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    model.set_submodule(name, replacement)
    if hasattr(model, "transform_input"):
        # The trained GoogLeNet and Inception rescale the three colours of their input.
        model.transform_input = False  # type: ignore[assignment]


def _require_fit(model: nn.Module, architecture: str, in_channels: int, image_size: int) -> None:
    """Run the forward pass on shapes alone (meta device): torchvision has no complete table of minimum sizes."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    images = torch.empty(1, in_channels, image_size, image_size, device="meta")
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            functional_call(model, shapes, (images,))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"torchvision:{architecture} cannot take images of {image_size}x{image_size} pixels: {_first_line(error)}"
        ) from error
    finally:
        model.train(training)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""Check that a network accepts the images of its data, without training it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict

import torch

from orchestrator.data.shapes import Shape, shape_of
from orchestrator.models.build import ModelError, build, instantiate
from orchestrator.spec.trial import TrialSpec

_META_SIZE = 128
"""Edge in pixels from which the meta device, which takes a second to import, is faster than the CPU."""


def shape_error(spec: TrialSpec) -> str | None:
    """Return in one line why the network does not accept the data's images; None if it does or the data cannot be read.

    Networks for large images are tried on torch's meta device, without memory, others and those that fail on the CPU.
    """
    try:
        shape = shape_of(spec.data.name, spec.data.params)
    except Exception:
        # Trials whose images cannot be opened fail with a message of their own.
        return None
    if shape.size >= _META_SIZE:
        with suppress(Exception), torch.device("meta"), torch.no_grad():
            instantiate(spec.model.name, spec.model.params, **asdict(shape)).eval()(_image(shape))
            return None
    try:
        with torch.no_grad():
            build(spec.model.name, spec.model.params, **asdict(shape)).eval()(_image(shape))
    except Exception as problem:
        line = next((line.strip() for line in str(problem).splitlines() if line.strip()), "")
        reason = line if isinstance(problem, ModelError) else f"{type(problem).__name__}: {line}"
        return f"the {shape.size}x{shape.size} images of {spec.data.name!r}: {reason[:300]}"
    return None


def _image(shape: Shape) -> torch.Tensor:
    return torch.zeros(1, shape.channels, shape.size, shape.size)

"""Whether a network takes the images of its data, found without training it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict

import torch

from orchestrator.data.shapes import Shape, shape_of
from orchestrator.models.build import ModelError, build, instantiate
from orchestrator.spec.trial import TrialSpec

_PHOTOGRAPHS = 128
"""Pixels a side from which networks are so large that the meta device, with a second of imports, is the quicker one."""


def refusal(spec: TrialSpec) -> str | None:
    """Why the network cannot take the data's images, in one line; None where it can, or where nobody can tell.

    One for photographs is built without memory on torch's meta device, where it can be; others on the CPU.
    """
    try:
        shape = shape_of(spec.data.name, spec.data.params)
    except Exception:
        # Images that cannot be opened are their trials' failure, with a reason of their own.
        return None
    if shape.size >= _PHOTOGRAPHS:
        with suppress(Exception), torch.device("meta"), torch.no_grad():
            instantiate(spec.model.name, spec.model.params, **asdict(shape)).eval()(_image(shape))
            return None
    try:
        with torch.no_grad():
            build(spec.model.name, spec.model.params, **asdict(shape)).eval()(_image(shape))
    except Exception as problem:
        line = next((line.strip() for line in str(problem).splitlines() if line.strip()), "")
        told = line if isinstance(problem, ModelError) else f"{type(problem).__name__}: {line}"
        return f"the {shape.size}x{shape.size} images of {spec.data.name!r}: {told[:300]}"
    return None


def _image(shape: Shape) -> torch.Tensor:
    return torch.zeros(1, shape.channels, shape.size, shape.size)

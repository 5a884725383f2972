"""Check image sizes against a network's minimum; the error for a network that cannot be built."""

from __future__ import annotations

from orchestrator.spec.errors import PrunesweepError


class ModelError(PrunesweepError, ValueError):
    """A network that cannot be built from its name, its parameters and the shape of the data."""


def require_size(model: str, *, minimum: int, image_size: int) -> None:
    """Raise :class:`ModelError` for images whose side of ``image_size`` pixels is below the network's ``minimum``."""
    if image_size < minimum:
        raise ModelError(
            f"{model} needs images of at least {minimum}x{minimum} pixels, data has {image_size}x{image_size}"
        )

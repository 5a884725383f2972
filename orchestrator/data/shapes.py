"""The shape of an image set: from a table for published sets, from the files of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.data import DATA


@dataclass(frozen=True)
class Shape:
    """Square images of ``size`` x ``size`` pixels in ``channels`` channels and ``classes`` classes."""

    channels: int
    size: int
    classes: int


_PUBLISHED = {
    "digits": Shape(1, 8, 10),
    "mnist": Shape(1, 28, 10),
    "fashion_mnist": Shape(1, 28, 10),
    "cifar10": Shape(3, 32, 10),
    "cifar100": Shape(3, 32, 100),
    "imagenet": Shape(3, 224, 1000),
}


def shape_of(name: str, params: Mapping[str, object]) -> Shape:
    """Return the shape of the image set ``name`` with ``params``; decodes nothing.

    Raises `DataError` for files that cannot be used; files of published sets are not read.
    """
    known = _PUBLISHED.get(name)
    if known is not None:
        size = params.get("size", known.size)
        assert isinstance(size, int)
        return Shape(known.channels, size, known.classes)
    source = DATA.load(name)(**{key: value for key, value in params.items() if key != "fingerprint"})
    return Shape(source.channels, source.size, len(source.classes))

"""`Source`, a set of decoded images, and the errors of unusable files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from orchestrator.spec.errors import PrunesweepError, nearest

if TYPE_CHECKING:  # planning imports this module for its errors and must not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

Example: TypeAlias = "tuple[NDArray[np.uint8], int]"
"""One image (uint8, height x width x channels) and its label, an index into the classes."""

Augment: TypeAlias = Literal["none", "crop_flip", "crop"]
"""Augmentation of training images: none, a random crop after padding by 4 with a random flip, or the crop alone."""


def default_augment(channels: int) -> Augment:
    """Return ``crop_flip`` for colour images, ``none`` for grey ones: a mirrored digit is a different character."""
    return "crop_flip" if channels == 3 else "none"


def select_classes(names: Sequence[str], requested: Sequence[str] | None, path: Path) -> tuple[str, ...]:
    """Return ``requested`` in its order, or all names; raise `DataError` for a name that the set at ``path`` lacks."""
    if requested is None:
        return tuple(names)
    for name in requested:
        if name not in names:
            raise DataError(f"{path} has no class {name!r}{nearest(name, names)}")
    if len(set(requested)) != len(requested) or not requested:
        raise DataError(f"classes must be different and at least one, not {list(requested)!r}")
    return tuple(requested)


class DataError(PrunesweepError, ValueError):
    """An image set that cannot be used as it is."""


class UnreadableData(DataError):
    """A path that is missing, empty or cannot be read."""


class CorruptImage(DataError):
    """An image that cannot be decoded; the message names its file and, in a Parquet file, its row (from 0)."""

    def __init__(self, file: Path, reason: str, row: int | None = None) -> None:
        super().__init__(f"corrupt image: {file}{'' if row is None else f' row {row}'}: {reason}")
        self.file = file
        self.row = row
        self.reason = reason

    def __reduce__(self) -> tuple[type[CorruptImage], tuple[Path, str, int | None]]:
        # A worker's exceptions are pickled for the driver; by default only the message would be passed.
        return type(self), (self.file, self.reason, self.row)


@dataclass(frozen=True)
class Source:
    """A set of images; nothing is decoded before ``train`` or ``test`` is iterated.

    ``channels`` is 1 (grey) or 3 (red, green, blue); images are square with edge ``size``. ``statistics`` are published
    channel means and standard deviations in units of 0..1; with `None` they are computed over the training images.
    """

    channels: int
    size: int
    classes: tuple[str, ...]
    train: Callable[[], Iterator[Example]]
    test: Callable[[], Iterator[Example]]
    augment: Augment
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None

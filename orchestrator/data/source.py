"""A set of decoded images as its files state it, and what can be wrong with those files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from orchestrator.spec.errors import nearest

if TYPE_CHECKING:  # planning reads fingerprints, which share the errors below, and must not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

Example: TypeAlias = "tuple[NDArray[np.uint8], int]"
"""One image (uint8, height x width x channels) and its label, an index into the classes."""

Augment: TypeAlias = Literal["none", "crop_flip", "crop"]
"""What training does to an image: nothing, a crop after padding by 4 and a chance mirror image, or the crop alone."""


def default_augment(channels: int) -> Augment:
    """Crops and mirror images for colour photographs; nothing for grey images: a mirrored digit is another sign."""
    return "crop_flip" if channels == 3 else "none"


def chosen_classes(names: Sequence[str], wanted: Sequence[str] | None, where: Path) -> tuple[str, ...]:
    """``wanted`` in the order asked for, or all names; a name the set does not hold raises `DataError`."""
    if wanted is None:
        return tuple(names)
    for name in wanted:
        if name not in names:
            raise DataError(f"{where} has no class {name!r}{nearest(name, names)}")
    if len(set(wanted)) != len(wanted) or not wanted:
        raise DataError(f"classes must be different and at least one, not {list(wanted)!r}")
    return tuple(wanted)


class DataError(ValueError):
    """An image set that cannot be used as it is."""


class UnreadableData(DataError):
    """A path that is missing, empty or cannot be read."""


class CorruptImage(DataError):
    """One image that cannot be decoded; the message names its file and, within a table, its row (from 0)."""

    def __init__(self, file: Path, reason: str, row: int | None = None) -> None:
        super().__init__(f"corrupt image: {file}{'' if row is None else f' row {row}'}: {reason}")
        self.file = file
        self.row = row
        self.reason = reason

    def __reduce__(self) -> tuple[type[CorruptImage], tuple[Path, str, int | None]]:
        # A worker's exceptions travel to the driver; the default would call us with the message alone.
        return type(self), (self.file, self.reason, self.row)


@dataclass(frozen=True)
class Source:
    """What a factory of the table returns; nothing is decoded before ``train`` or ``test`` is iterated.

    ``channels`` is 1 (grey) or 3 (red, green, blue); images are square with edge ``size``. ``statistics`` are published
    channel means and standard deviations in units of 0..1; `None` has them computed over the training images.
    """

    channels: int
    size: int
    classes: tuple[str, ...]
    train: Callable[[], Iterator[Example]]
    test: Callable[[], Iterator[Example]]
    augment: Augment
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None

"""Image files in one folder per class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.data.decoding import decode_files
from orchestrator.data.source import DataError, Example, Source, UnreadableData, select_classes
from orchestrator.plugins import Count

_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif"})


def image_folder(path: str, size: Count, classes: list[str] | None = None) -> Source:
    """``train/<class>/*`` and ``test/<class>/*`` (or ``val/``), as colour images.

    The short side is resized to ``size`` and the central square kept. ``classes`` selects classes, in that order.
    """
    folder = Path(path).expanduser()
    train = folder / "train"
    if not train.is_dir():
        raise UnreadableData(f"no folder {str(train)!r}")
    test = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if test is None:
        raise UnreadableData(f"neither {str(folder / 'test')!r} nor {str(folder / 'val')!r} is a folder")
    names = select_classes(_subfolders(train), classes, train)
    if not names:
        raise UnreadableData(f"no class folders in {str(train)!r}")
    if classes is None and (unknown := sorted(set(_subfolders(test)) - set(names))):
        raise DataError(f"class {unknown[0]!r} is in {str(test)!r}, but not in {str(train)!r}")
    return Source(
        channels=3,
        size=size,
        classes=names,
        train=lambda: _examples(train, names, size),
        test=lambda: _examples(test, names, size),
        augment="crop_flip",
    )


def _examples(split: Path, classes: tuple[str, ...], size: int) -> Iterator[Example]:
    files = (
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((split / name).rglob("*"))
        if file.suffix.lower() in _EXTENSIONS
    )
    return decode_files(files, size)


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))

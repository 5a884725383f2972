"""Parquet files with encoded images, in the layout of public data hubs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.compute
import pyarrow.parquet as pq
from PIL import Image

from orchestrator.data.decoding import decode, is_grey, map_in_threads, to_array
from orchestrator.data.source import DataError, Example, Source, UnreadableData, default_augment, select_classes
from orchestrator.plugins import Count

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label")
_ROWS = 256
_SAMPLE = 100
"""Images that decide the shape of a set."""
_TINY = 64  # up to this edge threads cost more than they save: 10,000 images of 32x32 take 1.3 s instead of 0.7 s


def parquet(
    path: str,
    size: Count | None = None,
    classes: list[str] | None = None,
    augment: Literal["none", "crop_flip", "crop"] | None = None,
) -> Source:
    """A folder with ``train*.parquet`` and ``test*.parquet`` (or ``validation*.parquet``), also in numbered parts.

    Column ``image`` (or ``img``) holds the encoded bytes, bare or in a struct with ``bytes``; ``label`` (or
    ``fine_label``) a whole number. Class names come from the schema's ``huggingface`` metadata, else they are the
    labels. Without ``size`` all images must be square and of one size; with it, others are resized (bilinear).
    ``classes`` selects classes, in that order. ``augment`` by default: ``crop_flip`` for colour images, ``none`` for
    grey ones.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UnreadableData(f"no folder {str(folder)!r}")
    train = _parts(folder, "train")
    test = _parts(folder, "test") or _parts(folder, "validation")
    for files, pattern in ((train, "train*.parquet"), (test, "test*.parquet or validation*.parquet")):
        if not files:
            raise UnreadableData(f"no {pattern} in {str(folder)!r}")
    names = _class_names(train, test)
    kept = select_classes(names, classes, folder)
    labels = {names.index(name): label for label, name in enumerate(kept)} if classes is not None else None
    channels, edge = _shape(train, size)
    return Source(
        channels=channels,
        size=edge,
        classes=kept,
        train=lambda: _examples(train, channels, edge, size is not None, labels),
        test=lambda: _examples(test, channels, edge, size is not None, labels),
        augment=default_augment(channels) if augment is None else augment,
    )


def _parts(folder: Path, split: str) -> list[Path]:
    files = sorted(folder.glob(f"{split}*.parquet"))
    for file in files:
        numbered = re.search(r"-of-(\d+)", file.name)
        if numbered and len(files) != int(numbered[1]):
            raise UnreadableData(f"{str(file)!r} is one of {int(numbered[1])} parts, but {len(files)} are there")
    return files


def _open(file: Path) -> tuple[Any, str, str]:
    """Open the file; return it with the names of its image and label columns."""
    try:
        opened = pq.ParquetFile(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise UnreadableData(f"cannot read data {str(file)!r}: {error}") from error
    names = opened.schema_arrow.names
    image = next((name for name in _IMAGE_COLUMNS if name in names), None)
    label = next((name for name in _LABEL_COLUMNS if name in names), None)
    if image is None or label is None:
        raise DataError(f"{str(file)!r} needs the columns image and label; it has {', '.join(names)}")
    if not pyarrow.types.is_integer(opened.schema_arrow.field(label).type):
        label_type = opened.schema_arrow.field(label).type
        raise DataError(f"{str(file)!r}: column {label!r} must hold whole numbers, not {label_type}")
    return opened, image, label


def _class_names(train: Sequence[Path], test: Sequence[Path]) -> tuple[str, ...]:
    opened, _, label = _open(train[0])
    metadata = (opened.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        return tuple(str(name) for name in json.loads(metadata)["info"]["features"][label]["names"])
    except (TypeError, KeyError, ValueError):  # absent, or a label column without names
        pass
    highest = -1
    for file in (*train, *test):
        opened, _, label = _open(file)
        values = opened.read(columns=[label]).column(label)
        highest = max(highest, pyarrow.compute.max(values).as_py() or 0)
    return tuple(str(i) for i in range(highest + 1))


def _shape(files: Sequence[Path], size: int | None) -> tuple[int, int]:
    """Return channels and edge; one colour image among the first makes a colour set, as photographs may be grey."""
    first: Image.Image | None = None
    channels = 1
    for _, (file, row, encoded, _) in zip(range(_SAMPLE), _rows(files), strict=False):
        image = decode(encoded, file, row)
        first = first or image
        if not is_grey(image):
            channels = 3
            break
    if first is None:
        raise UnreadableData(f"no rows in {str(files[0])!r}")
    if size is None and first.width != first.height:
        raise DataError(f"images of {str(files[0])!r} are {first.width}x{first.height}, not square: give data.size")
    return channels, size or first.width


def _rows(files: Sequence[Path]) -> Iterator[tuple[Path, int, bytes | None, int | None]]:
    """Iterate over file, row in it, encoded image and label."""
    for file in files:
        opened, image, label = _open(file)
        row = 0
        try:
            for batch in opened.iter_batches(batch_size=_ROWS, columns=[image, label]):
                cells = batch.column(image).to_pylist()
                for cell, value in zip(cells, batch.column(label).to_pylist(), strict=True):
                    yield file, row, cell.get("bytes") if isinstance(cell, dict) else cell, value
                    row += 1
        except (OSError, pyarrow.ArrowException) as error:
            raise UnreadableData(f"cannot read data {str(file)!r} after row {row}: {error}") from error


def _examples(
    files: Sequence[Path], channels: int, size: int, resize: bool, labels: dict[int, int] | None
) -> Iterator[Example]:
    def example(item: tuple[Path, int, bytes | None, int]) -> Example:
        file, row, encoded, label = item
        image = decode(encoded, file, row)
        if channels == 1 and not is_grey(image):
            raise DataError(f"{file} row {row} is a colour image ({image.mode}) in a set that starts with grey ones")
        if image.size != (size, size):
            if not resize:
                raise DataError(
                    f"{file} row {row} is {image.width}x{image.height}, others {size}x{size}: give data.size"
                )
            image = image.convert("L" if channels == 1 else "RGB").resize((size, size), Image.Resampling.BILINEAR)
        return to_array(image, channels), label

    def selected() -> Iterator[tuple[Path, int, bytes | None, int]]:
        for file, row, encoded, label in _rows(files):
            if label is None:
                raise DataError(f"{file} row {row} has no label")
            if labels is None:
                yield file, row, encoded, label
            elif label in labels:
                yield file, row, encoded, labels[label]

    return (map_in_threads if size > _TINY else map)(example, selected())

"""A cache of decoded images: built once per machine, read as memory-mapped Arrow files."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
from numpy.typing import NDArray

from orchestrator.data.source import DataError, Source
from orchestrator.storage.locks import acquire_lock

FORMAT = 1
"""Version of the files' layout, part of every folder's name: raise it when the layout changes."""

_METADATA = "metadata.json"
_CHUNK = 1024


@dataclass(frozen=True)
class Decoded:
    """Read-only views of the memory map: images N x H x W x C (uint8), labels (int64); statistics in units of 0..1."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def open_cached(source: Source, key: str, folder: Path) -> Decoded:
    """Return the decoded images of ``source`` from ``folder/v<FORMAT>-<key>``; build it where missing or damaged.

    Of several concurrent processes one decodes and the others wait. A process that dies while decoding leaves no lock
    and nothing that could pass for a complete set.
    """
    target = folder / f"v{FORMAT}-{key}"
    decoded = _open(target, source)
    if decoded is not None:
        return decoded
    folder.mkdir(parents=True, exist_ok=True)
    with acquire_lock(target.with_name(target.name + ".lock")):
        decoded = _open(target, source)  # another process may have built it meanwhile
        if decoded is None:
            _build(source, target)
            decoded = _open(target, source)
    if decoded is None:
        raise DataError(f"decoded images in {str(target)!r} cannot be read back")
    return decoded


def _open(folder: Path, source: Source) -> Decoded | None:
    """Return the views, or `None` where the folder is missing, incomplete or damaged."""
    try:
        metadata = json.loads((folder / _METADATA).read_text())
        train_images, train_labels = _map(folder / "train.arrow", metadata["train"])
        test_images, test_labels = _map(folder / "test.arrow", metadata["test"])
        mean, std = source.statistics or (metadata["mean"], metadata["std"])
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException):
        return None
    return Decoded(train_images, train_labels, test_images, test_labels, tuple(mean), tuple(std))


def _map(file: Path, expected: dict[str, Any]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if file.stat().st_size != expected["bytes"]:
        raise ValueError(f"{file} is not {expected['bytes']} bytes long")
    batch = pyarrow.ipc.open_file(pyarrow.memory_map(str(file))).get_batch(0)
    shape = expected["shape"]
    images = np.frombuffer(batch.column(0).buffers()[1], dtype=np.uint8, count=int(np.prod(shape))).reshape(shape)
    return images, batch.column(1).to_numpy(zero_copy_only=True)


def _build(source: Source, folder: Path) -> None:
    partial = folder.with_name(folder.name + ".partial")
    for leftover in (partial, folder):  # of a crashed process, or damaged; the lock is held, so nobody is writing
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir()
    try:
        mean, std, train = _write(source, "train", partial)
        _, _, test = _write(source, "test", partial)
        (partial / _METADATA).write_text(json.dumps({"mean": mean, "std": std, "train": train, "test": test}))
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(
    source: Source, split: Literal["train", "test"], folder: Path
) -> tuple[list[float], list[float], dict[str, Any]]:
    """Write one split; return its channel means and standard deviations, and its entry in the metadata.

    The pixels go to a temporary file first: the images must be one record batch (one block of the map), which Arrow
    takes whole, and a large set does not fit in memory.
    """
    raw = folder / f"{split}.raw"
    shape = (source.size, source.size, source.channels)
    labels: list[int] = []
    with raw.open("wb") as pixels:
        for i, (image, label) in enumerate(source.train() if split == "train" else source.test()):
            if image.shape != shape or image.dtype != np.uint8:
                raise DataError(f"{split} image {i} is {image.dtype} {image.shape}, not uint8 {shape}")
            if not 0 <= label < len(source.classes):
                raise DataError(f"label {label} of {split} image {i} is not one of {len(source.classes)} classes")
            pixels.write(np.ascontiguousarray(image).data)
            labels.append(label)
    if not labels:
        raise DataError(f"no {split} images")
    images = np.memmap(raw, dtype=np.uint8, mode="r", shape=(len(labels), *shape))
    mean, std = _statistics(images)
    image_type = pyarrow.binary(int(np.prod(shape)))
    column = pyarrow.Array.from_buffers(image_type, len(labels), [None, pyarrow.py_buffer(images)])
    batch = pyarrow.record_batch([column, pyarrow.array(labels, pyarrow.int64())], names=["image", "label"])
    file = folder / f"{split}.arrow"
    with file.open("wb") as sink:
        with pyarrow.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        sink.flush()
        os.fsync(sink.fileno())  # the content must reach the disk before the rename
    raw.unlink()
    return mean, std, {"shape": list(images.shape), "bytes": file.stat().st_size}


def _statistics(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Return channel means and standard deviations in units of 0..1, from exact integer sums."""
    total = np.zeros(images.shape[3], dtype=np.uint64)
    squares = np.zeros_like(total)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        total += chunk.sum(axis=(0, 1, 2), dtype=np.uint64)
        squares += np.square(chunk, dtype=np.uint16).sum(axis=(0, 1, 2), dtype=np.uint64)  # 255 ** 2 fits
    count = images[..., 0].size
    mean = [int(t) / count for t in total]
    std = [max(int(s) / count - m * m, 0.0) ** 0.5 for s, m in zip(squares, mean, strict=True)]
    return [m / 255 for m in mean], [max(s, 1.0) / 255 for s in std]

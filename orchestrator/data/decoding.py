"""Decode image files to arrays; errors name the corrupt file."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from orchestrator.data.source import CorruptImage, Example

Item = TypeVar("Item")
Result = TypeVar("Result")

_GREY_MODES = frozenset({"1", "L", "LA"})
_WIDE_MODES = ("I", "F")  # 16 and 32 bits a channel; Pillow would clip them to 8 bits, not scale them
_CHUNK = 64


def decode(encoded: bytes | None, file: Path, row: int | None = None) -> Image.Image:
    """Return the decoded image, 8 bits a channel; raise `CorruptImage` with the file and the row for anything else."""
    if not encoded:
        raise CorruptImage(file, "no image bytes", row)
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # its message contains a memory address
        raise CorruptImage(file, "cannot identify image file", row) from error
    except Exception as error:  # Pillow's decoders raise many types
        raise CorruptImage(file, str(error) or type(error).__name__, row) from error
    if image.mode.startswith(_WIDE_MODES):
        raise CorruptImage(file, f"mode {image.mode} is not 8 bits a channel", row)
    return image


def is_grey(image: Image.Image) -> bool:
    return image.mode in _GREY_MODES


def to_array(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """Convert to height x width x channels; grey images are repeated over three channels."""
    mode = "L" if channels == 1 else "RGB"
    array = np.asarray(image if image.mode == mode else image.convert(mode), dtype=np.uint8)
    return array.reshape(image.height, image.width, channels)


def resize_and_center_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize (bilinear) so that the short side is ``size``, then take the central ``size`` x ``size``."""
    width, height = image.size
    scale = size / min(width, height)
    new_width, new_height = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (new_width - size) // 2, (new_height - size) // 2
    if image.mode == "P":  # palette indices cannot be averaged
        image = image.convert("RGB")
    return image.resize((new_width, new_height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def decode_files(files: Iterable[tuple[Path, int]], size: int) -> Iterator[Example]:
    """Iterate over labelled image files in order: colour, short side resized to ``size``, central square."""

    def example(item: tuple[Path, int]) -> Example:
        file, label = item
        try:
            encoded = file.read_bytes()
        except OSError as error:
            raise CorruptImage(file, error.strerror or str(error)) from error
        return to_array(resize_and_center_crop(decode(encoded, file).convert("RGB"), size), 3), label

    return map_in_threads(example, files)


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map`` with a thread per core, in order, with few results in memory; decoding releases the interpreter lock."""
    workers = os.cpu_count() or 1
    source = iter(items)

    def map_chunk(chunk: list[Item]) -> list[Result]:
        return [function(item) for item in chunk]

    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[list[Result]]] = deque()
        try:
            while True:
                while len(pending) <= workers and (chunk := list(islice(source, _CHUNK))):
                    pending.append(pool.submit(map_chunk, chunk))
                if not pending:
                    return
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

"""Encoded image files to arrays: one image checked, shaped and named when corrupt, and many of them in order."""

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
_WIDE_MODES = ("I", "F")  # 16 and 32 bits a channel; Pillow would clip, not scale, them to 8
_CHUNK = 64


def decode(encoded: bytes | None, file: Path, row: int | None = None) -> Image.Image:
    """A fully decoded image of 8 bits a channel; anything else raises `CorruptImage` with the file and the row."""
    if not encoded:
        raise CorruptImage(file, "no image bytes", row)
    try:
        image = Image.open(io.BytesIO(encoded))
        image.load()
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # its own message names a memory address
        raise CorruptImage(file, "cannot identify image file", row) from error
    except Exception as error:  # Pillow's decoders raise what the damage makes them raise
        raise CorruptImage(file, str(error) or type(error).__name__, row) from error
    if image.mode.startswith(_WIDE_MODES):
        raise CorruptImage(file, f"mode {image.mode} is not 8 bits a channel", row)
    return image


def is_grey(image: Image.Image) -> bool:
    return image.mode in _GREY_MODES


def pixels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    """Height x width x channels; grey repeated where colours are wanted."""
    mode = "L" if channels == 1 else "RGB"
    array = np.asarray(image if image.mode == mode else image.convert(mode), dtype=np.uint8)
    return array.reshape(image.height, image.width, channels)


def short_side_and_centre(image: Image.Image, size: int) -> Image.Image:
    """Resized (bilinear) so that the short side is ``size``, then the middle ``size`` x ``size`` of it."""
    width, height = image.size
    scale = size / min(width, height)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (wide - size) // 2, (high - size) // 2
    if image.mode == "P":  # a palette's indices cannot be averaged
        image = image.convert("RGB")
    return image.resize((wide, high), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def decoded_files(files: Iterable[tuple[Path, int]], size: int) -> Iterator[Example]:
    """Image files with their labels, in order: colour, short side to ``size``, middle square."""

    def example(item: tuple[Path, int]) -> Example:
        file, label = item
        try:
            encoded = file.read_bytes()
        except OSError as error:
            raise CorruptImage(file, error.strerror or str(error)) from error
        return pixels(short_side_and_centre(decode(encoded, file).convert("RGB"), size), 3), label

    return in_order(example, files)


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map`` by a thread per core; decoding releases the interpreter, and few results wait at a time."""
    workers = os.cpu_count() or 1
    source = iter(items)

    def of_chunk(chunk: list[Item]) -> list[Result]:
        return [function(item) for item in chunk]

    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[list[Result]]] = deque()
        try:
            while True:
                while len(waiting) <= workers and (chunk := list(islice(source, _CHUNK))):
                    waiting.append(pool.submit(of_chunk, chunk))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
